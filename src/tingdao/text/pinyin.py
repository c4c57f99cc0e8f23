"""How Chinese sounds: syllables of toneless pinyin, and which of them are mistaken for each other."""

from __future__ import annotations

import re
import unicodedata
from functools import cache
from itertools import groupby

from tingdao.text.words import chinese

MOST_READINGS = 3
"""Of a character: the rest are archaic."""

_INITIALS = ("zh", "ch", "sh", *"bpmfdtnlgkhjqxrzcsyw")
FUZZY_INITIALS = tuple(frozenset(pair) for pair in (("zh", "z"), ("ch", "c"), ("sh", "s"), "nl", "fh", "rl"))
"""Initials that some accents do not tell apart."""
FUZZY_FINALS = tuple(frozenset(pair) for pair in (("in", "ing"), ("en", "eng"), ("an", "ang")))
"""Finals that some accents do not tell apart."""
_LIKE_INITIALS = tuple(
    frozenset(pair)
    for pair in ("bp", "dt", "gk", "jq", "qx", "jx", "zc", "cs", "mn", "hk", ("zh", "ch"), ("ch", "sh"), ("zh", "j"),
                 ("ch", "q"), ("sh", "x"), ("z", "j"), ("c", "q"), ("s", "x"), ("w", "h"), ("r", "y"))
)  # fmt: skip
_LIKE_FINALS = tuple(
    frozenset(pair)
    for pair in (("ian", "ie"), ("ian", "in"), ("ie", "ia"), ("uo", "u"), ("uo", "o"), ("ui", "ei"), ("un", "ong"),
                 ("un", "en"), ("ei", "ai"), ("ou", "ao"), ("ou", "u"), ("e", "uo"), ("an", "en"), ("ang", "eng"),
                 ("eng", "ong"), ("iu", "ou"), ("iong", "ong"), ("ve", "ie"), ("v", "i"), ("uan", "an"),
                 ("uang", "ang"), ("uan", "un"), ("iao", "ao"), ("iang", "ing"), ("ai", "a"), ("ao", "a"))
)  # fmt: skip
_TONE = re.compile(r"[1-5]$")


@cache
def readings(character: str) -> tuple[str, ...]:
    """The syllables that a Chinese character is read as, the usual one first; none for what is not one."""
    from pypinyin.constants import PINYIN_DICT

    marked = PINYIN_DICT.get(ord(character), "")
    plain = dict.fromkeys(_plain(reading) for reading in marked.split(",") if reading)
    return tuple(plain)[:MOST_READINGS]


def read(text: str) -> list[str]:
    """Chinese text as it is read, one syllable a character, words with their own reading (银行 is yin hang).

    Characters without a reading stand for themselves.
    """
    from pypinyin import lazy_pinyin  # as above

    spoken: list[str] = []
    for has_reading, characters in groupby(text, key=lambda character: bool(readings(character))):
        stretch = "".join(characters)
        spoken += [_plain(syllable) for syllable in lazy_pinyin(stretch)] if has_reading else stretch
    return spoken


@cache
def tones(character: str) -> frozenset[str]:
    """The syllables that a Chinese character is read as, with their tones."""
    from pypinyin.constants import PINYIN_DICT  # as above

    return frozenset(PINYIN_DICT.get(ord(character), "").split(",")[:MOST_READINGS])


def syllables(spelling: str) -> tuple[str, ...] | None:
    """A spelling in pinyin, with or without tones, as syllables; None for what is not pinyin syllable by syllable."""
    pieces = re.split(r"[\s'’-]+", spelling.strip().lower().replace("u:", "v"))
    plain = tuple(_TONE.sub("", _plain(piece)) for piece in pieces)
    return plain if plain and all(piece in _known() for piece in plain) else None


@cache
def accented(one: str, other: str) -> bool:
    """Whether some accents do not tell two syllables apart (`FUZZY_INITIALS`, `FUZZY_FINALS`)."""
    (initial, final), (other_initial, other_final) = _split(one), _split(other)
    return (initial == other_initial or frozenset((initial, other_initial)) in FUZZY_INITIALS) and (
        final == other_final or _accented_finals(final, other_final)
    )


@cache
def close(one: str, other: str) -> bool:
    """Whether models are likely to take one syllable for the other: either its initial or its final is alike."""
    (initial, final), (other_initial, other_final) = _split(one), _split(other)
    if initial == other_initial:
        return _accented_finals(final, other_final) or frozenset((final, other_final)) in _LIKE_FINALS
    initials = frozenset((initial, other_initial))
    return final == other_final and (initials in FUZZY_INITIALS or initials in _LIKE_INITIALS)


def _accented_finals(final: str, other: str) -> bool:
    """With a medial (ian, uang) the pair is the same as without."""
    medial = final[0] if final[:1] == other[:1] and final[:1] in "iu" and final[1:2] == "a" else ""
    return frozenset((final.removeprefix(medial), other.removeprefix(medial))) in FUZZY_FINALS


def _split(syllable: str) -> tuple[str, str]:
    initial = next((initial for initial in _INITIALS if syllable.startswith(initial)), "")
    return initial, syllable[len(initial) :]


def _plain(syllable: str) -> str:
    """A syllable without tone, ü as v."""
    bare = unicodedata.normalize("NFD", syllable.lower()).replace("u\u0308", "v")
    return "".join(character for character in bare if not unicodedata.combining(character))


@cache
def _known() -> frozenset[str]:
    """Every syllable of the language: what the characters in use are read as."""
    return frozenset(syllable for word in chinese().ranks if len(word) == 1 for syllable in readings(word))
