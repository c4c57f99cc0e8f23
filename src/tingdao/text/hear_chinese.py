"""Terms that are said in Chinese, found by their pinyin.

A term's characters, and each `sounds_like` that is pinyin or Chinese, make a pattern of syllables. A pattern that fits
the syllables of a text is an exact match; one with a syllable that is easily mistaken (`pinyin.close`) is a near one.
Both give way where the text is likely to mean what it says, since a wrong correction is worse than a missed one:

- A common word stays (黎明 is no 李明), and so does one of which a match would cut a piece off.
- A place stays another place (陕西大学 is no 山西大学).
- Words that hold sentences together, and numbers, stay (企业为新 is no 企业微信).
- Two syllables must agree in tone too, and have a character that hardly ever stands alone (雨鹊 is 语雀, 雨却 is not).
- Three syllables must not come from two or three everyday words of one character.
- Near matches have three syllables or more (two where accents are asked for) without a space between, and are everyday
  words only where half of the characters are the term's own.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

from tingdao.text.match import Match
from tingdao.text.pinyin import accented, close, read, readings, syllables, tones
from tingdao.text.units import Unit, runs
from tingdao.text.words import FUNCTION_CHARACTERS, chinese
from tingdao.types import Term

SYLLABLES_TO_A_SLIP = 3
"""A near match may have one syllable wrong, and another for every so many syllables past the first so many."""
COMMON_LONG = 20_000
"""Words of three or four characters up to this rank are what was said; rarer ones may be misheard."""
EVERYDAY = 2_500
"""Rank up to which a word of one character often stands alone."""
_NUMERAL_SOUNDS = {numeral: (f"={digit}",) for digit, numeral in enumerate("零一二三四五六七八九")}
_OTHER = "，"


@dataclass(frozen=True, eq=False)
class _Pattern:
    """A term as it sounds.

    usual, rare: per syllable, how it is read; at most one is read the rare way, in terms of three or more.
    characters: the term's own, or "".
    said: whether the caller gave the sound.
    """

    word: str
    order: int
    usual: tuple[frozenset[str], ...]
    rare: tuple[frozenset[str], ...]
    characters: tuple[str, ...]
    said: bool

    @cached_property
    def any(self) -> tuple[frozenset[str], ...]:
        """Per syllable, both ways."""
        return tuple(usual | rare for usual, rare in zip(self.usual, self.rare, strict=True))


class _Run:
    """A run of units, with what only candidates need worked out when they need it."""

    def __init__(self, units: Sequence[Unit]) -> None:
        self.units = units
        self.plain = "".join(unit.text if unit.kind == "han" else _OTHER for unit in units)

    @cached_property
    def sounds(self) -> list[str]:
        """One syllable to a unit."""
        syllable = read(self.plain)
        return [
            syllable[number] if unit.kind == "han" else _written(unit.text) for number, unit in enumerate(self.units)
        ]

    @cached_property
    def parts(self) -> list[tuple[int, int]]:
        """The words, as positions of units."""
        return chinese().parts(self.plain)


class ChineseTerms:
    """Terms compiled for search; thread-safe."""

    def __init__(self, terms: Sequence[Term], *, fuzzy: bool) -> None:
        self._fuzzy = fuzzy
        self._spelled: list[tuple[str, Term, int]] = []
        self._first: defaultdict[str, list[_Pattern]] = defaultdict(list)
        self._second: defaultdict[str, list[_Pattern]] = defaultdict(list)
        for order, term in enumerate(terms):
            for pattern in self._patterns(term, order):
                for sound in pattern.any[0]:
                    self._first[sound].append(pattern)
                # A slip in the first syllable is found by the second.
                for sound in pattern.any[1] if fuzzy or _slips(len(pattern.any)) else ():
                    self._second[sound].append(pattern)

    def _patterns(self, term: Term, order: int) -> Iterator[_Pattern]:
        spellings = [term.word, *(alias for alias in term.sounds_like if _has_chinese(alias))]
        self._spelled += [(alias, term, order) for alias in spellings[1:]]
        for spelling in spellings:
            if not _has_chinese(spelling):
                continue
            units = [unit for run in runs(spelling) for unit in run]
            if len(units) < 2:
                continue
            run = _Run(units)
            usual = tuple(frozenset((sound,)) for sound in run.sounds)
            rare = tuple(frozenset(readings(unit.text)) - first for unit, first in zip(units, usual, strict=True))
            own = tuple(unit.text for unit in units) if spelling == term.word else ("",) * len(units)
            yield _Pattern(term.word, order, usual, rare, own, said=spelling != term.word)
        for alias in term.sounds_like:
            sounds = syllables(alias)
            if sounds and len(sounds) > 1:
                count = len(sounds)
                own = tuple(term.word) if len(term.word) == count else ("",) * count
                usual = tuple(frozenset((sound,)) for sound in sounds)
                yield _Pattern(term.word, order, usual, (frozenset(),) * count, own, said=True)

    def matches(self, text: str, found: Sequence[Sequence[Unit]], *, sounds: bool) -> Iterator[Match]:
        """Every place where a term may be heard.

        found: the text's runs. sounds: whether its characters sound as pinyin says.
        """
        for alias, term, order in self._spelled:
            at = text.find(alias)
            while at >= 0:
                yield Match(at, at + len(alias), term.word, order, exact=True)
                at = text.find(alias, at + 1)
        for units in found if sounds else ():
            if any(unit.kind == "han" for unit in units):
                yield from self._in_run(text, _Run(units))

    def _in_run(self, text: str, run: _Run) -> Iterator[Match]:
        sounds = [_sounds(unit) for unit in run.units]
        for at in range(len(sounds) - 1):
            candidates = [pattern for sound in sounds[at] for pattern in self._first.get(sound, ())]
            candidates += [pattern for sound in sounds[at + 1] for pattern in self._second.get(sound, ())]
            if candidates:
                for pattern in dict.fromkeys(candidates):
                    if self._may_fit(pattern, sounds, at):
                        yield from self._match(text, run, at, pattern)

    def _may_fit(self, pattern: _Pattern, sounds: Sequence[tuple[str, ...]], at: int) -> bool:
        """Whether enough syllables fit, whichever way they are read: a quick look before the careful one."""
        if at + len(pattern.any) > len(sounds):
            return False
        wrong = sum(wanted.isdisjoint(sounds[number]) for number, wanted in enumerate(pattern.any, at))
        return wrong <= (len(pattern.any) if self._fuzzy else _slips(len(pattern.any)))

    def _match(self, text: str, run: _Run, at: int, pattern: _Pattern) -> Iterator[Match]:
        count = len(pattern.usual)
        units = run.units[at : at + count]
        start, end = units[0].start, units[-1].end
        if text[start:end] == pattern.word:
            yield Match(start, end, pattern.word, pattern.order, exact=True, changed=False)
            return
        slips = accents = rare = 0
        for number, unit in enumerate(units):
            heard = run.sounds[at + number]
            if unit.text == pattern.characters[number] or _fits(unit, heard, pattern.usual[number]):
                continue
            if heard in pattern.rare[number]:
                rare += 1
                continue
            (usual,) = pattern.usual[number]
            if not (heard.isalpha() and usual.isalpha()):
                return
            if self._fuzzy and accented(heard, usual):
                accents += 1
            elif close(heard, usual):
                slips += 1
            else:
                return
        exact = not slips and not accents
        apart = end - start > sum(len(unit.text) for unit in units)
        if (
            rare > (count > 2)
            or slips > _slips(count)
            or (apart and not exact)
            or self._meant(run, at, pattern, exact=exact)
        ):
            return
        yield Match(start, end, pattern.word, pattern.order, exact=exact)

    def _meant(self, run: _Run, at: int, pattern: _Pattern, *, exact: bool) -> bool:
        """Whether the text is likely to mean what it says."""
        words, end = chinese(), at + len(pattern.usual)
        window = run.plain[at:end]
        if _OTHER in window:
            return False
        count = len(window)
        if words.common(window, COMMON_LONG if exact and count > 2 else len(words.ranks)):
            return True
        cut = [part for part in run.parts if part[0] < at < part[1] or part[0] < end < part[1]]
        if cut and not (exact and count > 3):
            return True
        if exact and pattern.said and count > 2:
            return False
        inside = [(a - at, b - at) for a, b in run.parts if at <= a and b <= end]
        differing = [window[a:b] for a, b in inside if tuple(window[a:b]) != pattern.characters[a:b]]
        if exact and count > 3 and len("".join(differing)) == 1:
            return False
        if any(
            part in FUNCTION_CHARACTERS or (part in words.places and part not in pattern.word) for part in differing
        ):
            return True
        singles = all(len(part) == 1 and words.common(part, EVERYDAY) for part in differing)
        if not exact:
            everyday = all(len(part) > 1 or words.common(part, EVERYDAY) for part in differing)
            same = sum(heard == own for heard, own in zip(window, pattern.characters, strict=True))
            return everyday and (count == 3 or 2 * same < count)
        if count == 2:
            return singles or not _tones_agree(window, pattern.characters)
        return count == 3 and singles and len(differing) > 1


def _tones_agree(window: str, characters: Sequence[str]) -> bool:
    """Whether Chinese can be said in the tones of a term; what is not known to differ agrees."""
    return not all(characters) or all(
        not tones(heard).isdisjoint(tones(own)) for heard, own in zip(window, characters, strict=True)
    )


def _slips(count: int) -> int:
    """How many syllables of so many may be wrong."""
    return 0 if count < SYLLABLES_TO_A_SLIP else count // SYLLABLES_TO_A_SLIP if count > 5 else 1


def _sounds(unit: Unit) -> tuple[str, ...]:
    if unit.kind != "han":
        return (_written(unit.text),)
    return readings(unit.text) + _NUMERAL_SOUNDS.get(unit.text, ())


def _fits(unit: Unit, heard: str, wanted: frozenset[str]) -> bool:
    return heard in wanted or not wanted.isdisjoint(_NUMERAL_SOUNDS.get(unit.text, ()))


def _written(text: str) -> str:
    """What stands in place of a syllable for a word in Latin letters or a number."""
    return f"={text.lower()}"


def _has_chinese(text: str) -> bool:
    return any(unit.kind == "han" for run in runs(text) for unit in run)
