"""How much of what was said was recognised: error rates with confidence intervals.

Compared is word by word (word error rate, WER), or character by character where words are not marked by spaces or the
spaces vary (character error rate, CER). Before that, `normalised` takes away what is no mistake of the ear.

A rate is the replaced, missing and added units of all recordings, over the units that were said; so it can be above 1.
Its interval is the middle 95 % of what the rate would be for other draws of as many recordings (percentile bootstrap:
Bisani and Ney, "Bootstrap estimates for confidence intervals in ASR performance evaluation", ICASSP 2004).
"""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from tingdao.errors import UnsupportedOption
from tingdao.languages import UNSPACED
from tingdao.text import script

Unit = Literal["words", "characters"]
Step = tuple[str | None, str | None]
"""(unit said, unit heard): alike, replaced, missing (said, None) or added (None, heard)."""

BY_CHARACTER = UNSPACED | {"ko"}
"""Korean has spaces, and writers differ about where."""
UNKNOWN = "und"
"""ISO 639's code for a language that nobody has named."""
SCRIPTS = {
    "HIRAGANA": "ja", "KATAKANA": "ja", "HANGUL": "ko", "CJK": "zh", "THAI": "th", "LAO": "lo", "MYANMAR": "my",
    "KHMER": "km",
}  # fmt: skip
"""The first word of a letter's Unicode name -> the language that is taken to be meant. Kana go before Han."""
APOSTROPHES = str.maketrans("’‘ʼ", "'''")
DRAWS = 2000
SEED = 20_240_607
"""The same recordings give the same interval."""
CELLS = 4_000_000
"""Of a table that is kept whole: 32 MB."""
EDIT = 1 << 20
REPLACED = EDIT + 1
"""Costs of a step: the fewest edits, and among those ways the one that replaces least, so finds most alike."""


@dataclass(frozen=True, slots=True)
class Result:
    """What became of one recording.

    said, heard: the texts as written. language: of what is said, or `UNKNOWN`; detected: of what was heard.
    duration: of the recording, seconds: that it took, both in seconds.
    steps: the normalised texts, aligned.
    """

    name: str
    language: str
    detected: str | None
    duration: float
    seconds: float
    said: str
    heard: str
    steps: tuple[Step, ...]

    @property
    def units(self) -> int:
        """Units that were said."""
        return sum(said is not None for said, _ in self.steps)

    @property
    def wrong(self) -> int:
        """Units replaced, missing and added."""
        return sum(said != heard for said, heard in self.steps)

    @property
    def rate(self) -> float:
        """Wrong units over units said; where nothing was said, the units added."""
        return self.wrong / max(1, self.units)


@dataclass(frozen=True, slots=True)
class Rate:
    """The error rate over some recordings, all counted by the same unit.

    language: or None for all of them. rate: None when nothing was said.
    interval: 95 %; None with fewer than two recordings, which say nothing about others.
    """

    language: str | None
    unit: Unit
    recordings: int
    units: int
    replaced: int
    missing: int
    added: int
    rate: float | None
    interval: tuple[float, float] | None

    @property
    def measure(self) -> str:
        """WER or CER."""
        return "WER" if self.unit == "words" else "CER"


def result(
    name: str, said: str, heard: str, *, language: str | None, detected: str | None, duration: float, seconds: float
) -> Result:
    """Compare what was heard with what was said. language: of what was said, as far as it is known."""
    language = language or written_language(said)
    steps = align(*(split(text, language) for text in (said, heard)))
    return Result(name, language, detected, duration, seconds, said, heard, tuple(steps))


def unit_of(language: str) -> Unit:
    """What is counted in a language."""
    return "characters" if language in BY_CHARACTER else "words"


def written_language(text: str) -> str:
    """The language of a text by its letters, where they decide what is counted; else `UNKNOWN`."""
    letters = [letter for letter in text if letter.isalpha()]
    counts = Counter(SCRIPTS.get(unicodedata.name(letter, "").partition(" ")[0]) for letter in letters)
    if 2 * counts[None] >= len(letters):
        return UNKNOWN
    del counts[None]
    # Japanese is kana among Han, however few.
    return "ja" if counts["ja"] else str(counts.most_common(1)[0][0])


@cache
def folds_scripts() -> bool:
    """Whether simplified and traditional characters are told to be the same here: whether OpenCC is installed."""
    try:
        script.check_installed()
    except UnsupportedOption:
        return False
    return True


def normalised(text: str, language: str) -> str:
    """A text without what is no mistake of the ear, its words between single spaces.

    Gone are case, punctuation and symbols, full or half width and, in Chinese with OpenCC, traditional characters; in
    languages counted by characters spaces too. An apostrophe within a word stays, a hyphen separates two. Numbers,
    abbreviations and spelling stay as written.
    """
    text = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
    if folds_scripts():
        text = script.in_script(text, "simplified", language)
    # Gone without a trace: joiners and marks of direction (Cf), which nobody sees. The rest of no letters separates.
    text = "".join(
        character if character == "'" or (kind := unicodedata.category(character))[0] in "LMN" else " " * (kind != "Cf")
        for character in text.translate(APOSTROPHES)
    )
    if unit_of(language) == "characters":
        return "".join(text.replace("'", "").split())
    return " ".join(stripped for word in text.split() if (stripped := word.strip("'")))


def split(text: str, language: str) -> list[str]:
    """The units that are compared."""
    text = normalised(text, language)
    return list(text) if unit_of(language) == "characters" else text.split()


def align(said: Sequence[str], heard: Sequence[str]) -> list[Step]:
    """One of the shortest ways from one to the other (Levenshtein's distance), step by step.

    Memory grows with the length only (Hirschberg, 1975); an hour against an hour takes seconds.
    """
    numbers = {unit: number for number, unit in enumerate(dict.fromkeys((*said, *heard)))}
    a, b = (np.array([numbers[unit] for unit in units], np.int64) for units in (said, heard))
    return [(None if i is None else said[i], None if j is None else heard[j]) for i, j in _path(a, b, 0, 0)]


Numbers = NDArray[np.int64]
Place = tuple[int | None, int | None]


def _path(a: Numbers, b: Numbers, i: int, j: int) -> list[Place]:
    """The steps as places in the whole, where `a` begins at i and `b` at j."""
    if len(a) * len(b) <= CELLS or len(a) < 2:
        return _walked(_rows(a, b), a, b, i, j)
    half = len(a) // 2
    through = _last_row(a[:half], b) + _last_row(a[half:][::-1], b[::-1])[::-1]
    cut = int(through.argmin())
    return _path(a[:half], b[:cut], i, j) + _path(a[half:], b[cut:], i + half, j + cut)


def _next_row(row: Numbers, unit: np.int64, b: Numbers) -> Numbers:
    """Costs from `a` with one more unit to each beginning of `b`."""
    best = row + EDIT
    best[1:] = np.minimum(best[1:], row[:-1] + REPLACED * (b != unit))
    # Added units cost the same for each column: without those costs, the best is the least of all before.
    added = _added(b)
    return np.minimum.accumulate(best - added) + added


def _added(b: Numbers) -> Numbers:
    return np.arange(len(b) + 1, dtype=np.int64) * EDIT


def _last_row(a: Numbers, b: Numbers) -> Numbers:
    row = _added(b)
    for unit in a:
        row = _next_row(row, unit, b)
    return row


def _rows(a: Numbers, b: Numbers) -> Numbers:
    """Costs from each beginning of `a` to each of `b`, (len(a) + 1, len(b) + 1)."""
    rows = np.empty((len(a) + 1, len(b) + 1), np.int64)
    rows[0] = _added(b)
    for number, unit in enumerate(a):
        rows[number + 1] = _next_row(rows[number], unit, b)
    return rows


def _walked(rows: Numbers, a: Numbers, b: Numbers, i: int, j: int) -> list[Place]:
    path: list[Place] = []
    x, y = len(a), len(b)
    while x or y:
        here = rows[x, y]
        if x and y and here == rows[x - 1, y - 1] + REPLACED * (a[x - 1] != b[y - 1]):
            x, y = x - 1, y - 1
            path.append((i + x, j + y))
        elif x and here == rows[x - 1, y] + EDIT:
            x -= 1
            path.append((i + x, None))
        else:
            y -= 1
            path.append((None, j + y))
    return path[::-1]


def rates(results: Sequence[Result]) -> list[Rate]:
    """The rate of each language, then over all that are counted by the same unit where those are several."""
    found = []
    for unit in ("words", "characters"):
        mine = [result for result in results if unit_of(result.language) == unit]
        languages = sorted({result.language for result in mine})
        found += [_rate(language, unit, [r for r in mine if r.language == language]) for language in languages]
        if len(languages) > 1:
            found.append(_rate(None, unit, mine))
    return found


def _rate(language: str | None, unit: Unit, results: Sequence[Result]) -> Rate:
    steps = [step for result in results for step in result.steps]
    units = sum(said is not None for said, _ in steps)
    missing = sum(heard is None for _, heard in steps)
    added = len(steps) - units
    replaced = sum(said != heard for said, heard in steps) - missing - added
    return Rate(
        language=language,
        unit=unit,
        recordings=len(results),
        units=units,
        replaced=replaced,
        missing=missing,
        added=added,
        rate=(replaced + missing + added) / units if units else None,
        interval=interval([result.wrong for result in results], [result.units for result in results]),
    )


def interval(wrong: Sequence[int], units: Sequence[int]) -> tuple[float, float] | None:
    """The 95 % interval of sum(wrong) / sum(units) over recordings; None where two or more do not give one."""
    if len(units) < 2 or not sum(units):
        return None
    counts = np.array([wrong, units], np.int64)
    random = np.random.default_rng(SEED)
    # Draw by draw: all at once would take gigabytes for a large collection.
    sums = np.array([counts[:, random.integers(0, len(units), len(units))].sum(axis=1) for _ in range(DRAWS)])
    sums = sums[sums[:, 1] > 0]
    low, high = np.percentile(sums[:, 0] / sums[:, 1], (2.5, 97.5))
    return float(low), float(high)


def worst_first(results: Sequence[Result]) -> list[Result]:
    """By the rate; among equals the longer first."""
    return sorted(results, key=lambda result: (-result.rate, -result.wrong, result.name))
