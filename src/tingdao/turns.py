"""Whose turn it is next, where more wait than can be served at once: clips at an engine, recordings at the decoder.

What waits, waits here and not behind, where the order could no longer be changed. A turn goes to the caller who has
been served the least while others waited, and among this caller's recordings to the one that has been served the
least, the first to come among equals: a short recording does not wait for an hours-long one to end, a caller with a
hundred recordings does not keep out one with a single one, and nobody waits for ever. This is weighted fair queueing
(Demers, Keshav, Shenker 1989) on two levels, by start tags, with the cost of a turn in whatever unit the user chooses.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from weakref import WeakValueDictionary

from tingdao.observe import during


class Turns:
    """The turns at one place. Used from one event loop.

    width: how many turns there are at once.
    """

    def __init__(self, width: int) -> None:
        self._width = self._free = width
        self._callers: WeakValueDictionary[str, _Caller] = WeakValueDictionary()
        # A dict, as it keeps the order: the first to come is the first among equals.
        self._waiting: dict[_Caller, None] = {}
        self._now = 0.0

    @property
    def waiting(self) -> int:
        """How many wait for their turn."""
        return sum(len(lane.waiting) for caller in self._waiting for lane in caller.waiting)

    def resize(self, width: int) -> None:
        """Say anew how many turns there are at once; those that were given are not taken back."""
        self._free += width - self._width
        self._width = width
        self._give()

    def lane(self, caller: str) -> Lane:
        """A lane for the turns of one recording. caller: the name that is treated fairly."""
        known = self._callers.get(caller)
        if known is None:
            known = self._callers[caller] = _Caller(self._now)
        return Lane(self, known)

    def join(self, lane: Lane) -> None:
        """A lane has something that waits."""
        caller = lane.caller
        # Who had nothing waiting for a while has not saved up turns.
        if caller not in self._waiting:
            caller.served = max(caller.served, self._now)
            self._waiting[caller] = None
        if lane not in caller.waiting:
            lane.served = max(lane.served, caller.now)
            caller.waiting[lane] = None
        self._give()

    def free(self) -> None:
        """A turn is over."""
        self._free += 1
        self._give()

    def _give(self) -> None:
        """Give turns while there are free ones and anybody waits."""
        while self._free > 0 and self._waiting:
            caller = min(self._waiting, key=lambda each: each.served)
            lane = min(caller.waiting, key=lambda each: each.served)
            callers, lanes = len(self._waiting), len(caller.waiting)
            cost, turn = lane.waiting.popleft()
            if not lane.waiting:
                del caller.waiting[lane]
            if not caller.waiting:
                del self._waiting[caller]
            if turn.done():  # whoever waited has left
                continue
            self._free -= 1
            # The clock goes on as if all that wait were served evenly. So whoever comes later is later, and a recording
            # that has had much is not passed by an endless row of new ones.
            self._now += cost / callers
            caller.now += cost / lanes
            caller.served += cost
            lane.served += cost
            turn.set_result(None)


class _Caller:
    """Somebody who sends recordings.

    served: the cost of all turns so far, counted from when it began to wait. now: the clock among its lanes.
    """

    def __init__(self, served: float) -> None:
        self.served = served
        self.now = 0.0
        self.waiting: dict[Lane, None] = {}


class Lane:
    """The turns of one recording, in their order."""

    def __init__(self, turns: Turns, caller: _Caller) -> None:
        self.caller = caller
        self.served = 0.0
        self.waiting: deque[tuple[float, asyncio.Future[None]]] = deque()
        self._turns = turns

    async def take(self, cost: float) -> None:
        """Wait for a turn, which `give_back` ends. Cancelling the wait gives the place up."""
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.waiting.append((cost, turn))
        self._turns.join(self)
        try:
            with during("queue"):
                await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():  # it was given in the same moment
                self._turns.free()
            raise

    def give_back(self) -> None:
        """End a turn that was taken."""
        self._turns.free()

    @asynccontextmanager
    async def turn(self, cost: float) -> AsyncIterator[None]:
        """A turn within the block."""
        await self.take(cost)
        try:
            yield
        finally:
            self.give_back()
