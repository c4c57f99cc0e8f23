"""Common words of Chinese and English, in order of frequency; which of them a text is made of.

A word's frequency is guessed from its place in the list by Zipf's law, so the lists need no counts. They are
`words.zh.xz` (76,000 words of one to four characters, place names marked with @) and `words.en.xz` (83,000 words),
made by `tools/make_word_lists.py` from the dictionaries of jieba (MIT, © 2013 Sun Junyi) and symspellpy (MIT, © 2025
mmb L, © 2021 Wolf Garbe), the latter from SCOWL and the Google Books Ngrams.
"""

from __future__ import annotations

import lzma
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from math import log

LONGEST = 4
"""Characters of the longest Chinese word in the list."""
UNKNOWN_RANK = 300_000
"""The place that a character outside the list would have."""
PLACE_MARK = "@"

FUNCTION_WORDS = frozenset(
    re.findall(
        "[a-z]+",
        """
        a an the this that these those my your his her its our their mine yours hers ours theirs
        i you he she it we they me him us them who whom whose which what myself yourself himself herself itself
        ourselves themselves and or but nor so if then than because while although though unless until since as
        of at by for with about against between into through during before after above below to from up down in out on
        off over under within without upon onto toward towards across along among around behind beside beyond near per
        is are was were be been being am do does did doing have has had having can could will would shall should may
        might must not no yes there here when where why how all any both each few more most other some such only own
        same too very just also again once ever never always got let
        """,
    )
)
"""English words that hold sentences together: hardly ever a part of a name that was written in pieces."""

FUNCTION_CHARACTERS = frozenset(
    "的地得了着过是有在和与跟同及或并且而但却则若如虽因所以之其于为被把将让给对从到向往由比"
    "我你您他她它们这那哪谁此某每各本该都也就还又再只才便即仅皆很太最更极甚非常不没未别莫勿"
    "会能可要应须想吗呢吧啊呀么哦个们一二三四五六七八九十百千万两几半第"
)
"""Chinese characters that do the same, numbers among them."""


@dataclass(frozen=True, slots=True)
class Words:
    """A list of words.

    ranks: each word's place, from 0 for the most frequent. places: words of two characters or more that name a place.
    """

    ranks: Mapping[str, int]
    places: frozenset[str]

    def common(self, word: str, within: int = UNKNOWN_RANK) -> bool:
        """Whether a word is among the first so many."""
        return self.ranks.get(word, UNKNOWN_RANK) < within

    def parts(self, text: str) -> list[tuple[int, int]]:
        """The likeliest cut of Chinese text into words, as (start, end) in characters."""
        best = [0.0] * (len(text) + 1)
        cut = [0] * (len(text) + 1)
        for end in range(1, len(text) + 1):
            options = []
            for start in range(max(0, end - LONGEST), end):
                rank = self.ranks.get(text[start:end])
                if rank is not None or end - start == 1:
                    options.append((best[start] + log(UNKNOWN_RANK if rank is None else rank + 10), start))
            best[end], cut[end] = min(options)
        parts, end = [], len(text)
        while end:
            parts.append((cut[end], end))
            end = cut[end]
        return parts[::-1]


@cache
def chinese() -> Words:
    """The Chinese list."""
    return _read("words.zh.xz")


@cache
def english() -> Words:
    """The English list, in lower-case letters."""
    return _read("words.en.xz")


def _read(name: str) -> Words:
    packed = resources.files(__package__).joinpath(name).read_bytes()
    lines = lzma.decompress(packed).decode("utf-8").split("\n")
    places = frozenset(line.rstrip(PLACE_MARK) for line in lines if line.endswith(PLACE_MARK) and len(line) > 2)
    return Words({line.rstrip(PLACE_MARK): rank for rank, line in enumerate(lines)}, places)
