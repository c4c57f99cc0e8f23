"""Which of several servers gets a clip: by outstanding audio and measured pace, around those that fail.

    connecting ─► up ─ connection lost, three failures in a row, no sign of life ─► down ─ a probe recognises ─► up
                  └─────────────── no longer named ─────────────────► leaving, until its last call is done
    drained: takes no new calls, whatever its state

A clip goes where it can be expected to be through first: what is outstanding there, in seconds of audio, times the pace
at which the server answered lately. A call that stays silent for much longer than is usual is moved to another server
while one has room; how often, is bounded.

Other instances of this service that use the same servers are known only by the pace, which includes the waiting that
they cause. That is enough: two instances on two servers, one three times slower, had 0.91 to 0.99 of the throughput of
both together, and 0.93 to 0.96 when each was told at every moment what the other one had outstanding, with the same
waiting times (24 and 8 callers, equal and mixed lengths). So nobody asks servers for their load.

Nothing here knows how servers are spoken to (`wire`) or who finds out
how they are (`fleet`). Everything happens in one event loop.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from math import exp, inf
from typing import Literal, TypeVar

log = logging.getLogger(__name__)

State = Literal["connecting", "up", "down", "leaving"]

OVERHEAD = 1.0
"""Seconds of audio that a clip counts for beside its own: short clips cost more than their length."""
FAILURES = 3
"""So many failed calls in a row and a server is down."""
FIRST_PROBE, LAST_PROBE = 1.0, 30.0
"""Seconds until a server that is down is probed: the first time, doubled each time up to the last."""
STEADY = 30.0
"""Seconds after which a server that has come up is no longer taken for one that comes and goes."""
REST = 1.0
"""Seconds that a server which says that it is busy is left alone."""
SMOOTH = 0.2
"""How much the newest call counts in what is measured."""
FORGET = 30.0
"""Seconds after which a pace that was not measured again counts a third (1/e) as much."""
SILENT, SILENCES = 2.0, 4.0
"""A call is too slow when it is silent for so many seconds, and for so many times what is usual."""
MOVES, MOVES_EARNED = 8.0, 0.1
"""Calls that may be moved for being slow, in store at most; and how many each answered call adds."""

T = TypeVar("T")


class NoneUp(Exception):
    """No server can take a call."""


class Moved(Exception):
    """A call was taken off its server."""


@dataclass(eq=False, slots=True)
class Call:
    """One clip at one server.

    seconds: what it counts for. ahead: what was outstanding there when it began, itself included.
    waiting: since when for what comes next (monotonic). fit: whether a server can do what it asks for.
    silence: the longest time without anything, so far.
    """

    upstream: Upstream
    seconds: float
    ahead: float
    began: float
    waiting: float
    fit: Callable[[Upstream], bool]
    silence: float = 0.0
    moved: bool = False
    _scope: asyncio.Timeout | None = None

    async def wait(self, coming: Callable[[], Awaitable[T]], limit: float) -> T:
        """What comes next from the server. Raises TimeoutError past `limit` seconds, Moved when it was moved."""
        if self.moved:
            raise Moved
        self.waiting = time.monotonic()
        try:
            async with asyncio.timeout(limit) as self._scope:
                came = await coming()
            self.upstream.heard = time.monotonic()
            return came
        except TimeoutError:
            if self.moved:
                raise Moved from None
            raise
        finally:
            self._scope = None
            self.silence = max(self.silence, time.monotonic() - self.waiting)

    @property
    def quiet(self) -> float:
        """For how long it has waited for the server."""
        return time.monotonic() - self.waiting if self._scope else 0.0

    def move(self) -> None:
        """Take it off its server; whoever waits gets Moved."""
        self.upstream.moved += not self.moved
        self.moved = True
        if self._scope and not self._scope.expired():
            self._scope.reschedule(asyncio.get_running_loop().time())


@dataclass(eq=False, slots=True)
class Upstream:
    """One server.

    name: for the operator. reason: why it is not up, in words. since: when it came to be in its state (monotonic).
    again: when it is to be probed (monotonic). drained: whether it gets no new calls. pace: seconds that a second of
    audio takes there, waiting included. stillness: the longest silence in a call, per second of audio that was
    outstanding. Both as measured lately. heard: when a call last got something from it. failures: failed calls in a
    row. downs: how often it went down lately. audio, failed, moved: as of `servers.Server`.
    """

    name: str
    state: State = "connecting"
    reason: str | None = None
    since: float = field(default_factory=time.monotonic)
    again: float = 0.0
    drained: bool = False
    calls: dict[Call, None] = field(default_factory=dict)
    pace: float = 0.0
    stillness: float = 0.0
    measured: float = 0.0
    heard: float = 0.0
    resting: float = 0.0
    failures: int = 0
    downs: int = 0
    audio: float = 0.0
    failed: int = 0
    moved: int = 0

    def turn(self, state: State, reason: str | None = None) -> None:
        """Be in another state, or in the same for another reason."""
        if state != self.state:
            self.since = time.monotonic()
        self.state, self.reason = state, reason

    @property
    def outstanding(self) -> float:
        """Seconds of audio that it works on."""
        return sum(call.seconds for call in self.calls)

    def expected(self, now: float, best: float) -> float:
        """The pace that can be expected: as measured, nearer the best of all the longer ago, or worse if it hangs."""
        pace = best + (self.pace - best) * exp(-(now - self.measured) / FORGET)
        oldest = next(iter(self.calls), None)
        return max(pace, (now - oldest.began) / oldest.ahead) if oldest else pace


class Upstreams:
    """All servers of one model. width: calls that each works on side by side."""

    def __init__(self, width: int) -> None:
        self.width = width
        self.all: dict[object, Upstream] = {}
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._moves = MOVES

    @property
    def up(self) -> list[Upstream]:
        """Those that take calls."""
        return [upstream for upstream in self.all.values() if upstream.state == "up" and not upstream.drained]

    @asynccontextmanager
    async def call(
        self, seconds: float, tried: set[Upstream], patience: float, fit: Callable[[Upstream], bool] = lambda _: True
    ) -> AsyncIterator[Call]:
        """A place for a clip at one of the servers, for as long as the block lasts.

        seconds: of audio. tried: servers on which it failed, which are taken when there are no others.
        patience: how long to wait while no server is up, in seconds. Raises NoneUp after that.
        fit: whether a server can do what is asked; the others are as if they were down.
        """
        seconds += OVERHEAD
        upstream = await self._place(seconds, tried, patience, fit)
        now = time.monotonic()
        call = Call(upstream, seconds, upstream.outstanding + seconds, now, now, fit)
        upstream.calls[call] = None
        try:
            yield call
        finally:
            del upstream.calls[call]
            self.changed()

    def answered(self, call: Call) -> None:
        """A call was answered well."""
        now = time.monotonic()
        call.upstream.failures = 0
        call.upstream.audio += call.seconds - OVERHEAD
        self._moves = min(MOVES, self._moves + MOVES_EARNED)
        self.measure(call.upstream, (now - call.began) / call.seconds, call.silence / call.ahead)

    def measure(self, upstream: Upstream, pace: float, stillness: float) -> None:
        """Note how fast a server answered; see `Upstream`."""
        share = SMOOTH if upstream.measured else 1.0
        upstream.pace += share * (pace - upstream.pace)
        upstream.stillness += share * (stillness - upstream.stillness)
        upstream.measured = time.monotonic()

    def failed(self, call: Call, reason: str, *, gone: bool = False) -> None:
        """A call failed through its server's fault. gone: the server cannot be used any more, whoever calls."""
        upstream = call.upstream
        upstream.failed += 1
        upstream.failures += 1
        if not gone:
            log.warning("upstream failed", extra={"upstream": upstream.name, "reason": reason})
        if gone or upstream.failures >= FAILURES:
            self.lose(upstream, reason)

    def rest(self, upstream: Upstream) -> None:
        """A server says that it is busy: leave it alone for a moment."""
        upstream.resting = time.monotonic() + REST
        asyncio.get_running_loop().call_later(REST, self.changed)

    def gain(self, upstream: Upstream) -> None:
        """A server can take calls."""
        if upstream.state == "leaving":
            return
        log.info("upstream up", extra={"upstream": upstream.name})
        upstream.turn("up")
        upstream.failures = 0
        self.changed()

    def lose(self, upstream: Upstream, reason: str) -> None:
        """A server cannot take calls. Those that it has go to others, where there are any."""
        now = time.monotonic()
        if upstream.state == "leaving" or (upstream.state == "down" and now < upstream.again):
            return  # in the latter case one of several calls that failed together, which tells nothing new
        if upstream.state == "up" and now - upstream.since > STEADY:
            upstream.downs = 0
        if upstream.state != "down" or upstream.reason != reason:
            level = logging.WARNING if upstream.drained else logging.ERROR
            log.log(level, "upstream down", extra={"upstream": upstream.name, "reason": reason})
        upstream.turn("down", reason)
        upstream.again = now + min(FIRST_PROBE * 2**upstream.downs, LAST_PROBE)
        upstream.downs = min(upstream.downs + 1, 10)
        self.move_slow()
        self.changed()

    def move_slow(self) -> None:
        """Move calls off servers that are down, and those that are silent for too long, while others have room."""
        for upstream in self.all.values():
            if upstream.state == "down" and self.up:
                for call in upstream.calls:
                    call.move()
        for upstream in [upstream for upstream in self.all.values() if upstream.state == "up"]:
            others = [other for other in self.up if other is not upstream and len(other.calls) < self.width]
            for call in [call for call in upstream.calls if others and not call.moved]:
                too_quiet = call.quiet > max(SILENT, SILENCES * upstream.stillness * call.ahead)
                if self._moves >= 1 and too_quiet and any(map(call.fit, others)):
                    self._moves -= 1
                    call.move()

    def changed(self) -> None:
        """Let those who wait look again, in the order in which they came."""
        for waiting in self._waiting:
            if not waiting.done():
                waiting.set_result(None)

    async def _place(
        self, seconds: float, tried: set[Upstream], patience: float, fit: Callable[[Upstream], bool]
    ) -> Upstream:
        loop = asyncio.get_running_loop()
        lonely = None if self._able(fit) else loop.time()
        mine: asyncio.Future[None] | None = None
        try:
            while True:
                if (mine or not self._waiting) and (found := self._best(seconds, tried, fit)):
                    return found
                if mine is None or mine.done():
                    mine = self._stand(mine)
                if self._able(fit):
                    lonely = None
                    await mine
                    continue
                lonely = lonely or loop.time()
                left = lonely + patience - loop.time()
                await asyncio.wait({mine}, timeout=max(0.0, left))
                if left <= 0 and not self._able(fit):
                    raise NoneUp
        finally:
            if mine:
                self._waiting.remove(mine)
                self.changed()

    def _stand(self, old: asyncio.Future[None] | None) -> asyncio.Future[None]:
        """A place in the queue: the last, or the one that was held before."""
        new = asyncio.get_running_loop().create_future()
        if old is None:
            self._waiting.append(new)
            self.changed()  # who came before looks once more, and then this one
        else:
            self._waiting[self._waiting.index(old)] = new
        return new

    def _able(self, fit: Callable[[Upstream], bool]) -> list[Upstream]:
        """Those that take calls and can do what is asked."""
        return [upstream for upstream in self.up if fit(upstream)]

    def _best(self, seconds: float, tried: set[Upstream], fit: Callable[[Upstream], bool]) -> Upstream | None:
        """Where a clip is through first, of the servers that have room for it."""
        now = time.monotonic()
        up = [upstream for upstream in self._able(fit) if upstream.resting <= now]
        fresh = [upstream for upstream in up if upstream not in tried] or up
        free = [upstream for upstream in fresh if len(upstream.calls) < self.width]
        best = min((upstream.pace for upstream in up), default=inf)
        return min(free, key=lambda each: each.expected(now, best) * (each.outstanding + seconds), default=None)
