"""A transcript as the text of a file: SRT, VTT, TXT, JSON, TSV.

SRT and VTT hold cues, as `pipeline.cues` cuts them; TXT holds paragraphs; JSON and TSV the segments as they are.
"""

from __future__ import annotations

import json
from math import inf
from typing import TYPE_CHECKING

from tingdao.pipeline.cues import SENTENCE_END, cues, milliseconds, one_line, width
from tingdao.types import join_texts

if TYPE_CHECKING:
    from collections.abc import Callable

    from tingdao.types import Segment, Transcript

PARAGRAPH_PAUSE = 2.0
"""Seconds of silence between two segments that end a paragraph of a text file."""
PARAGRAPH = 800
"""Columns after which a paragraph ends with the next sentence."""


def srt(transcript: Transcript) -> str:
    """Write SubRip. It has no escapes, so the arrow of its time lines is written `->` inside text."""
    return "\n".join(
        f"{number}\n{_clock(cue.start, ',')} --> {_clock(cue.end, ',')}\n"
        + "\n".join(cue.lines).replace("-->", "->")
        + "\n"
        for number, cue in enumerate(cues(transcript), start=1)
    )


def vtt(transcript: Transcript) -> str:
    """Write WebVTT, https://www.w3.org/TR/webvtt1/."""
    return "WEBVTT\n\n" + "\n".join(
        f"{_clock(cue.start, '.')} --> {_clock(cue.end, '.')}\n" + _escape("\n".join(cue.lines)) + "\n"
        for cue in cues(transcript)
    )


def txt(transcript: Transcript) -> str:
    """Write paragraphs with a blank line between: one ends at a pause of 2 s, or a sentence once long."""
    paragraphs: list[list[tuple[str, str | None]]] = []
    columns, until, ended = 0, inf, False
    for segment in transcript.segments:
        text = one_line(segment.text)
        if not text:
            continue
        if not paragraphs or segment.start - until >= PARAGRAPH_PAUSE or (ended and columns >= PARAGRAPH):
            paragraphs.append([])
            columns = 0
        paragraphs[-1].append((text, segment.language or transcript.language))
        columns += width(text)
        until, ended = segment.end, bool(SENTENCE_END.search(text))
    return "\n\n".join(map(join_texts, paragraphs)) + "\n" if paragraphs else ""


def tsv(transcript: Transcript) -> str:
    """Write a table: a heading, and for each segment its start and end in milliseconds and its text."""
    rows = (
        f"{milliseconds(segment.start)}\t{milliseconds(segment.end)}\t{text}\n"
        for segment in transcript.segments
        if (text := one_line(segment.text))
    )
    return "start_ms\tend_ms\ttext\n" + "".join(rows)


def json_text(transcript: Transcript) -> str:
    """Write one JSON object on one line; times in seconds, to the millisecond."""
    return (
        json.dumps(
            {
                "language": transcript.language,
                "duration": round(transcript.duration, 3),
                "text": transcript.text,
                "model": transcript.model,
                "segments": [_segment_fields(number, each) for number, each in enumerate(transcript.segments)],
            },
            ensure_ascii=False,
        )
        + "\n"
    )


WRITERS: dict[str, Callable[[Transcript], str]] = {
    "txt": txt,
    "srt": srt,
    "vtt": vtt,
    "json": json_text,
    "tsv": tsv,
}
"""Every format by the ending of its files; an empty transcript gives a valid empty file."""


def _segment_fields(number: int, segment: Segment) -> dict[str, object]:
    fields: dict[str, object] = {
        "id": number,
        "start": round(segment.start, 3),
        "end": round(segment.end, 3),
        "text": segment.text,
    }
    if segment.language:
        fields["language"] = segment.language
    if segment.words is not None:
        fields["words"] = [
            {"text": word.text, "start": round(word.start, 3), "end": round(word.end, 3)} for word in segment.words
        ]
    if segment.flags:
        fields["flags"] = list(segment.flags)
    return fields


def _clock(at: int, point: str) -> str:
    """Write a time given in milliseconds; hours have two digits or more."""
    seconds, thousandths = divmod(at, 1000)
    minutes, seconds = divmod(seconds, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours:02}:{minutes:02}:{seconds:02}{point}{thousandths:03}"


def _escape(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
