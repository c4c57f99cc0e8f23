"""What the rows of a batch have seen: keys and values of every token, in the shelves that one attention call serves."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field

import torch
from torch import Tensor

SHORTEST_HEAD, KNOWN_TOKENS = 32, 2048
"""Tokens of a head that are worth keeping; and of all heads that are kept, but for the newest."""


@dataclass(eq=False, slots=True)
class Memory:
    """What one row has seen. Entering, it has keys of its own; settled, it is the row `place` of its shelf.

    length: tokens seen. capacity: tokens that fit. head: ids that its prompt begins with.
    keys, values: (layers, key heads, tokens of the prompt, head) while the row enters.
    """

    capacity: int
    head: tuple[int, ...] = ()
    keys: Tensor | None = None
    values: Tensor | None = None
    length: int = 0
    shelf: Shelf | None = None
    place: int = -1


class Heads:
    """Keys and values of how prompts began, for those that begin alike; the longest unused are forgotten first."""

    def __init__(self) -> None:
        self._known: OrderedDict[tuple[int, ...], tuple[Tensor, Tensor]] = OrderedDict()

    def recall(self, row: Memory) -> None:
        """Have an entering row begin behind its head, where that is known."""
        if row.length >= len(row.head) or row.head not in self._known:
            return
        assert row.keys is not None
        assert row.values is not None
        self._known.move_to_end(row.head)
        row.length = len(row.head)
        for stored, known in zip((row.keys, row.values), self._known[row.head], strict=True):
            stored[:, :, : row.length] = known

    def remember(self, row: Memory, seen: int) -> None:
        """Know the head of an entering row that has now seen so many tokens."""
        count = len(row.head)
        if count < SHORTEST_HEAD or seen < count or row.head in self._known:
            return
        assert row.keys is not None
        assert row.values is not None
        self._known[row.head] = row.keys[:, :, :count].clone(), row.values[:, :, :count].clone()
        while len(self._known) > 1 and sum(map(len, self._known)) > KNOWN_TOKENS:
            self._known.popitem(last=False)


@dataclass(eq=False)
class Shelf:
    """Keys and values of the settled rows of one capacity, in places 0, 1, … without a gap.

    Every row is filled up with zeros as far as the longest one reaches: attention masks what lies there, but nothing
    times a NaN left over in fresh memory is still a NaN. What lies beyond is never touched, nor taken from the system.

    keys, values: (layers, places, key heads, capacity, head).
    """

    keys: Tensor
    values: Tensor
    rows: list[Memory] = field(default_factory=list)

    @property
    def lengths(self) -> list[int]:
        """Tokens that each row has seen."""
        return [row.length for row in self.rows]

    def add(self, row: Memory) -> None:
        """Take a row that has entered. Makes a quarter more places when all are taken."""
        assert row.keys is not None
        assert row.values is not None
        row.place, longest = len(self.rows), max(self.lengths, default=0)
        if row.place == self.keys.shape[1]:
            self.keys, self.values = _larger(self.keys, longest), _larger(self.values, longest)
        for stored, brought in ((self.keys, row.keys), (self.values, row.values)):
            stored[:, row.place, :, : row.length] = brought
            stored[:, row.place, :, row.length : longest] = 0
            stored[:, : row.place, :, longest : row.length] = 0
        row.shelf, row.keys, row.values = self, None, None
        self.rows.append(row)

    def remove(self, row: Memory) -> None:
        """Free a row's place; the last row moves into it."""
        last = self.rows.pop()
        if last is not row:
            for stored in (self.keys, self.values):
                stored[:, row.place, :, : last.length] = stored[:, last.place, :, : last.length]
            last.place = row.place
            self.rows[row.place] = last


def _larger(tensor: Tensor, longest: int) -> Tensor:
    places = tensor.shape[1]
    larger = tensor.new_empty((tensor.shape[0], places + places // 4 + 1, *tensor.shape[2:]))
    larger[:, :places, :, :longest] = tensor[..., :longest, :]
    return larger


@dataclass(frozen=True, slots=True)
class ShelfView:
    """A shelf as one pass sees it: where the new token of each row goes, and which tokens each row may see."""

    shelf: Shelf
    count: int
    longest: int
    places: Tensor
    lengths: Tensor
    mask: Tensor | None

    @classmethod
    def of(cls, shelf: Shelf, device: torch.device) -> ShelfView:
        """The view for the next pass."""
        count, lengths = len(shelf.rows), torch.tensor(shelf.lengths, device=device)
        longest = max(shelf.lengths) + 1
        mask = None
        if min(shelf.lengths) + 1 < longest:
            mask = (torch.arange(longest, device=device) <= lengths[:, None])[:, None, None]
            for stored in (shelf.keys, shelf.values):
                stored[:, :count, :, longest - 1] = 0
        return cls(shelf, count, longest, torch.arange(count, device=device), lengths, mask)
