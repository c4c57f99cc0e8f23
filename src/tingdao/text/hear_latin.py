"""Terms in Latin letters, found by their letters and by their sound, in windows of one word or more.

- Written right but for case, spaces and marks (kubernetes, git hub, G P T four, next dot js): exact.
- Written as a `sounds_like` of the caller, but for the same (cooper netties): exact, whatever the words are.
- With the same key (`phonetics.key`), or vowel for vowel nearly so over several words (pie torch, get hub): exact and
  near.
- A little different in sound (Axenture): near.
These give way where the text is likely to mean what it says: a common word stays (rust, Jason for JSON), words that
hold sentences together are no part of a name, words written apart make a name of one piece only where one of them is
less common (wire shark, not sales force), and near matches over one word need a word that no list knows.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from tingdao.text.match import Match
from tingdao.text.phonetics import distance, joined, key, skeleton
from tingdao.text.units import Unit, runs
from tingdao.text.words import FUNCTION_WORDS, english
from tingdao.types import Term

MOST_UNITS = 8
"""Words of the longest window: spelled letters are one each."""
MOST_SOUNDED = 4
"""Words of the longest window that is compared by sound."""
SHORTEST_SOUND = 5
"""Letters, at least, of what is near by sound; what sounds the same may have one less."""
NEAR, LONG_KEY, SHORT_NEAR = 0.1, 7, 0.3
"""Distance in sound up to which two are near: a share of the longer key where one word is that long; else, and over
several words, one vowel, since so many names differ by little more (Gravina is no Grafana)."""
MEANT, COMMON, LESS_COMMON = 30_000, 8_000, 5_000
"""Ranks up to which a word stays though a term has the same letters, and though it is written like a name and sounds
like a term; and from which a word may be a piece of a name."""
_NUMBER_NAMES = (
    ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"],
    "零一二三四五六七八九十",
)
NUMBERS = {word: str(number) for words in _NUMBER_NAMES for number, word in enumerate(words)}
_SPOKEN = {".": (" dot ", " point ", " 点 "), "+": (" plus ",), "#": (" sharp ",), "-": (" dash ",), "&": (" and ",),
           "@": (" at ",), "/": (" slash ",)}  # fmt: skip
_HUMPS = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])|[0-9]+")
_ENDINGS = re.compile(r"(?:ing|ed|es|s|ly|er|ers)$")


@dataclass(frozen=True, slots=True)
class _Spelling:
    """A term as it may be written. pieces: where words may part in it. said: by the caller, so it always counts."""

    word: str
    order: int
    pieces: frozenset[int]
    said: bool


@dataclass(frozen=True, slots=True)
class _Sound:
    word: str
    order: int
    key: str
    letters: str


class LatinTerms:
    """Terms compiled for search; thread-safe."""

    def __init__(self, terms: Sequence[Term]) -> None:
        self._spellings: defaultdict[str, list[_Spelling]] = defaultdict(list)
        self._sounds: defaultdict[str, list[_Sound]] = defaultdict(list)
        self._skeletons: defaultdict[str, list[_Sound]] = defaultdict(list)
        self._starts: defaultdict[str, list[_Sound]] = defaultdict(list)
        for order, term in enumerate(terms):
            if _only_latin(term.word):
                for spelling in _spoken(term.word):
                    self._spell(term.word, order, spelling, said=False)
            for alias in term.sounds_like:
                if _only_latin(alias):
                    self._spell(term.word, order, alias, said=True)
        self._longest = max(map(len, self._spellings), default=0)

    def _spell(self, word: str, order: int, spelling: str, *, said: bool) -> None:
        units = [unit for run in runs(spelling) for unit in run]
        letters = "".join(_letters(unit) for unit in units)
        pieces, at = set(), 0
        for unit in units:
            for hump in _HUMPS.findall(unit.text) if unit.kind == "latin" else [unit.text]:
                at += len(hump)
                pieces.add(at)
        for written in {letters, "".join(_number(unit) for unit in units)}:
            if written:
                self._spellings[written].append(_Spelling(word, order, frozenset(pieces), said))
        if len(letters) >= SHORTEST_SOUND - 1 and all(unit.kind == "latin" for unit in units):
            # A name in one piece is read as one word, and as the words its capitals show.
            for parts in (
                [unit.text for unit in units],
                [hump for unit in units for hump in _HUMPS.findall(unit.text)],
            ):
                sound = _Sound(word, order, joined([key(part) for part in parts]), letters)
                if sound not in self._sounds[sound.key]:
                    self._sounds[sound.key].append(sound)
                    self._skeletons[skeleton(sound.key)].append(sound)
                    self._starts[_start(sound.key)].append(sound)

    def matches(self, text: str, found: Sequence[Sequence[Unit]], *, sounds: bool) -> Iterator[Match]:
        """Every place where a term may be heard.

        found: the text's runs. sounds: whether to look for sounds too, as English has them.
        """
        for run in found:
            for at, unit in enumerate(run):
                if unit.kind == "han" and unit.text not in NUMBERS:
                    continue
                letters = numbers = ""
                for end in range(at, min(at + MOST_UNITS, len(run))):
                    if run[end].kind == "han" and run[end].text not in NUMBERS and run[end].text != "点":
                        break
                    letters += _letters(run[end])
                    numbers += _number(run[end])
                    spelled = min(len(letters), len(numbers)) <= self._longest + len("s")
                    sounded = sounds and end - at < MOST_SOUNDED
                    if spelled:
                        yield from self._spelled(text, run[at : end + 1], letters, numbers)
                    if sounded:
                        yield from self._sounded(run[at : end + 1])
                    if not (spelled or sounded):
                        break

    def _spelled(self, text: str, units: Sequence[Unit], letters: str, numbers: str) -> Iterator[Match]:
        start, end = units[0].start, units[-1].end
        for written in {letters, numbers}:
            for spelling in self._spellings.get(written, ()):
                if units[0].kind == "han" or units[-1].text == "点":
                    continue
                heard = text[start:end]
                if heard == spelling.word or _only_raised(units[0], heard, spelling.word):
                    yield Match(start, end, spelling.word, spelling.order, exact=True, changed=False)
                elif spelling.said or _may_be_written(units, spelling):
                    yield Match(start, end, spelling.word, spelling.order, exact=True)
        if len(units) == 1 and _singular(letters) != letters and not english().common(_singular(letters), MEANT):
            for spelling in self._spellings.get(_singular(letters), ()):
                if not spelling.said and text[start : end - 1] != spelling.word and _may_be_written(units, spelling):
                    yield Match(start, end - 1, spelling.word, spelling.order, exact=True)

    def _sounded(self, units: Sequence[Unit]) -> Iterator[Match]:
        heard = [unit.text.lower().replace("’", "'") for unit in units]
        letters = sum(map(len, heard))
        if letters < SHORTEST_SOUND - 1 or any(unit.kind != "latin" for unit in units) or _meant(heard):
            return
        start, end = units[0].start, units[-1].end
        sounds = joined([key(word) for word in heard])
        common = english().common
        if len(heard) == 1:
            name = heard[0] != units[0].text and not units[0].first and len(sounds) > SHORTEST_SOUND
            if common(heard[0], COMMON) if name else _known(heard[0]):
                return
            if heard[0] in self._spellings or _singular(heard[0]) in self._spellings:
                return  # left to the rules for spelling
        for term in self._sounds.get(sounds, ()):
            if term.letters != "".join(heard):
                yield Match(start, end, term.word, term.order, exact=True)
        if letters < SHORTEST_SOUND or min(map(len, heard)) < 2:
            return
        if not all(map(_known, heard)):
            near = self._nearest(sounds, heard)
        else:
            near = self._vowel_by_vowel(sounds) if len(heard) > 1 else None
        if near:
            yield Match(start, end, near.word, near.order, exact=False)

    def _nearest(self, sounds: str, heard: Sequence[str]) -> _Sound | None:
        """The term that sounds most like something, where one is near.

        Letters that go on after the whole of a term make another word of it (Patagonian).
        """
        near = []
        letters = "".join(heard)
        for number, term in enumerate(self._starts.get(_start(sounds), ())):
            longer = max(len(term.key), len(sounds))
            limit = NEAR * longer if len(heard) == 1 and longer >= LONG_KEY else SHORT_NEAR
            if letters.startswith(term.letters) or len(term.key) < SHORTEST_SOUND - 1:
                continue
            if (cost := distance(sounds, term.key, limit)) <= limit:
                near.append((cost, term.order, number, term))
        return min(near)[-1] if near else None

    def _vowel_by_vowel(self, sounds: str) -> _Sound | None:
        """A term with the same consonants, and a vowel wherever there is one."""
        bare = skeleton(sounds)
        if len(bare) < SHORTEST_SOUND - 1:
            return None
        return next((term for term in self._skeletons.get(bare, ()) if len(term.key) == len(sounds)), None)


def _meant(heard: Sequence[str]) -> bool:
    """Whether words are likely to mean what they say, whatever they sound like."""
    common = english().common
    return not FUNCTION_WORDS.isdisjoint(heard) or (
        len(heard) > 1 and all(_known(word) and common(word, LESS_COMMON) for word in heard)
    )


def _may_be_written(units: Sequence[Unit], spelling: _Spelling) -> bool:
    """Whether words may be a term in other letters rather than what they say."""
    heard = [unit.text.lower() for unit in units]
    words = english()
    if len(heard) == 1:
        return not words.common(heard[0], MEANT)
    if sum(len(word) == 1 for word in heard) > 1:
        return True  # spelled out
    if set(heard) & FUNCTION_WORDS:
        return False
    if not all(words.common(word) for word in heard):
        return True
    ends, at = set(), 0
    for unit in units:
        at += len(_letters(unit))
        ends.add(at)
    return ends <= spelling.pieces or not all(words.common(word, LESS_COMMON) for word in heard)


def _only_raised(unit: Unit, heard: str, word: str) -> bool:
    """Whether a term in small letters only begins a sentence."""
    return unit.first and heard[:1].isupper() and heard[:1].lower() + heard[1:] == word


def _known(word: str) -> bool:
    """Whether a list knows a word, or one that it is a form of; single letters are none."""
    words = english()
    return len(word) > 1 and (words.common(word) or words.common(_ENDINGS.sub("", word)))


def _singular(word: str) -> str:
    return word[:-1] if word.endswith("s") and not word.endswith("ss") else word


def _spoken(word: str) -> set[str]:
    """A term as it is written, and as its marks are said."""
    spoken = {word}
    for mark, names in _SPOKEN.items():
        spoken |= {form.replace(mark, name) for form in spoken if mark in form for name in names}
    return spoken


def _letters(unit: Unit) -> str:
    return "".join(character for character in unit.text.lower() if character.isalnum())


def _number(unit: Unit) -> str:
    return NUMBERS.get(unit.text.lower()) or _letters(unit)


def _start(sounds: str) -> str:
    """Keys that may be near begin alike: with a vowel, or with one of a group of consonants."""
    first = sounds[:1]
    for group in ("aeiou", "bpvfw", "dtT", "gkjC", "sS", "mn", "lr", "hy"):
        if first in group:
            return group
    return first


def _only_latin(text: str) -> bool:
    """Letters with or without numbers; Chinese numerals may stand beside them (GPT四, but not 千问三)."""
    units = [unit for run in runs(text) for unit in run]
    return any(unit.kind == "latin" for unit in units) and all(
        unit.kind != "han" or unit.text in NUMBERS or unit.text == "点" for unit in units
    )
