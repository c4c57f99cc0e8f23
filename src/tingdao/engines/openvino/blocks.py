"""Which row holds which block of keys and values, and what is still known of how prompts begin.

    enter ─ recall: begin behind the blocks of the head that are known ─ grow, block by block ─ remember ─ give back

Clips of one recording, and of callers who expect the same words, have prompts that begin alike: with the same context,
which is hundreds of tokens for a list of words. What was computed of it once is shared by all rows that have it, in
whole blocks; a row only ever writes behind them. When no row has a known block any more it stays for the next one,
until the blocks are needed or others were used later.

The lowest free block is taken first, so that memory once touched is used again before more is.
"""

from __future__ import annotations

import hashlib
import heapq
from array import array
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field

BLOCK = 32
"""Tokens to a block; the only size that OpenVINO's paged attention has on a CPU."""
KNOWN_TOKENS = 4096
"""Tokens of heads that stay known while no row has them: the longest context by default, and 250 MB at most."""


@dataclass(eq=False, slots=True)
class Memory:
    """What one row has seen: how many tokens, and the blocks that hold them.

    marks: one for each whole block of the prompt's head; it tells this and all blocks before it from any others.
    """

    length: int = 0
    blocks: list[int] = field(default_factory=list)
    marks: list[bytes] = field(default_factory=list)


class Blocks:
    """All blocks of one decoder. count: how many there are."""

    def __init__(self, count: int) -> None:
        self._free = list(range(count))
        self._holders = [0] * count  # rows that have a block, and one more where it is known
        # Mark → block, the longest unused first. What follows on a block is always before it, so it goes first, too.
        self._known: OrderedDict[bytes, int] = OrderedDict()
        self._kept = min(count // 4, KNOWN_TOKENS // BLOCK)

    @property
    def free(self) -> int:
        """How many nobody needs."""
        return len(self._free) + sum(self._holders[block] == 1 for block in self._known.values())

    def row(self, head: Sequence[int]) -> Memory:
        """An empty row whose prompt begins with such ids."""
        row, mark = Memory(), b""
        for end in range(BLOCK, len(head) + 1, BLOCK):
            mark = hashlib.blake2b(mark + array("q", head[end - BLOCK : end]).tobytes(), digest_size=16).digest()
            row.marks.append(mark)
        return row

    def recall(self, row: Memory) -> None:
        """Have an entering row begin behind what is known of its head, where that is further than it has come."""
        known = []
        for mark in row.marks:
            if mark not in self._known:
                break
            known.append(self._known[mark])
        if len(known) * BLOCK <= row.length:
            return
        for block in known:
            self._holders[block] += 1
        self.give_back(row)
        row.blocks.extend(known)
        row.length = len(known) * BLOCK
        self._touch(row.marks[: len(known)])

    def grow(self, row: Memory, tokens: int) -> None:
        """Have blocks for so many tokens. Raises MemoryError."""
        while len(row.blocks) * BLOCK < tokens:
            row.blocks.append(self._take())

    def remember(self, row: Memory) -> None:
        """Know what a row has seen of its head."""
        seen = row.marks[: row.length // BLOCK]
        if not seen or seen[-1] in self._known:
            return
        for mark, block in zip(seen, row.blocks, strict=False):
            if mark not in self._known:
                self._known[mark] = block
                self._holders[block] += 1
        self._touch(seen)
        while len(self._known) > self._kept:
            self._forget()

    def give_back(self, row: Memory) -> None:
        """Take all blocks from a row."""
        for block in row.blocks:
            self._let_go(block)
        row.blocks.clear()

    def _touch(self, marks: list[bytes]) -> None:
        for mark in reversed(marks):
            self._known.move_to_end(mark)

    def _take(self) -> int:
        while not self._free:
            if not self._known:
                raise MemoryError("all blocks are taken")
            self._forget()
        block = heapq.heappop(self._free)
        self._holders[block] = 1
        return block

    def _forget(self) -> None:
        self._let_go(self._known.popitem(last=False)[1])

    def _let_go(self, block: int) -> None:
        self._holders[block] -= 1
        if not self._holders[block]:
            heapq.heappush(self._free, block)
