"""Recognised text as units that have a sound: Chinese characters, words in Latin letters, numbers.

Units stand in runs. Within a run only spaces, and marks that join a name (next.js, GPT-4), stand between units;
nothing that is said across other punctuation is one term. The 's of an owner belongs to no unit and ends a run.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

Kind = Literal["han", "latin", "digits"]

_UNIT = re.compile(
    r"(?P<han>[\u3400-\u9fff\U00020000-\U0003ffff])"
    r"|(?P<latin>[A-Za-z\u00c0-\u024f]+(?:['’](?![sS]\b)[A-Za-z\u00c0-\u024f]+)*)(?P<owned>['’][sS]\b)?"
    r"|(?P<digits>[0-9]+)"
)
_JOINS = re.compile(r"[ \u00a0\u3000]*|[-·]|\.(?=\w)")
_SENTENCE_ENDS = frozenset(".!?。！？…\n")


@dataclass(frozen=True, slots=True)
class Unit:
    """One character, word or number; it stands at `start:end` in the text.

    first: whether a sentence begins with it.
    """

    text: str
    start: int
    end: int
    kind: Kind
    first: bool


def runs(text: str) -> list[list[Unit]]:
    """The runs of units of a text, in order."""
    found: list[list[Unit]] = []
    before, owned = 0, False
    for match in _UNIT.finditer(text):
        gap = text[before : match.start()]
        kind: Kind = "han" if match["han"] else "latin" if match["latin"] else "digits"
        first = not found or not _SENTENCE_ENDS.isdisjoint(gap)
        unit = Unit(match[kind], match.start(), match.end(kind), kind, first)
        if found and not owned and _JOINS.fullmatch(text, before, match.start()):
            found[-1].append(unit)
        else:
            found.append([unit])
        before, owned = match.end(), bool(match["owned"])
    return found
