"""Changes to the text of a segment that keep its words and corrections in step.

Everything that rewrites recognised text (terms, punctuation, numbers, script) says what it changes as `Edit`s;
`rewritten` is the only place that carries them out.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, replace
from difflib import SequenceMatcher

from tingdao.types import Correction, Segment, Word


@dataclass(frozen=True, slots=True)
class Edit:
    """`text[start:end]` becomes `new`. start, end: characters."""

    start: int
    end: int
    new: str


def edits_between(old: str, new: str) -> list[Edit]:
    """The edits that turn one text into another, in order; none where they agree."""
    if old == new:  # the usual case, which comparing would make as dear as any other
        return []
    matcher = SequenceMatcher(None, old, new, autojunk=False)
    return [Edit(i, j, new[k:m]) for tag, i, j, k, m in matcher.get_opcodes() if tag != "equal"]


def rewritten(segment: Segment, edits: Sequence[Edit]) -> Segment:
    """A segment with its text edited.

    edits: in order, not overlapping, in characters of `segment.text`.
    Words whose characters an edit replaces share its text one to one where there are as many characters as words
    (Chinese); else they become one word, from the start of the first to the end of the last: nobody knows the times
    within. A word left without letters or digits disappears. Text outside every word, such as punctuation, moves
    no word.
    """
    if not edits:
        return segment
    pieces, at = [], 0
    for edit in edits:
        pieces += [segment.text[at : edit.start], edit.new]
        at = edit.end
    text = "".join((*pieces, segment.text[at:]))
    words = None if segment.words is None else tuple(_reworded(segment, edits))
    corrections = tuple(
        replace(correction, at=_moved(correction.at, edits))
        for correction in segment.corrections
        if not _touched(correction, edits)
    )
    return replace(segment, text=text, words=words, corrections=corrections)


def _moved(at: int, edits: Sequence[Edit]) -> int:
    """Where a character that no edit replaces stands afterwards."""
    return at + sum(len(edit.new) - (edit.end - edit.start) for edit in edits if edit.end <= at)


def _touched(correction: Correction, edits: Sequence[Edit]) -> bool:
    end = correction.at + len(correction.written)
    return any(edit.start < end and edit.end > correction.at for edit in edits)


def _reworded(segment: Segment, edits: Sequence[Edit]) -> list[Word]:
    spans = _spans(segment)
    words = segment.words or ()
    out: list[Word] = []
    number = 0
    while number < len(words):
        begin, end = spans[number]
        last = number
        touching: list[Edit] = []
        # An edit may reach into the next word, and the next edit into the one after.
        while found := [edit for edit in edits if edit.start < end and edit.end > begin and edit not in touching]:
            touching += found
            reach = max(edit.end for edit in touching)
            last = max(last, bisect_right(spans, reach - 1, key=lambda span: span[0]) - 1)
            end = max(end, spans[last][1])
        if not touching:
            out.append(words[number])
        else:
            out += _replaced(words[number : last + 1], segment.text, begin, end, touching)
        number = last + 1
    return out


def _replaced(words: Sequence[Word], text: str, begin: int, end: int, edits: Sequence[Edit]) -> list[Word]:
    """Words in place of those that edits touch; they stand in `text[begin:end]`."""
    pieces, at = [], begin
    for edit in sorted(edits, key=lambda edit: edit.start):
        pieces += [text[at : edit.start], edit.new]
        at = max(edit.end, begin)
    new = "".join((*pieces, text[at:end])).strip()
    letters = [character for character in new if character.isalnum()]
    if not letters:
        return []
    if len(letters) == len(words) and all(len(word.text) == 1 for word in words):
        return [replace(word, text=letter) for word, letter in zip(words, letters, strict=True)]
    return [Word(new, words[0].start, words[-1].end)]


def _spans(segment: Segment) -> list[tuple[int, int]]:
    """Where each word stands in the text; one that is not there stands, empty, where it would be."""
    spans, at = [], 0
    for word in segment.words or ():
        found = segment.text.find(word.text, at)
        begin, end = (at, at) if found < 0 else (found, found + len(word.text))
        spans.append((begin, end))
        at = end
    return spans
