"""How words in Latin letters sound, to an English ear, roughly: a spelling that equal sounds share, and distances.

Models write what they do not know the way they hear it (Axenture, promethius, pie torch). A key is such a spelling
by sound: one letter a sound, vowels and all. Letters of a key: consonants as they are, S for sh, C for ch, T for th,
N for ng; vowels a e i o u.
"""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache
from itertools import accumulate
from string import ascii_lowercase

VOWELS = frozenset("aeiou")
_RULES = [
    (re.compile(pattern), sound)
    for pattern, sound in (
        (r"^mc(?=[^aeiouy])", "mak"), (r"^(?:kn|gn|pn)", "n"), (r"^ps", "s"), (r"^pf", "f"),
        (r"^wr", "r"), (r"^x", "z"),
        (r"^rh", "r"), (r"mb$", "m"), (r"(?<=.)e$", ""),
        (r"tch", "C"), (r"sch", "S"), (r"ch(?=[rl])", "k"), (r"ch", "C"), (r"sh", "S"), (r"ph", "f"),
        (r"(?<=[aeiou])gh(?=t|$)", ""), (r"gh", "g"), (r"th", "T"), (r"[ts]i(?=o[nu])", "S"),
        (r"cc(?=[eiy])", "ks"), (r"x", "ks"), (r"sc(?=[eiy])", "s"), (r"c(?=[eiy])", "s"), (r"ck|c|q(?!u)", "k"),
        (r"qu", "kw"), (r"dge?(?=[iey]|$)", "j"), (r"wh", "w"), (r"tz", "ts"), (r"z", "s"), (r"ng(?=$|[^aeiouy])", "N"),
        (r"ee|ea|ie|ei|ey|y(?![aeiou])", "i"), (r"oo|ou|ew|eu|ue", "u"), (r"oa|ow|au|aw|oh", "o"), (r"ai|ay|ae", "e"),
        (r"(?<=[aeiou])h(?=[^aeiou]|$)", ""), (r"([A-Za-z])\1+", r"\1"),
    )
]  # fmt: skip
_LIKE = {
    frozenset(pair)
    for pair in ("bp", "dt", "gk", "fv", "ss", "sS", "SC", "jC", "gj", "tT", "sT", "fT", "dT", "mn", "lr", "vw", "nN",
                 "jS", "vb", "jy", "iy", "uw")
}  # fmt: skip
VOWEL, LIKE, ADDED_VOWEL, WEAK = 0.3, 0.4, 0.5, 0.5
"""Costs of another vowel, a like consonant, a vowel more or less, and an h, w or y more or less; 1 is another sound."""


@lru_cache(maxsize=20_000)
def key(word: str) -> str:
    """A word as it sounds."""
    bare = unicodedata.normalize("NFD", word.lower())
    sounds = "".join(letter for letter in bare if "a" <= letter <= "z")
    for pattern, sound in _RULES:
        sounds = pattern.sub(sound, sounds)
    return sounds


def joined(keys: list[str]) -> str:
    """Words said in one breath: a sound that ends one and begins the next is said once."""
    sounds = ""
    for one in keys:
        sounds += one[1:] if sounds and one[:1] == sounds[-1:] else one
    return sounds


def skeleton(sounds: str) -> str:
    """A key without its vowels, but for a vowel that begins it."""
    return ("a" if sounds[:1] in VOWELS else sounds[:1]) + "".join(sound for sound in sounds[1:] if sound not in VOWELS)


def distance(one: str, other: str, limit: float) -> float:
    """What it costs to turn one key into another; anything past the limit when it is more."""
    if abs(len(one) - len(other)) * ADDED_VOWEL > limit:
        return limit + 1
    alone = [_ALONE[sound] for sound in other]
    row = [0.0, *accumulate(alone)]
    for left in one:
        swaps, dropped = _SWAPS[left], _ALONE[left]
        above, last = row, row[0] + dropped
        row = [last]
        for place, right in enumerate(other):
            last = min(above[place] + swaps[right], above[place + 1] + dropped, last + alone[place])
            row.append(last)
        if min(row) > limit:
            return limit + 1
    return row[-1]


def _swap(left: str, right: str) -> float:
    if left == right:
        return 0.0
    if left in VOWELS and right in VOWELS:
        return VOWEL
    return LIKE if frozenset((left, right)) in _LIKE else 1.0


_SOUNDS = ascii_lowercase + "SCTN"
_ALONE = {sound: ADDED_VOWEL if sound in VOWELS else WEAK if sound in "hwy" else 1.0 for sound in _SOUNDS}
_SWAPS = {left: {right: _swap(left, right) for right in _SOUNDS} for left in _SOUNDS}
