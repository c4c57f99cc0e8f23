"""Where a term is heard in a text, and which of several such places count."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Match:
    """`text[start:end]` sounds like a term and is to be written `word`.

    order: the term's place in the vocabulary. exact: whether both sound the same, or the caller says so; else they
    are only near. changed: whether the text is not written so already.
    """

    start: int
    end: int
    word: str
    order: int
    exact: bool
    changed: bool = True

    @property
    def length(self) -> int:
        """In characters of the text."""
        return self.end - self.start


def chosen(matches: Iterable[Match]) -> list[Match]:
    """The matches that count, in order and not overlapping; those that change nothing are left out.

    Exact before near, longer before shorter, what is right already before what would change it, then by the terms'
    order. What is right already stays, unless it is a part of a longer term (协会 in 中间协会 for 中介协会).
    """
    every = list(dict.fromkeys(matches))
    right = [match for match in every if not match.changed]
    standing = [
        kept
        for kept in right
        if not any(
            other.start <= kept.start
            and kept.end <= other.end
            and other.length > kept.length
            and kept.word != other.word
            and kept.word in other.word
            for other in every
            if other is not kept
        )
    ]
    taken: list[Match] = []
    rest = sorted(
        (match for match in every if match.changed),
        key=lambda match: (not match.exact, -match.length, match.order, match.start),
    )
    for match in (*standing, *rest):
        if all(match.end <= other.start or other.end <= match.start for other in taken):
            taken.append(match)
    return sorted((match for match in taken if match.changed), key=lambda match: match.start)
