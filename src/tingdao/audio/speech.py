"""Voice activity: a recording, while it is still being decoded -> clips of speech that an engine can take.

    samples ─ audio.silero ─ probability of speech every 32 ms
            ─ spans: stretches of speech, between pauses of at least 0.2 s
            ─ clips: neighbouring spans with up to 2 s between them, cut in a pause before the limit

A clip is a contiguous range of the recording: a time in the clip plus the clip's start is a time in the recording.
Clips come in order, never overlap, and never carry a longer silence, in which models hear voices. A sound alone
that is too short to be a word is no clip; beside speech it is part of one.

This module does not know how audio is decoded, or what is said in it.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from tingdao.audio.silero import FRAME, Listener, Silero
from tingdao.cores import on_core
from tingdao.settings import AudioSettings
from tingdao.types import SAMPLE_RATE

HYSTERESIS = 0.15
"""Speech begins at the threshold and ends this far below it."""
REACH = 16
"""Frames (0.5 s) that a run of speech may reach back to where it began to be likely, after twice as long without:
in a silence after speech the detector grows slow, and needs several frames to be sure."""
REACHED = 0.1
"""Probability that a frame must have for that."""
MIN_PAUSE = 3_200
"""Samples (0.2 s) without speech from which on two spans are two; within a word there is less."""
MAX_PAUSE = 32_000
"""Samples (2 s) without speech that a clip may carry; longer ones end it."""
MIN_SPAN = 3 * FRAME
"""Samples (0.1 s) that a span must last."""
MIN_EVIDENCE = 4.0
"""Sum of the probabilities, frame by frame, that a clip must have: 0.13 s of certain speech. A short word has more;
a click, or a hum that sets in, has less."""
PADDING = 4_800
"""Samples (0.3 s) kept around speech, for soft beginnings and ends."""
MAX_SEARCH = 160_000
"""Samples (10 s) before the limit that are read to find the quietest moment."""
STEP = 512 * FRAME
"""Samples (16 s) that one step on a thread works through, in about 10 ms."""

Floats = NDArray[np.float32]


class Samples(Protocol):
    """A recording that may still be growing: mono at 16 kHz."""

    async def wait_for(self, samples: int) -> int:
        """Wait until that many are ready, or the recording is complete; return how many are ready."""
        ...

    def read(self, start: int, end: int) -> Floats:
        """Return the samples from start to end, float32, shape (end - start,)."""
        ...


@dataclass(frozen=True, slots=True)
class Span:
    """A stretch of speech, in samples of the recording, without padding."""

    start: int
    end: int


@dataclass(frozen=True, slots=True)
class ClipSpan:
    """Where a clip lies, in samples of the recording, and the speech in it."""

    start: int
    end: int
    speech: tuple[Span, ...]

    @property
    def speech_seconds(self) -> float:
        """How much of the clip is speech."""
        return sum(part.end - part.start for part in self.speech) / SAMPLE_RATE


class SpeechDetector:
    """The loaded model with its threshold, shared by all recordings; thread-safe.

    Raises SetupError when the model is missing.
    """

    def __init__(self, settings: AudioSettings) -> None:
        self.threshold = settings.speech_threshold
        self._silero = Silero()

    def listen(self) -> Listener:
        """Start on a recording."""
        return self._silero.listen()


async def clips(recording: Samples, detector: SpeechDetector, limit_s: float) -> AsyncGenerator[ClipSpan, None]:
    """Yield the clips of a recording in order, each as soon as it is certain.

    limit_s: longest clip, in seconds; at least 2. The work is done on a thread, in steps of about 10 ms, and
    memory does not grow with the recording. Raises what waiting for the recording and reading it raise.
    """
    listener = detector.listen()
    cutter = Cutter(detector.threshold, round(limit_s * SAMPLE_RATE), recording)

    def work(start: int, end: int) -> list[ClipSpan]:
        found = list(cutter.add(listener.hear(recording.read(start, end))))
        if end - start < STEP:
            found += [*cutter.add(listener.end()), *cutter.end(end)]
        return found

    done, last = 0, False
    while not last:
        end = min(await recording.wait_for(done + STEP), done + STEP)
        last = end < done + STEP
        for clip in await on_core(work, done, end):
            yield clip
        done = end


class Cutter:
    """Turns the speech probabilities of one recording into clips of at most `limit` samples.

    A clip ends with the last speech before a silence that is too long to carry. Where speech goes on past the
    limit, the clip is cut, best choice first: in the longest pause of its second half; at the least likely
    moment there, if that is no speech; in the longest pause of its first half; at the quietest moment of its
    second half. However the probabilities come in pieces, the clips are the same.
    """

    def __init__(self, threshold: float, limit: int, recording: Samples) -> None:
        assert limit >= 2 * SAMPLE_RATE, "a clip must have room for a pause and speech on both sides"
        self._begin, self._stop = threshold, max(threshold - HYSTERESIS, threshold / 2)
        self._limit = limit
        self._recording = recording
        self._speaking = False
        self._run_end = 0  # of the last run of speech, in frames from the next probability on
        self._spans: list[Span] = []  # not yet in a clip
        self._kept = np.empty(0, np.float32)  # probabilities from the first of these spans to now
        self._heard = 0  # samples that `add` has had the probabilities of
        self._last_end = -2 * MAX_PAUSE  # of the last clip; at first out of earshot

    def add(self, probabilities: Floats) -> Iterator[ClipSpan]:
        """Take the probabilities of the next frames, shape (frames,); yield the clips now certain."""
        for start, end in self._runs(probabilities):
            self._join(Span(self._heard + start * FRAME, self._heard + end * FRAME))
        self._heard += len(probabilities) * FRAME
        self._kept = np.concatenate((self._kept, probabilities))
        yield from self._settle()
        needed = (self._heard - self._spans[0].start) // FRAME if self._spans else 0
        self._kept = self._kept[-max(needed, REACH) :]

    def end(self, samples: int) -> Iterator[ClipSpan]:
        """Yield the clips that are left. samples: length of the recording."""
        if self._spans:
            self._spans[-1] = Span(self._spans[-1].start, min(self._spans[-1].end, samples))
        yield from self._settle(total=samples)

    def _runs(self, probabilities: Floats) -> list[tuple[int, int]]:
        """Find where speech goes on, with hysteresis, as (start, end) in frames."""
        said = np.where(probabilities >= self._begin, 1, np.where(probabilities < self._stop, 0, -1))
        said = np.concatenate(([int(self._speaking)], said))
        decided = np.maximum.accumulate(np.where(said >= 0, np.arange(len(said)), 0))
        speaking = said[decided]
        self._speaking = bool(speaking[-1])
        edges = np.flatnonzero(np.diff(speaking[1:], prepend=0, append=0))
        likely = np.concatenate((self._kept[-REACH:], probabilities)) >= REACHED
        runs = []
        for start, end in edges.reshape(-1, 2).tolist():
            if start - self._run_end >= 2 * REACH:
                here = start + len(likely) - len(probabilities)
                unlikely = np.flatnonzero(~likely[max(here - REACH, 0) : here][::-1])
                start -= int(unlikely[0]) if len(unlikely) else min(REACH, here)
            runs.append((start, end))
            self._run_end = end
        self._run_end -= len(probabilities)
        return runs

    def _join(self, run: Span) -> None:
        """Add a run of speech to the span before it, or make it one; forget a span that stayed too short."""
        if self._spans and run.start - self._spans[-1].end < MIN_PAUSE:
            run = Span(self._spans.pop().start, run.end)
        elif self._spans and _length(self._spans[-1]) < MIN_SPAN:
            self._spans.pop()
        self._spans.append(run)

    def _settle(self, total: int | None = None) -> Iterator[ClipSpan]:
        """Yield and forget the clips that later speech cannot change: all, if the recording ended at `total`."""
        spans, quiet_until, unsure = self._spans, self._heard, []
        if spans and _length(spans[-1]) < MIN_SPAN:
            short = spans.pop()
            if total is None and self._heard - short.end < MIN_PAUSE:  # it may still grow
                unsure, quiet_until = [short], short.start
        while spans:
            joined = 1
            while joined < len(spans) and spans[joined].start - spans[joined - 1].end <= MAX_PAUSE:
                joined += 1
            start, end = max(spans[0].start - PADDING, self._last_end, 0), spans[joined - 1].end
            if end > start + self._limit:
                joined = self._divide(start, joined)
            elif total is None and joined == len(spans) and quiet_until - end <= MAX_PAUSE:
                break
            speech, spans[:joined] = tuple(spans[:joined]), []
            alone = speech[0].start - self._last_end > MAX_PAUSE
            if not alone or sum(self._evidence(span) for span in speech) >= MIN_EVIDENCE:
                end = speech[-1].end
                room = (spans[0].start - end) // 2 if spans else PADDING
                end = min(end + min(room, PADDING), start + self._limit, self._heard if total is None else total)
                yield ClipSpan(start, end, speech)
                self._last_end = end
        spans += unsure

    def _evidence(self, span: Span) -> float:
        return float(self._kept[self._place(span.start) : self._place(span.end)].sum())

    def _place(self, sample: int) -> int:
        """Find where the probability of the frame with this sample is kept."""
        return len(self._kept) - (self._heard - sample) // FRAME

    def _divide(self, start: int, joined: int) -> int:
        """Choose where to cut the first `joined` spans, which go past the limit from `start` on.

        Return how many spans lie before the cut. A span that the cut falls into is split in two.
        """
        spans = self._spans
        # What follows a cut is at least a sixteenth of the limit, for a snippet is hard to recognise.
        middle, latest = start + self._limit // 2, start + self._limit * 15 // 16
        pauses = [
            (spans[index].start - spans[index - 1].end, index)
            for index in range(1, joined)
            if spans[index - 1].end <= latest
        ]
        late = [(length, index) for length, index in pauses if spans[index].start > middle]
        if late:
            return max(late)[1]
        # Now all from the middle on is one span, with no pause worth the name.
        cut = self._least_likely(middle, latest)
        if cut is None and pauses:
            return max(pauses)[1]
        if cut is None:
            cut = self._quietest(max(middle, latest - MAX_SEARCH), latest)
        index = next(index for index, span in enumerate(spans) if span.end > cut)
        spans[index : index + 1] = [Span(spans[index].start, cut), Span(cut, spans[index].end)]
        return index + 1

    def _least_likely(self, start: int, end: int) -> int | None:
        """Find the centre of the least likely 0.16 s of speech whose centre is no speech, or None."""
        beside, first, last = 2, self._place(start), self._place(end)
        around = np.convolve(self._kept[first - beside : last + beside], np.ones(2 * beside + 1), "valid")
        around[self._kept[first:last] >= self._stop] = np.inf
        best = int(np.argmin(around))
        if around[best] == np.inf:
            return None
        return self._heard - (len(self._kept) - first - best) * FRAME + FRAME // 2

    def _quietest(self, start: int, end: int) -> int:
        """Find the centre of the quietest 50 ms."""
        block, blocks = SAMPLE_RATE // 100, 5
        samples = self._recording.read(start, end)
        samples = samples[: len(samples) // block * block].reshape(-1, block)
        energy = np.convolve(np.einsum("ij,ij->i", samples, samples), np.ones(blocks), "valid")
        return start + int(np.argmin(energy)) * block + block * blocks // 2


def _length(span: Span) -> int:
    return span.end - span.start
