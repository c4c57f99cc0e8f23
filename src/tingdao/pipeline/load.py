"""How much audio waits to be recognised, how fast it goes, and so how long a newcomer would wait."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

MEMORY = 60.0
"""Seconds of work after which what was measured counts a third (1/e) as much."""
CLIP = 30.0
"""Seconds of audio of which every recording gets one turn before a newcomer's clip ends (see `tingdao.turns`)."""
ENOUGH = 20.0
"""Seconds of audio that must have been recognised before the speed is believed."""


@dataclass(slots=True)
class Recording:
    """A recording in work. done, total: seconds; the total grows while it is decoded."""

    done: float = 0.0
    total: float = 0.0

    @property
    def left(self) -> float:
        """Seconds that are still to be recognised, as far as is known."""
        return max(0.0, self.total - self.done)


class Load:
    """The recordings in work. Used from one event loop.

    full: whether a clip that came now would wait. What an engine does with less than it can take side by side says
    nothing of its speed.
    """

    def __init__(self, full: Callable[[], bool], clock: Callable[[], float] = time.monotonic) -> None:
        self._full = full
        self._clock = clock
        self._in_work: dict[int, Recording] = {}
        self._heard = 0.0
        self._audio = 0.0
        self._busy = 0.0
        self._since = clock()
        self._was_full = False

    @contextmanager
    def recording(self) -> Iterator[Recording]:
        """Count a recording as in work within the block; report how far it is with `progress`."""
        mine = Recording()
        self._measure(0.0)
        self._in_work[id(mine)] = mine
        try:
            yield mine
        finally:
            self._measure(0.0)
            del self._in_work[id(mine)]

    def progress(self, recording: Recording, done: float, total: float) -> None:
        """Note how far a recording is, in seconds."""
        self._measure(max(0.0, done - recording.done))
        recording.done, recording.total = done, total

    @property
    def seconds(self) -> float:
        """Audio that is still to be recognised, as far as is known."""
        return sum(each.left for each in self._in_work.values())

    @property
    def speed(self) -> float | None:
        """Seconds of audio recognised per second at full work lately; None before it was measured."""
        return self._audio / self._busy if self._heard >= ENOUGH and self._busy > 0 else None

    @property
    def wait(self) -> float:
        """Seconds until a clip that came now would be recognised; 0 while nothing waits or the speed is not known."""
        speed = self.speed
        if not speed or not self._full():
            return 0.0
        return sum(min(each.left, CLIP) for each in self._in_work.values()) / speed

    def time_for(self, audio: float) -> float:
        """Seconds that so much audio takes; 0 while the speed is not known."""
        return audio / self.speed if self.speed else 0.0

    def _measure(self, audio: float) -> None:
        now = self._clock()
        if self._was_full and self._in_work:
            passed = now - self._since
            fade = math.exp(-passed / MEMORY)
            self._audio, self._busy = self._audio * fade + audio, self._busy * fade + passed
            self._heard += audio
        self._since = now
        self._was_full = self._full()
