"""Where decoded frames belong in time.

Time stays true: where timestamps say that the recorder paused, or that the sound of a film begins late, silence is
to be put, so that a second of the decoded audio is a second of the original. Timestamps can be wrong, too, and they
jitter; so small differences are ignored, and a jump is believed only when several frames in a row agree on it.
"""

from __future__ import annotations

from typing import Final

from av.audio.frame import AudioFrame

TOLERANCE: Final = 0.1
"""Seconds that timestamps may be off before time is corrected. Live recorders jitter by some hundredths."""
WITNESSES: Final = 5
"""Frames that must agree on a jump; they are held back until then."""

Placed = list[tuple[float | None, AudioFrame]]
"""Frames in order, each with the second at which it begins where silence comes before it."""


class Clock:
    """Time by the frames' timestamps, as far as they are to be believed.

    start: the timestamp with which time begins; None: that of the first frame.
    counted: timestamps only count frames, so that they show no gaps; what was lost comes from `miss`.
    now: seconds so far. silence: those of them for which there is no sound.

    After a jump forward comes silence. After a jump back, as where recordings were joined, time simply goes on.
    """

    def __init__(self, start: float | None, *, counted: bool) -> None:
        self.now = 0.0
        self.silence = 0.0
        self._counted = counted
        self._start = start
        self._missed = 0.0
        self._jump = 0.0
        self._held: list[tuple[AudioFrame, float]] = []
        self._held_seconds = 0.0

    def runs_on(self, frame: AudioFrame) -> bool:
        """Whether the frame simply follows; time then goes on behind it. Else `place` it."""
        if not self._held and -TOLERANCE <= self._jump_to(frame) <= TOLERANCE:
            self.now += frame.samples / frame.sample_rate
            return True
        return False

    def place(self, frame: AudioFrame) -> Placed:
        """Frames that are next, now that this one has come: none while they are held back."""
        placed: Placed = []
        if self._held and abs(self._jump_to(frame) - self._jump) > TOLERANCE:
            placed = self._release(believed=False)  # it contradicts the frames that were held back
            if self.runs_on(frame):
                return [*placed, (None, frame)]
        if not self._held:
            self._jump = self._jump_to(frame)
        seconds = frame.samples / frame.sample_rate
        self._held.append((frame, seconds))
        self._held_seconds += seconds
        if self._counted or len(self._held) == WITNESSES:
            placed += self._release(believed=True)
        return placed

    def miss(self, seconds: float) -> None:
        """So much was lost before the next frame. Counts only where timestamps do not tell."""
        self._missed += seconds

    def rest(self) -> Placed:
        """Frames that are still held back at the end; too few to believe them a jump."""
        return self._release(believed=False)

    def _jump_to(self, frame: AudioFrame) -> float:
        """Seconds by which a frame is ahead of where it would begin if it simply followed."""
        if self._counted:
            return self._missed
        timestamp = frame.time
        if timestamp is None:
            return self._jump if self._held else 0.0
        if self._start is None:
            self._start = timestamp
        return timestamp - self._start - self.now - self._held_seconds

    def _release(self, *, believed: bool) -> Placed:
        start = None
        if believed and self._jump > 0:
            self.now += self._jump
            self.silence += self._jump
            self._missed = 0.0
            start = self.now
        elif believed and self._start is not None:
            self._start += self._jump
        held, self._held, self._held_seconds = self._held, [], 0.0
        self.now += sum(seconds for _, seconds in held)
        return [(None if place else start, frame) for place, (frame, _) in enumerate(held)]
