"""The text half of Qwen3-ASR on OpenVINO: one pass over the tokens of many rows at once, and what each row has seen.

Keys and values lie in blocks of 32 tokens. A row takes a block when it reaches it and gives all of them back when it
leaves (`blocks`). The arrays are as long as the budget allows, but the system only gives memory to the blocks that were
ever used.

This module does not know about audio, text or requests.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from math import prod

import numpy as np
import openvino
from numpy.typing import NDArray

from tingdao.engines.openvino.blocks import BLOCK, Blocks, Memory
from tingdao.engines.openvino.graph import decoder_graph
from tingdao.engines.openvino.runtime import compile_graph, computing, exact, fast
from tingdao.engines.openvino.weights import GROUP, Weights

Floats = NDArray[np.float32]

PIECE = 256
"""Prompt tokens to a step: about a quarter of a second of work for the small model on two cores."""


class Decoder:
    """The compiled graph, and the rows that it works on."""

    piece = PIECE

    def __init__(self, weights: Weights, threads: int) -> None:
        text = weights.config["text_config"]
        self._weights = weights
        options = {"float32": exact(), "int8": fast(), "int4": fast(GROUP)}[weights.precision]
        self._model = compile_graph(decoder_graph(weights), threads, **options)
        self._request = self._model.create_infer_request()
        powers = np.arange(0, text["head_dim"], 2, dtype=np.float32) / text["head_dim"]
        self._frequencies = (1.0 / text["rope_parameters"]["rope_theta"] ** powers).astype(np.float32)
        self._blocks = Blocks(0)
        self._held: dict[str, NDArray[np.uint8]] = {}
        self.settled: list[Memory] = []

    @property
    def token_bytes(self) -> int:
        """Bytes of memory that one token takes."""
        blocks: Iterator[int] = (prod(shape) * kind.size for _, kind, shape in self._caches(1))
        return sum(blocks) // BLOCK

    def reserve(self, tokens: int) -> None:
        """Make room for so many tokens of all rows together. No row may be there yet."""
        count = tokens // BLOCK
        self._blocks = Blocks(count)
        for name, kind, shape in self._caches(count):
            # Zero pages of the system's, so nothing is taken until it is written to.
            self._held[name] = np.zeros(prod(shape) * kind.size, np.uint8)
            self._request.set_tensor(name, openvino.Tensor(self._held[name], openvino.Shape(shape), kind))

    def _caches(self, blocks: int) -> Iterator[tuple[str, openvino.Type, list[int]]]:
        """Name, type and shape of each array of keys or values."""
        for each in self._model.inputs:
            if each.any_name.startswith(("key_cache.", "value_cache.")):
                sizes = [size.get_length() for size in list(each.partial_shape)[1:]]
                yield each.any_name, each.element_type, [blocks, *sizes]

    def working(self) -> AbstractContextManager[None]:
        """Nothing to prepare; OpenVINO's error for want of memory becomes MemoryError."""
        return computing()

    def enter(self, head: Sequence[int], prompt: int, capacity: int) -> Memory:
        """Memory for a row; it grows by blocks."""
        return self._blocks.row(head)

    def recall(self, row: Memory) -> None:
        """Have an entering row begin behind what is known of its head."""
        self._blocks.recall(row)

    def settle(self, row: Memory) -> None:
        """Keep a row whose prompt is through among those that bring one token each."""
        self.settled.append(row)

    def leave(self, row: Memory) -> None:
        """Forget a row; its blocks are free again."""
        if row in self.settled:
            self.settled.remove(row)
        self._blocks.give_back(row)

    def embed(self, ids: list[int]) -> Floats:
        """Token ids → embeddings (n, hidden)."""
        return self._weights.embed(ids)

    def join(self, parts: list[Floats]) -> Floats:
        """Embeddings one after the other."""
        return np.concatenate(parts)

    def next(self, x: Floats, entering: list[tuple[Memory, int]], asked: list[int]) -> list[int]:
        """One pass over embeddings (T, hidden) → the likeliest next token at each of the asked positions.

        x: one of each settled row, in the order of `settled`, then the pieces of the entering rows.
        entering: (row, tokens of its piece).
        """
        rows = [(row, 1) for row in self.settled] + entering
        chosen: list[int] = self.logits(x, rows, asked).argmax(axis=-1).tolist()
        for row, count in rows:
            row.length += count
        for row, _ in entering:
            self._blocks.remember(row)
        return chosen[: len(asked)]

    def logits(self, x: Floats, rows: list[tuple[Memory, int]], asked: list[int]) -> Floats:
        """Logits of the asked positions (n, vocabulary); valid until the next call. Lengths are left as they were."""
        assert len(x) == sum(count for _, count in rows)  # the library would read on past the end
        past = [row.length for row, _ in rows]
        ends = [row.length + count for row, count in rows]
        for (row, _), end in zip(rows, ends, strict=True):
            self._blocks.grow(row, end)
        tables = [row.blocks[: -(-end // BLOCK)] for (row, _), end in zip(rows, ends, strict=True)]
        positions = np.concatenate([np.arange(begin, end) for begin, end in zip(past, ends, strict=True)])
        angles = np.tile(positions.astype(np.float32)[:, None] * self._frequencies, 2)[:, None, None]
        given = {
            "x": x,
            "cosine": np.cos(angles),
            "sine": np.sin(angles),
            "asked": _numbers(asked or [0]),  # a piece that ends no prompt asks for nothing, and the graph for one
            "past_lens": _numbers(past),
            "subsequence_begins": _bounds([count for _, count in rows]),
            "block_indices": _numbers([block for table in tables for block in table]),
            "block_indices_begins": _bounds([len(table) for table in tables]),
            "max_context_len": np.array(max(ends), np.int32),
        }
        self._request.infer({name: openvino.Tensor(value, shared_memory=True) for name, value in given.items()})
        logits: Floats = self._request.get_output_tensor(0).data
        return logits


def _numbers(values: list[int]) -> NDArray[np.int32]:
    return np.array(values, np.int32)


def _bounds(sizes: list[int]) -> NDArray[np.int32]:
    """Where each of so many things begins, and where the last one ends."""
    return np.cumsum([0, *sizes], dtype=np.int32)
