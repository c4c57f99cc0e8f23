"""Blocks of keys and values: shared where prompts begin alike, never written to by two, and never lost."""

from __future__ import annotations

import random

import pytest

from tingdao.engines.openvino.blocks import BLOCK, Blocks

NAMES = [*range(100)]
"""A head of three whole blocks, and four tokens."""


def heard(blocks, head, more=40):
    """A row that has gone through its head and more tokens, and how many of them it needed not."""
    row = blocks.row(head)
    blocks.recall(row)
    known = row.length
    blocks.grow(row, len(head) + more)
    row.length = len(head) + more
    blocks.remember(row)
    return row, known


def test_what_is_known_is_shared_whole_blocks_at_a_time():
    blocks = Blocks(100)
    first, known = heard(blocks, NAMES)
    assert known == 0
    second, known = heard(blocks, NAMES)
    assert known == 3 * BLOCK
    assert second.blocks[:3] == first.blocks[:3]
    assert not set(second.blocks[3:]) & set(first.blocks)
    third, known = heard(blocks, NAMES[:70] + [7] * 30)
    assert known == 2 * BLOCK
    assert third.blocks[:2] == first.blocks[:2]
    _, known = heard(blocks, [7] * BLOCK + NAMES[BLOCK:])  # the same block behind another one
    assert known == 0


def test_it_stays_known_when_nobody_has_it_until_the_blocks_are_needed():
    blocks = Blocks(16)
    row, _ = heard(blocks, NAMES)
    blocks.give_back(row)
    assert blocks.free == 16
    row, known = heard(blocks, NAMES)
    assert known == 3 * BLOCK
    blocks.give_back(row)
    long = blocks.row([])
    blocks.grow(long, 16 * BLOCK)
    assert blocks.free == 0
    with pytest.raises(MemoryError):
        blocks.grow(long, 17 * BLOCK)
    blocks.give_back(long)
    assert blocks.free == 16
    assert heard(blocks, NAMES)[1] == 0


def test_blocks_that_a_row_has_are_not_taken_from_it():
    blocks = Blocks(16)
    row, _ = heard(blocks, NAMES, more=0)
    other = blocks.row([])
    with pytest.raises(MemoryError):
        blocks.grow(other, 16 * BLOCK)
    assert not set(row.blocks) & set(other.blocks)
    blocks.give_back(other)
    blocks.give_back(row)
    assert blocks.free == 16


def test_a_row_that_has_begun_goes_on_from_what_others_have_done_meanwhile():
    blocks = Blocks(100)
    late = blocks.row(NAMES)
    blocks.recall(late)
    blocks.grow(late, 40)
    late.length = 40
    first, _ = heard(blocks, NAMES)
    blocks.recall(late)
    assert late.length == 3 * BLOCK
    assert late.blocks == first.blocks[:3]
    blocks.recall(late)
    assert late.length == 3 * BLOCK
    blocks.give_back(late)
    blocks.give_back(first)
    assert blocks.free == 100


def test_the_longest_unused_is_forgotten_and_the_end_of_it_before_its_beginning():
    blocks = Blocks(32)  # of which a quarter is kept: two heads of three blocks, and two blocks more
    heads = {name: [name] * 100 for name in (1, 2, 3)}
    for name in (1, 2, 1, 3):
        row, _ = heard(blocks, heads[name])
        blocks.give_back(row)
    for name, known in ((2, 2), (1, 3), (3, 3)):
        row = blocks.row(heads[name])
        blocks.recall(row)
        assert row.length == known * BLOCK
        blocks.give_back(row)


def test_whatever_comes_and_goes_no_two_rows_write_to_the_same_block():
    dice = random.Random(3)
    blocks = Blocks(60)
    heads = [NAMES, NAMES[:64], NAMES[:50] + [5] * 60, [1], [9] * 200]
    rows = []
    for _ in range(3000):
        if rows and dice.random() < 0.5:
            blocks.give_back(rows.pop(dice.randrange(len(rows))))
            continue
        row = blocks.row(dice.choice(heads))
        rows.append(row)
        for _ in range(dice.randint(1, 4)):
            blocks.recall(row)
            begin = row.length
            try:
                blocks.grow(row, begin + dice.randint(1, 90))
            except MemoryError:
                break
            row.length = len(row.blocks) * BLOCK - dice.randint(0, BLOCK - 1)
            written = set(row.blocks[begin // BLOCK :])
            others = {block for other in rows if other is not row for block in other.blocks}
            assert not written & others
            blocks.remember(row)
    for row in rows:
        blocks.give_back(row)
    assert blocks.free == 60
