"""What an engine heard in one clip → segments in the recording's own time, repaired.

Two parties know times: the engine, in words but coarsely, and the speech detector, to some 30 ms but without words.
A segment's start that the engine puts into silence is moved to where speech begins, its end to where speech ended;
engines tend to begin a segment with the clip, or with the end of the one before.
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING

from tingdao.audio.speech import ClipSpan
from tingdao.engines.base import Recognition
from tingdao.pipeline.repair import CUT_OFF, LOOPED, collapse_loops
from tingdao.types import SAMPLE_RATE, Segment, Word

if TYPE_CHECKING:
    from tingdao.engines.aligner.engine import Alignment

FRAMES_PER_SECOND = 100  # of `Evidence.seek`
SENTENCE_END = re.compile(r"[。！？…]|[.!?](?=[\s\"'”’)\]]|$)")
SENTENCE_PAUSE = 0.8
"""Seconds without a word from which on a new segment begins."""
LONGEST_SEGMENT = 15.0
"""Seconds."""


def segments_of(span: ClipSpan, recognition: Recognition) -> list[Segment]:
    """The segments of a clip, in order; without text, none."""
    offset = span.start / SAMPLE_RATE
    speech = [(part.start / SAMPLE_RATE, part.end / SAMPLE_RATE) for part in span.speech]
    if recognition.segments:
        heard = [_snapped(_shifted(segment, offset), speech) for segment in recognition.segments]
    else:
        # The engine knows no times: the speech that the detector saw in the clip bounds the text.
        heard = [Segment(recognition.text, speech[0][0], speech[-1][1], recognition.language)]
    if recognition.ended == "length":
        heard[-1] = replace(heard[-1], flags=(*heard[-1].flags, CUT_OFF))
    return [repaired for segment in heard if (repaired := _repaired(segment)).text]


def aligned_segments(whole: Segment, alignment: Alignment, offset: float) -> list[Segment]:
    """A clip's text in sentences, timed by its words: cut after sentence marks, in pauses, and before it gets long.

    alignment: the words of `whole.text` in order, in seconds from the clip's start, which is at `offset`.
    Each segment begins with its first word and ends with its last; all text, punctuation too, is in one of them.
    """
    text, begins, at = whole.text, [], 0
    for word in alignment.words:
        at = text.index(word.text, at)
        begins.append(at)
        at += len(word.text)
    words = [replace(word, start=word.start + offset, end=word.end + offset) for word in alignment.words]
    if not words:
        return [whole]
    segments, first = [], 0
    for last in range(len(words)):
        ends = last + 1 == len(words)
        if not ends:
            between = text[begins[last] + len(words[last].text) : begins[last + 1]]
            pause = words[last + 1].start - words[last].end
            long = words[last + 1].end - words[first].start > LONGEST_SEGMENT
            ends = pause >= SENTENCE_PAUSE or long or bool(SENTENCE_END.search(between))
        if ends:
            begin = begins[first] if first else 0
            end = begins[last + 1] if last + 1 < len(words) else len(text)
            odd = sorted({flag for flag in alignment.flags[first : last + 1] if flag})
            segments.append(
                replace(
                    whole,
                    text=text[begin:end].strip(),
                    start=words[first].start,
                    end=words[last].end,
                    words=tuple(words[first : last + 1]),
                    flags=(*whole.flags, *odd),
                )
            )
            first = last + 1
    return segments


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
    text, looped = collapse_loops(segment.text.strip())
    return replace(segment, text=text, flags=(*segment.flags, LOOPED) if looped else segment.flags)
