"""Whose clip is recognised next.

An engine works on `width` clips side by side. Everything beyond that waits here, not in the engine, where the order
could no longer be changed. A turn goes to the caller who has had the least audio recognised while others waited, and
among this caller's recordings to the one that has had the least: a short recording does not wait for an hours-long one
to end, and a caller with a hundred recordings does not keep out one with a single one. This is start-time fair queueing
(Goyal, Vin, Cheng 1996) on two levels, with seconds of audio as the cost.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from weakref import WeakValueDictionary

AHEAD = 8
"""One clip in `AHEAD` (at least one) goes to the engine beyond its width, so that it never waits for the next."""


class Turns:
    """The turns at one engine. Used from one event loop.

    width: how many clips the engine works on side by side.
    """

    def __init__(self, width: int) -> None:
        self._free = width + max(1, width // AHEAD)
        self._callers: WeakValueDictionary[str, _Caller] = WeakValueDictionary()
        self._waiting: set[_Caller] = set()
        self._now = 0.0

    @property
    def waiting(self) -> int:
        """How many clips wait for their turn."""
        return sum(len(lane.clips) for caller in self._waiting for lane in caller.waiting)

    def lane(self, caller: str) -> Lane:
        """A lane for the clips of one recording. caller: the name that is treated fairly."""
        known = self._callers.get(caller)
        if known is None:
            known = self._callers[caller] = _Caller(self._now)
        return Lane(self, known)

    def join(self, lane: Lane) -> None:
        """A lane has a clip that waits."""
        caller = lane.caller
        # Who had nothing waiting for a while has not saved up turns.
        if caller not in self._waiting:
            caller.served = max(caller.served, self._now)
            self._waiting.add(caller)
        if lane not in caller.waiting:
            lane.served = max(lane.served, caller.now)
            caller.waiting.add(lane)
        self._give()

    def free(self) -> None:
        """A turn is over."""
        self._free += 1
        self._give()

    def _give(self) -> None:
        """Give turns while there are free ones and anybody waits."""
        while self._free and self._waiting:
            caller = min(self._waiting, key=lambda each: each.served)
            lane = min(caller.waiting, key=lambda each: each.served)
            seconds, turn = lane.clips.popleft()
            if not lane.clips:
                caller.waiting.remove(lane)
            if not caller.waiting:
                self._waiting.remove(caller)
            if turn.done():  # whoever waited has left
                continue
            self._free -= 1
            self._now, caller.now = caller.served, lane.served
            caller.served += seconds
            lane.served += seconds
            turn.set_result(None)


class _Caller:
    """Somebody who sends recordings.

    served: seconds of audio that had their turn. now: the same of the lane that was served last.
    """

    def __init__(self, served: float) -> None:
        self.served = served
        self.now = 0.0
        self.waiting: set[Lane] = set()


class Lane:
    """The clips of one recording, in their order."""

    def __init__(self, turns: Turns, caller: _Caller) -> None:
        self.caller = caller
        self.served = 0.0
        self.clips: deque[tuple[float, asyncio.Future[None]]] = deque()
        self._turns = turns

    @asynccontextmanager
    async def turn(self, seconds: float) -> AsyncIterator[None]:
        """Wait for a turn, and hold it within the block. seconds: of audio in the clip.

        Cancelling the wait gives the place up.
        """
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.clips.append((seconds, turn))
        self._turns.join(self)
        try:
            await turn
            yield
        finally:
            # A turn that was given is given back, also when the wait for it was cancelled in the same moment.
            if turn.done() and not turn.cancelled():
                self._turns.free()
