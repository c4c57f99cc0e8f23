"""Cues: a transcript cut into what a viewer can read at a time.

    Transcript ── segments ── tokens ── cues ── lines

At most two lines of 42 columns (a Chinese, Japanese or Korean character takes two, so 21 of them) and 7 s,
cut where a sentence or clause ends, else between words. The limits are the usual ones of television subtitles.

Times of a cue come from the words of its segment. Where a segment without words must be cut, the times
between its start and end are in proportion to the columns of the text: that is interpolation, not a
measurement. Nothing here listens to the sound, knows grammar, or joins segments.
"""

from __future__ import annotations

import re
import unicodedata
from bisect import bisect_left, bisect_right
from dataclasses import dataclass
from functools import cache
from itertools import accumulate, pairwise
from math import inf
from sys import maxsize
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tingdao.types import Segment, Transcript, Word

LINE = 42
"""Columns of a line."""
LONGEST = 7.0
"""Seconds that a cue stays at most."""
SHORTEST = 1.0
"""Seconds that a cue stays at least, where the next one leaves room."""
READING = 20.0
"""Columns a second that people read: a cue stays so much longer, where the next one leaves room."""
SLOWEST = 3.0
"""Columns a second of very slow speech. A segment with less text than that has a wrong end, so its times say
nothing about where in it the words are."""
CUE_PAUSE = 1.0
"""Seconds of silence between two words that always end a cue."""

# Scripts written without spaces, where a line may break between any two characters but for the marks below.
_FREE = "\u2e80-\u2fdf\u3000-\u312f\u31a0-\u9fff\uf900-\ufaff\ufe30-\ufe4f\uff01-\uff9f\U00020000-\U0003fffd"
_OPENING = "“‘（《「『【〔〈［｛｢([{"
_CLOSING = '、。，．：；！？）」』】》〉〕］｝｣…—～·％”’,.!?:;)}\\]%"々ーぁぃぅぇぉっゃゅょァィゥェォッャュョ'
_TOKEN = re.compile(
    rf"[{_OPENING}]*"  # never the last of a line
    rf"(?:[{_FREE}]|(?:(?![{_OPENING}]{{1,3}}[{_FREE}])[^\s{_FREE}])+)?"
    rf"[{_CLOSING}]*"  # never the first of a line
)
_UNPRINTABLE = re.compile(r"[\x00-\x08\x0e-\x1b\x7f-\x84\x86-\x9f\ud800-\udfff]")
_WORD_EDGE = re.compile(r".?(?: |[A-Za-z])|[A-Za-z]")
SENTENCE_END = re.compile(r"[.!?。！？…｡؟।۔][”’\"')\]）」』】》]*$")
_CLAUSE_END = re.compile(r"[,;:，；：、､،؛—–][”’\"')\]）」』】》]*$")

# What it costs to end a cue or a line after ...
_SENTENCE_COST = 0.0
_CLAUSE_COST = 0.2
_WORD_COST = 0.8
_CHARACTER_COST = 1.0  # of a script without spaces: it may be within a word
_PART_COST = 2.0  # of a word that is longer than a line
# ... and what it costs a cue to go on past the end of a sentence.
_RUN_ON_COST = 0.8


@dataclass(frozen=True, slots=True)
class Cue:
    """What is on the screen from `start` to `end`, in whole milliseconds; one or two lines, none empty."""

    start: int
    end: int
    lines: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Token:
    """A piece of a text that stays on one line: text[begin:finish], at columns left to right, in seconds.

    cost: how bad it is to end a cue or a line after it.
    """

    begin: int
    finish: int
    left: int
    right: int
    start: float
    end: float
    cost: float


def cues(transcript: Transcript) -> list[Cue]:
    """Cut a transcript into cues: in order, never overlapping, each at least 1 ms long."""
    drafts = [draft for segment in transcript.segments for draft in _drafts(segment)]
    drafts.sort(key=lambda draft: draft[0])
    starts: list[int] = []
    for start, _, _ in drafts:
        starts.append(max(milliseconds(start), starts[-1] + 1 if starts else 0))
    settled = []
    for (_, spoken_until, lines), (start, following) in zip(drafts, pairwise([*starts, maxsize]), strict=True):
        reading = max(SHORTEST, sum(map(width, lines)) / READING)
        read = min(start + milliseconds(reading), milliseconds(transcript.duration))
        end = min(max(milliseconds(spoken_until), read), start + milliseconds(LONGEST), following)
        settled.append(Cue(start, max(end, start + 1), lines))
    return settled


def _drafts(segment: Segment) -> Iterator[tuple[float, float, tuple[str, ...]]]:
    """Cut one segment into (start s, end s, lines), with the times as spoken."""
    text = one_line(segment.text)
    if not text:
        return
    timeline = _Timeline(text, segment)
    tokens = list(_tokens(text, timeline))
    plausible = timeline.measured or timeline.columns[-1] >= SLOWEST * (segment.end - segment.start)
    longest, pause = LONGEST if plausible else inf, CUE_PAUSE if timeline.measured else inf
    first = 0
    for last in _cut(tokens, longest, pause):
        cue = tokens[first:last]
        yield cue[0].start, cue[-1].end, _lines(text, cue)
        first = last


class _Timeline:
    """When each character of a segment is said: exact at the edges of words, by columns between them.

    measured: whether any word was found in the text. Words are looked for in order, without punctuation;
    those that the text does not have any more (because it was corrected) give no time.
    """

    def __init__(self, text: str, segment: Segment) -> None:
        self.columns = list(accumulate(map(_character_width, text), initial=0))
        self._edges: list[int] = [0]
        self._times: list[float] = [segment.start]
        self._anchor(text, segment.words or ())
        self.measured = len(self._edges) > 1
        self._edges.append(len(text))
        self._times.append(max(segment.end, self._times[-1]))

    def start(self, position: int) -> float:
        """Seconds at which the character at `position` begins."""
        return self._at(position, bisect_right(self._edges, position) - 1)

    def end(self, position: int) -> float:
        """Seconds at which the character before `position` ends."""
        return self._at(position, bisect_left(self._edges, position))

    def _anchor(self, text: str, words: tuple[Word, ...]) -> None:
        cursor = lost = 0
        for word in words:
            spoken = word.text[slice(*_spoken(word.text))]
            # Not further ahead than the words missed so far reach, and some punctuation: "a" is everywhere.
            at = text.find(spoken, cursor, cursor + lost + len(spoken) + 8) if spoken else -1
            if at < 0:
                lost += len(spoken) + 1
                continue
            start = max(word.start, self._times[-1])
            cursor, lost = at + len(spoken), 0
            self._edges += (at, cursor)
            self._times += (start, max(word.end, start))

    def _at(self, position: int, edge: int) -> float:
        if self._edges[edge] == position:
            return self._times[edge]
        edge = bisect_right(self._edges, position)
        left, here, right = (self.columns[at] for at in (self._edges[edge - 1], position, self._edges[edge]))
        before, after = self._times[edge - 1], self._times[edge]
        return before + (after - before) * (here - left) / max(1, right - left)


def _tokens(text: str, timeline: _Timeline) -> Iterator[_Token]:
    for match in _TOKEN.finditer(text):
        if not match.group():
            continue
        for begin, finish in _pieces(match.start(), match.end(), timeline.columns):
            first, last = _spoken(text[begin:finish]) if timeline.measured else (0, finish - begin)
            yield _Token(
                begin,
                finish,
                timeline.columns[begin],
                timeline.columns[finish],
                timeline.start(begin + first),
                timeline.end(begin + last),
                _cost(match.group(), text[finish : finish + 2]) if finish == match.end() else _PART_COST,
            )


def _pieces(begin: int, finish: int, columns: list[int]) -> Iterator[tuple[int, int]]:
    """Split a token into pieces that fit on a line: one piece for all but web addresses and the like."""
    while columns[finish] - columns[begin] > LINE:
        cut = bisect_right(columns, columns[begin] + LINE, begin, finish) - 1
        yield begin, cut
        begin = cut
    yield begin, finish


def _cut(tokens: list[_Token], longest: float, pause: float) -> list[int]:
    """Find the cheapest cues within the limits; gives where they end, as indices into tokens.

    A cue costs the square of its empty share, what its end costs, and something for each sentence that ends
    inside. Time is linear in the text, as a cue has few tokens.

    longest: seconds that a cue may take. pause: seconds of silence that end a cue.
    """
    line_ends = _line_ends(tokens)
    best, came_from = [0.0] + [inf] * len(tokens), [0] * (len(tokens) + 1)
    for first, token in enumerate(tokens):
        middle = line_ends[first]
        reach = line_ends[middle] if middle < len(tokens) else middle
        run_on = best[first]
        for last in range(first + 1, reach + 1):
            final = tokens[last - 1]
            if last > first + 1 and (final.end - token.start > longest or final.start - tokens[last - 2].end >= pause):
                break
            empty = 1 - (final.right - token.left) / (2 * LINE)
            cost = run_on + empty * empty + (final.cost if last < len(tokens) else 0.0)
            if cost < best[last]:
                best[last], came_from[last] = cost, first
            if final.cost == _SENTENCE_COST:
                run_on += _RUN_ON_COST
    ends, at = [], len(tokens)
    while at:
        ends.append(at)
        at = came_from[at]
    return ends[::-1]


def _line_ends(tokens: list[_Token]) -> list[int]:
    """For each token the index after the last one that fits on a line with it."""
    ends, last = [], 0
    for token in tokens:
        while last < len(tokens) and tokens[last].right - token.left <= LINE:
            last += 1
        ends.append(last)
    return ends


def _lines(text: str, cue: list[_Token]) -> tuple[str, ...]:
    """Lay a cue out on one line, or on two of about the same length, at punctuation where there is some."""
    left, right = cue[0].left, cue[-1].right
    if right - left <= LINE:
        return (text[cue[0].begin : cue[-1].finish],)
    cost, cut = inf, 0
    for at in range(1, len(cue)):
        upper, lower = cue[at - 1].right - left, right - cue[at].left
        unevenness = abs(upper - lower) / LINE + cue[at - 1].cost
        if max(upper, lower) <= LINE and unevenness < cost:
            cost, cut = unevenness, at
    assert cut, "a cue holds only what fits on two lines"
    return text[cue[0].begin : cue[cut - 1].finish], text[cue[cut].begin : cue[-1].finish]


def _cost(token: str, following: str) -> float:
    if SENTENCE_END.search(token) and not following.lstrip()[:1].islower():  # "e.g." ends none
        return _SENTENCE_COST
    if _CLAUSE_END.search(token):
        return _CLAUSE_COST
    return _WORD_COST if _WORD_EDGE.match(token[-1:] + following) else _CHARACTER_COST


def _spoken(text: str) -> tuple[int, int]:
    """Find begin and end of what is said: the text without punctuation around, if that leaves any."""
    said = [at for at, character in enumerate(text) if unicodedata.category(character)[0] in "LMN"]
    return (said[0], said[-1] + 1) if said else (0, len(text))


def one_line(text: str) -> str:
    """Put a text on one line, with single spaces, without control characters and halves of characters."""
    return " ".join(_UNPRINTABLE.sub("", text).split())


@cache
def _character_width(character: str) -> int:
    if unicodedata.category(character) in {"Mn", "Me", "Cf"}:
        return 0
    return 2 if unicodedata.east_asian_width(character) in {"W", "F"} else 1


def width(text: str) -> int:
    """Measure a text in columns."""
    return sum(map(_character_width, text))


def milliseconds(seconds: float) -> int:
    """Round to whole milliseconds, none below zero."""
    return max(0, round(seconds * 1000))
