"""What an engine heard in one clip → segments in the recording's own time, repaired.

Two parties know times: the engine, in words but coarsely, and the speech detector, to some 30 ms but without words.
A segment's start that the engine puts into silence is moved to where speech begins, its end to where speech ended;
engines tend to begin a segment with the clip, or with the end of the one before.
"""

from __future__ import annotations

from dataclasses import replace

from tingdao.audio.speech import ClipSpan
from tingdao.engines.base import Recognition
from tingdao.pipeline.repair import LOOPED, collapse_loops
from tingdao.types import SAMPLE_RATE, Segment, Word

FRAMES_PER_SECOND = 100  # of `Evidence.seek`


def segments_of(span: ClipSpan, recognition: Recognition) -> list[Segment]:
    """The segments of a clip, in order; without text, none."""
    offset = span.start / SAMPLE_RATE
    speech = [(part.start / SAMPLE_RATE, part.end / SAMPLE_RATE) for part in span.speech]
    if recognition.segments:
        heard = [_snapped(_shifted(segment, offset), speech) for segment in recognition.segments]
    else:
        # The engine knows no times: the speech that the detector saw in the clip bounds the text.
        heard = [Segment(recognition.text, speech[0][0], speech[-1][1], recognition.language)]
    return [repaired for segment in heard if (repaired := _repaired(segment)).text]


def _shifted(segment: Segment, offset: float) -> Segment:
    """A segment of the clip's time in the recording's."""
    words = segment.words and tuple(Word(w.text, w.start + offset, w.end + offset) for w in segment.words)
    evidence = segment.evidence
    if evidence is not None:
        evidence = replace(evidence, seek=evidence.seek + round(offset * FRAMES_PER_SECOND))
    return replace(segment, start=segment.start + offset, end=segment.end + offset, words=words, evidence=evidence)


def _snapped(segment: Segment, speech: list[tuple[float, float]]) -> Segment:
    """A segment without the silence at its ends. One that lies in silence altogether stays as it is."""
    spoken = [(start, end) for start, end in speech if start < segment.end and end > segment.start]
    if not spoken:
        return segment
    start, end = max(segment.start, spoken[0][0]), min(segment.end, spoken[-1][1])
    words = segment.words and tuple(
        replace(word, start=min(max(word.start, start), end), end=min(max(word.end, start), end))
        for word in segment.words
    )
    return replace(segment, start=start, end=end, words=words)


def _repaired(segment: Segment) -> Segment:
    text, looped = collapse_loops(segment.text)
    return replace(segment, text=text, flags=(*segment.flags, LOOPED)) if looped else segment
