"""The text half of Qwen3-ASR: one pass over the tokens of many rows at once, and the memory of what each row has seen.

    tokens of all rows, one after the other (T, hidden) ─ layers ─ hidden states ─ logits of the asked positions

A pass mixes rows of two kinds. *Settled* rows bring one token each; their keys and values lie in shelves, grouped by
how long a row may grow, so that one attention call serves a whole shelf and little of it is padding. *Entering* rows
bring a piece of their prompt; each attends to its own memory, and is put on a shelf when its prompt is through.

The arithmetic is that of transformers' `Qwen3Model`, which `benchmarks/parity` proves. It is written out because the
library's own ways fell short, measured by `benchmarks/engine.py` with the 0.6B model on 2 cores: `generate` on a batch
of equal clips that start together, its best case, took 1.25 to 1.36 times as long, and nobody can join it, leave it or
stream from it; its continuous batching takes token ids only, no sound. The time went into copying all keys and values
to append to them, copying them again to spread grouped heads, and products of few rows over plain bf16 matrices, which
read 15 GB/s where packed ones read 25. This module does not know about audio, text or requests.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional

from tingdao.engines.hardware import memory_errors, pack, packed_product, packs
from tingdao.engines.qwen.memory import Heads, Memory, Shelf, ShelfView
from tingdao.engines.qwen.weights import Checkpoint

Product = Callable[[Tensor], Tensor]
"""x (T, in) → x @ weightᵀ (T, out)."""

MODEL = "model.language_model."
PIECE = {"cpu": 256, "cuda": 4096}
"""Prompt tokens to a step: on a CPU about half a second of work, on a GPU enough to fill it."""


def product(weight: Tensor) -> Product:
    """The product with a weight (out, in)."""
    if packs(weight.device, weight.dtype):
        return partial(packed_product, packed=pack(weight))
    return partial(functional.linear, weight=weight)


@dataclass(frozen=True, slots=True)
class Layer:
    """The weights of one layer, products of the same input joined into one.

    head_norms: the norms of queries and keys, a row for each head.
    """

    norm: Tensor
    qkv: Product
    head_norms: Tensor
    out: Product
    mlp_norm: Tensor
    gate_up: Product
    down: Product


class Decoder:
    """Embeddings, layers and output matrix of one checkpoint, and the shelves of its rows."""

    def __init__(self, checkpoint: Checkpoint, device: torch.device, dtype: torch.dtype) -> None:
        text = checkpoint.config["text_config"]
        self.device, self.dtype, self.piece = device, dtype, PIECE[device.type]
        self.heads, self.key_heads, self.size = (
            text["num_attention_heads"],
            text["num_key_value_heads"],
            text["head_dim"],
        )
        self._epsilon = text["rms_norm_eps"]
        # Of torch's kernels, that for bf16 on a CPU is a third faster when told of the groups; those for GPUs fall back
        # to a slow one for groups with a mask, and float32 on a CPU is a fifth slower.
        self._takes_groups = device.type == "cpu" and dtype == torch.bfloat16
        powers = torch.arange(0, self.size, 2, dtype=torch.float, device=device) / self.size
        self._frequencies = 1.0 / text["rope_parameters"]["rope_theta"] ** powers
        self._layers = [
            self._layer(checkpoint, f"{MODEL}layers.{number}.") for number in range(text["num_hidden_layers"])
        ]
        self._norm = checkpoint.tensor(f"{MODEL}norm.weight", device, dtype)
        self._embed(checkpoint)
        self._shelves: dict[int, Shelf] = {}
        self._heads = Heads()

    def _embed(self, checkpoint: Checkpoint) -> None:
        """The embeddings and the output matrix. Tied, they are one matrix, and are not kept twice."""
        name = f"{MODEL}embed_tokens.weight"
        self._table = checkpoint.tensor(name, self.device, self.dtype)
        tied = "lm_head.weight" not in checkpoint.entries
        self._head = product(self._table if tied else checkpoint.tensor("lm_head.weight", self.device, self.dtype))
        if tied and packs(self.device, self.dtype):
            # Packed, rows cannot be looked up in it. The few that a service ever uses are read from the file.
            self._table = checkpoint.mapped(name)

    def _layer(self, checkpoint: Checkpoint, prefix: str) -> Layer:
        def read(name: str) -> Tensor:
            return checkpoint.tensor(f"{prefix}{name}.weight", self.device, self.dtype)

        def joined(*names: str) -> Product:
            mapped = [checkpoint.mapped(f"{prefix}{name}.weight").to(self.device, self.dtype) for name in names]
            return product(torch.cat(mapped))

        return Layer(
            norm=read("input_layernorm"),
            qkv=joined("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
            head_norms=torch.cat(
                [
                    read("self_attn.q_norm").expand(self.heads, -1),
                    read("self_attn.k_norm").expand(self.key_heads, -1),
                ]
            ),
            out=joined("self_attn.o_proj"),
            mlp_norm=read("post_attention_layernorm"),
            gate_up=joined("mlp.gate_proj", "mlp.up_proj"),
            down=joined("mlp.down_proj"),
        )

    @contextmanager
    def working(self) -> Iterator[None]:
        """Torch without gradients, and its errors for want of memory as MemoryError."""
        with memory_errors(), torch.inference_mode():
            yield

    @property
    def token_bytes(self) -> int:
        """Bytes of memory that one token takes."""
        return int(2 * len(self._layers) * self.key_heads * self.size * self.dtype.itemsize)

    @property
    def settled(self) -> list[Memory]:
        """All settled rows, in the order in which `forward` wants their tokens."""
        return [row for shelf in self._shelves.values() for row in shelf.rows]

    def enter(self, head: Sequence[int], prompt: int, capacity: int) -> Memory:
        """Memory for a row whose prompt begins with `head` and has so many tokens, and that may grow to `capacity`."""
        shape = (len(self._layers), self.key_heads, prompt, self.size)
        return Memory(capacity, tuple(head), self._empty(shape), self._empty(shape))

    def recall(self, row: Memory) -> None:
        """Have an entering row begin behind its head, where that is known."""
        self._heads.recall(row)

    def settle(self, row: Memory) -> None:
        """Put a row whose prompt is through on its shelf."""
        shelf = self._shelves.get(row.capacity)
        if shelf is None:
            shape = (len(self._layers), 1, self.key_heads, row.capacity, self.size)
            shelf = Shelf(self._empty(shape), self._empty(shape))
        shelf.add(row)
        self._shelves[row.capacity] = shelf

    def leave(self, row: Memory) -> None:
        """Forget a row; an empty shelf gives its memory back."""
        row.keys = row.values = None
        if row.shelf is not None:
            row.shelf.remove(row)
            row.shelf = None
            self._shelves = {capacity: shelf for capacity, shelf in self._shelves.items() if shelf.rows}

    def next(self, x: Tensor, entering: list[tuple[Memory, int]], asked: list[int]) -> list[int]:
        """One pass; the likeliest next token at each of the asked positions. Shapes as those of `forward`."""
        chosen: list[int] = self.logits(self.forward(x, entering)[asked]).max(-1).indices.tolist()
        return chosen

    def forward(self, x: Tensor, entering: Iterable[tuple[Memory, int]]) -> Tensor:
        """One pass. Lengths grow only when it is through, so that a pass that failed can be repeated.

        x: embeddings (T, hidden): one of each settled row, in the order of `settled`, then the pieces of
            the entering rows.
        entering: (row, tokens of its piece).
        Returns hidden states (T, hidden), before the last norm.
        """
        entering = list(entering)
        shelves = [ShelfView.of(shelf, self.device) for shelf in self._shelves.values()]
        lengths = [length for shelf in self._shelves.values() for length in shelf.lengths]
        for row, count in entering:
            lengths.extend(range(row.length, row.length + count))
        positions = torch.tensor(lengths, device=self.device)
        angles = (positions[:, None].float() * self._frequencies).repeat(1, 2)
        rope = angles.cos().to(self.dtype)[:, None], angles.sin().to(self.dtype)[:, None]
        masks = [_causal(row.length, count, self.device) for row, count in entering]
        for number, layer in enumerate(self._layers):
            x = x + layer.out(self._attend(number, layer, x, rope, shelves, entering, masks))
            gate, up = layer.gate_up(self._rms(x, layer.mlp_norm)).chunk(2, dim=-1)
            x = x + layer.down(functional.silu(gate) * up)
        for row, count in entering:
            self._heads.remember(row, row.length + count)
        for shelf in self._shelves.values():
            for row in shelf.rows:
                row.length += 1
        for row, count in entering:
            row.length += count
        return x

    def logits(self, hidden: Tensor) -> Tensor:
        """Hidden states (n, hidden) of `forward` → logits (n, vocabulary)."""
        return self._head(self._rms(hidden, self._norm))

    def join(self, parts: list[Tensor]) -> Tensor:
        """Embeddings one after the other."""
        return torch.cat(parts)

    def embed(self, ids: list[int]) -> Tensor:
        """Token ids → embeddings (n, hidden)."""
        return functional.embedding(torch.tensor(ids, dtype=torch.long, device=self._table.device), self._table).to(
            self.dtype
        )

    def _attend(
        self,
        number: int,
        layer: Layer,
        x: Tensor,
        rope: tuple[Tensor, Tensor],
        shelves: list[ShelfView],
        entering: list[tuple[Memory, int]],
        masks: list[Tensor | None],
    ) -> Tensor:
        """Attention of layer `number` for all rows: (T, hidden) → (T, heads · head)."""
        total = len(x)
        qkv = layer.qkv(self._rms(x, layer.norm)).view(total, -1, self.size)
        both, values = qkv.split([self.heads + self.key_heads, self.key_heads], dim=1)
        both = _turn(self._rms(both) * layer.head_norms, rope)
        queries, keys = both.split([self.heads, self.key_heads], dim=1)
        mixed = self._empty((total, self.heads, self.size))
        begin = 0
        for on in shelves:
            end = begin + on.count
            stored_keys, stored_values = on.shelf.keys[number], on.shelf.values[number]
            stored_keys[on.places, :, on.lengths] = keys[begin:end]
            stored_values[on.places, :, on.lengths] = values[begin:end]
            mixed[begin:end] = self._sdpa(
                queries[begin:end, :, None],
                stored_keys[: on.count, :, : on.longest],
                stored_values[: on.count, :, : on.longest],
                on.mask,
            )[:, :, 0]
            begin = end
        for (row, count), mask in zip(entering, masks, strict=True):
            assert row.keys is not None
            assert row.values is not None
            end, seen = begin + count, row.length + count
            row.keys[number, :, row.length : seen] = keys[begin:end].transpose(0, 1)
            row.values[number, :, row.length : seen] = values[begin:end].transpose(0, 1)
            mixed[begin:end] = self._sdpa(
                queries[begin:end].transpose(0, 1)[None],
                row.keys[None, number, :, :seen],
                row.values[None, number, :, :seen],
                mask,
                causal=mask is None,
            )[0].transpose(0, 1)
            begin = end
        return mixed.view(total, -1)

    def _sdpa(
        self, queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None, *, causal: bool = False
    ) -> Tensor:
        """Grouped attention: queries (n, heads, T, head), keys and values (n, key heads, L, head)."""
        if causal or self._takes_groups:
            return functional.scaled_dot_product_attention(
                queries, keys, values, attn_mask=mask, is_causal=causal, enable_gqa=True
            )
        # The queries that share keys, as more queries of the same head.
        groups, count = queries.shape[1] // keys.shape[1], queries.shape[2]
        folded = queries.reshape(len(queries), keys.shape[1], groups * count, self.size)
        mask = mask.repeat(groups, 1) if mask is not None and count > 1 else mask
        return functional.scaled_dot_product_attention(folded, keys, values, attn_mask=mask).view(queries.shape)

    def _rms(self, x: Tensor, weight: Tensor | None = None) -> Tensor:
        return functional.rms_norm(x, (x.shape[-1],), weight, self._epsilon)

    def _empty(self, shape: tuple[int, ...]) -> Tensor:
        return torch.empty(shape, dtype=self.dtype, device=self.device)


def _causal(seen: int, count: int, device: torch.device) -> Tensor | None:
    """Which tokens each token of a piece may see; None when the piece is the first and plainly causal."""
    if not seen:
        return None
    ones = torch.ones(count, seen + count, dtype=torch.bool, device=device)
    return ones.tril(diagonal=seen)


def _turn(x: Tensor, rope: tuple[Tensor, Tensor]) -> Tensor:
    """Rotary position embedding of x (T, heads, head)."""
    cosine, sine = rope
    first, second = x.chunk(2, dim=-1)
    return x * cosine + torch.cat((-second, first), dim=-1) * sine
