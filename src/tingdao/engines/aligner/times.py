"""Predicted steps → times that never run backwards, with a flag for each word whose time was not measured.

The aligner predicts the start and the end of every word on its own, as a number of steps of 80 ms, and they need not
be in order. The largest set of predictions that are in order is believed; the others are filled in from those around
them, which is a repair and flagged. Needs no torch.

Source of the rule: `fix_timestamp` of qwen-asr 0.0.6 and `_fix_timestamps` of transformers' `qwen3_asr`, whose results
these are, to the millisecond, wherever all predictions lie within the clip. A prediction past the end of the clip is
never believed here; there it can stand.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

Flag = Literal["", "retimed", "untimed"]
RETIMED: Flag = "retimed"
"""The start or the end was filled in from the words around it."""
UNTIMED: Flag = "untimed"
"""No time of its own: start and end are the same moment."""


@dataclass(frozen=True, slots=True)
class Span:
    """When a word is said, in seconds, and what is to be said about that."""

    start: float
    end: float
    flag: Flag = ""

    def later(self, seconds: float) -> Span:
        """The same, so much later."""
        return Span(self.start + seconds, self.end + seconds, self.flag)


def spans(steps: Sequence[int], step_ms: int, duration: float) -> list[Span]:
    """The time of each word.

    steps: predicted start and end of each word in turn, so twice as many as words, in units of `step_ms`.
    duration: of the clip, in seconds.
    """
    limit = int(duration * 1000)
    # What is rounded up to the next step may lie just behind the end.
    believed = _in_order(steps, limit // step_ms + 1)
    times = [min(time, limit) for time in _filled([step * step_ms for step in steps], believed)]
    return [
        Span(times[at] / 1000, times[at + 1] / 1000, _flag(times[at : at + 2], believed[at : at + 2]))
        for at in range(0, len(times), 2)
    ]


def _flag(times: Sequence[int], believed: Sequence[bool]) -> Flag:
    if times[0] == times[1]:
        return UNTIMED
    return "" if all(believed) else RETIMED


def _in_order(steps: Sequence[int], most: int) -> list[bool]:
    """Which steps belong to the longest run that never falls, of those that are at most `most`.

    Of several the one that ends first, and before each step the first that fits, as the official code chooses.
    """
    tails: list[int] = []  # the lowest step that a run of each length ends with
    ranks: list[list[int]] = []  # places that a run of each length can end at; their steps fall
    for place, step in enumerate(steps):
        if step > most:
            continue
        rank = bisect_right(tails, step)
        if rank == len(tails):
            tails.append(step)
            ranks.append([])
        tails[rank] = step
        ranks[rank].append(place)
    believed = [False] * len(steps)
    step = most
    for places in reversed(ranks):
        # Falling steps, negated, are sorted; the first that is low enough lies left of the place found before.
        place = places[bisect_left(places, -step, key=lambda place: -steps[place])]
        believed[place] = True
        step = steps[place]
    return believed


def _filled(times: Sequence[int], believed: Sequence[bool]) -> list[int]:
    """The times in ms, those that are not believed filled in: one or two from the nearer side, more at even steps."""
    known = [place for place, good in enumerate(believed) if good]
    if not known:
        return [0] * len(times)
    filled = list(times)
    for left, right in pairwise([-1, *known, len(times)]):
        before = times[left] if left >= 0 else times[right]
        after = times[right] if right < len(times) else times[left]
        filled[left + 1 : right] = _between(before, after, right - left - 1)
    return filled


def _between(before: int, after: int, count: int) -> list[int]:
    if count <= 2:
        return [before, after][:count]
    return [before + (after - before) * place // (count + 1) for place in range(1, count + 1)]
