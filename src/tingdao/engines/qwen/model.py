"""Qwen3-ASR as the batcher drives it: jobs enter, every step takes all of them on, jobs leave.

    samples ─ log-mel ─ windows of 8 s, each encoded on its own ─┐
    prompt ids ─ embeddings ──────────────────────────────────────┴─ decoder ─ arg max ─ next token of each row

A step gives each settled row its next token and takes a bounded piece of the newcomers' prompts with it, so a long
newcomer never holds the others up for more than one piece. A window is encoded when the piece that needs it comes, in
bounded memory whatever the length of the clip.

Everything here is called from one thread. It knows token ids, not text, and not what computes: encoder and decoder are
either those of PyTorch (`encoder`, `decoder` beside this) or those of OpenVINO (`openvino.encoder` and so on).
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from tingdao.engines.qwen.dialogue import Job, audio_tokens

Array = Any
"""A torch tensor or a numpy array: of what both can, only slices are read and written here."""

HEARD = 0
"""Stands in a row's ids where audio goes; any token does."""
GRAIN = 512
"""Tokens. Rows reserve multiples of it, so that rows of similar length can be kept together."""


class Memory(Protocol):
    """What a decoder remembers of one row."""

    @property
    def length(self) -> int:
        """Tokens seen."""
        ...


M = TypeVar("M", bound=Memory)


class Encoder(Protocol):
    """The hearing half. window: mel frames that attend to each other."""

    window: int

    def features(self, samples: NDArray[np.float32]) -> Array:
        """Log-mel frames (bins, frames), frames a multiple of `CHUNK`; short clips are filled up with silence."""
        ...

    def encode(self, parts: Sequence[tuple[Array, int]]) -> list[Array]:
        """Parts of clips, each beginning with a window → their tokens, (tokens, hidden) each.

        parts: (features (bins, whole chunks), how many frames of them are audio).
        """
        ...


class Decoder(Protocol[M]):
    """The writing half. piece: prompt tokens to a step, so many that a step stays short."""

    piece: int

    def working(self) -> AbstractContextManager[None]:
        """What every call that computes runs in; turns the library's errors for want of memory into MemoryError."""
        ...

    @property
    def settled(self) -> list[M]:
        """All settled rows, in the order in which `next` wants their tokens."""
        ...

    def enter(self, head: Sequence[int], prompt: int, capacity: int) -> M:
        """Memory for a row with a prompt of so many tokens, that may grow to `capacity` tokens.

        head: ids that the prompt begins with, before anything that was heard.
        """
        ...

    def recall(self, row: M) -> None:
        """Have an entering row begin behind what is known of its head, from rows that began alike."""
        ...

    def settle(self, row: M) -> None:
        """Keep a row whose prompt is through among those that bring one token each."""
        ...

    def leave(self, row: M) -> None:
        """Forget a row."""
        ...

    def embed(self, ids: list[int]) -> Array:
        """Token ids → embeddings (n, hidden)."""
        ...

    def join(self, parts: list[Array]) -> Array:
        """Embeddings one after the other."""
        ...

    def next(self, x: Array, entering: list[tuple[M, int]], asked: list[int]) -> list[int]:
        """One pass over embeddings (T, hidden) → the likeliest next token at each of the asked positions.

        x: one of each settled row, in the order of `settled`, then the pieces of the entering rows.
        entering: (row, tokens of its piece).
        Lengths grow only when it is through, so that a pass that failed can be repeated.
        """
        ...


@dataclass(eq=False, slots=True)
class _Row(Generic[M]):
    """A job at work.

    ids: its prompt, and what it had answered before it entered. features: log-mel frames of the whole clip.
    heard: what of the audio is encoded, from its beginning, (tokens, hidden).
    """

    job: Job
    memory: M
    ids: list[int]
    features: Array
    heard: Array

    @property
    def left(self) -> int:
        """Tokens of the prompt that are still to go through."""
        return len(self.ids) - self.memory.length

    def audio(self, count: int) -> tuple[int, int]:
        """Which tokens of the audio are among the next `count` of the prompt: (begin, end)."""
        begin = self.memory.length - len(self.job.head)
        total = audio_tokens(self.job.frames)
        return min(max(begin, 0), total), min(max(begin + count, 0), total)


class QwenModel(Generic[M]):
    """The model and the rows it works on."""

    def __init__(self, encoder: Encoder, decoder: Decoder[M]) -> None:
        self._encoder, self._decoder = encoder, decoder
        self._piece = decoder.piece
        self._rows: dict[Job, _Row[M]] = {}
        self._entering: list[_Row[M]] = []

    def cost(self, job: Job) -> int:
        """Tokens that a job reserves."""
        return -(-job.length_limit // GRAIN) * GRAIN

    def enter(self, job: Job) -> None:
        """Take a job in; one that was put back goes on where it was."""
        with self._decoder.working():
            ids = [*job.head, *[HEARD] * audio_tokens(job.frames), *job.tail, *job.tokens]
            memory = self._decoder.enter(job.head, len(ids), self.cost(job))
            features = self._encoder.features(job.samples)
            row = _Row(job, memory, ids, features, self._decoder.embed([]))
        self._rows[job] = row
        self._entering.append(row)

    def step(self) -> list[Job]:
        """One pass over all rows; returns the jobs that got a token."""
        with self._decoder.working():
            return self._step()

    def leave(self, job: Job) -> None:
        """Forget a job, and free what it held."""
        row = self._rows.pop(job, None)
        if row is not None:
            with self._decoder.working():
                self._decoder.leave(row.memory)
            if row in self._entering:
                self._entering.remove(row)

    def _step(self) -> list[Job]:
        owners = {row.memory: row for row in self._rows.values()}
        settled = [owners[memory] for memory in self._decoder.settled]
        pieces = self._pieces()
        self._listen(pieces)
        parts = [self._decoder.embed([row.job.tokens[-1] for row in settled])]
        parts += [self._embedded(row, count) for row, count in pieces]
        asked, end = list(range(len(settled))), len(settled)
        arrived = []
        for row, count in pieces:
            end += count
            if row.left == count:
                arrived.append(row)
                asked.append(end - 1)
        entering = [(row.memory, count) for row, count in pieces]
        chosen = self._decoder.next(self._decoder.join(parts), entering, asked)
        for row in arrived:
            self._entering.remove(row)
            self._decoder.settle(row.memory)
            row.features = row.heard = row.heard[:0]
        moved = [*settled, *arrived]
        for row, token in zip(moved, chosen, strict=True):
            row.job.take(token)
        return [row.job for row in moved]

    def _pieces(self) -> list[tuple[_Row[M], int]]:
        """Whose prompts go on in this step, by how many tokens.

        First come, first served, but prompts that fit into a step overtake longer ones, of which the first always
        gets half a step: so neither waits for the other. Before that each looks what others have read of its head
        meanwhile.
        """
        for row in self._entering:
            self._decoder.recall(row.memory)
        long = next((row for row in self._entering if row.left > self._piece), None)
        left = self._piece // 2 if long else self._piece
        pieces = []
        for row in self._entering:
            if left and row.left <= self._piece:
                pieces.append((row, min(left, row.left)))
                left -= pieces[-1][1]
        if long:
            pieces.append((long, left + self._piece - self._piece // 2))
        return pieces

    def _listen(self, pieces: list[tuple[_Row[M], int]]) -> None:
        """Encode the windows that these pieces are the first to reach, all in one go."""
        window, rows, parts = self._encoder.window, [], []
        for row, count in pieces:
            known, (_, end) = len(row.heard), row.audio(count)
            if end > known:
                first, last = known // audio_tokens(window), -(-end // audio_tokens(window))
                begin, frames = first * window, min(row.job.frames, last * window)
                rows.append(row)
                parts.append((row.features[:, begin : last * window], frames - begin))
        if parts:
            for row, heard in zip(rows, self._encoder.encode(parts), strict=True):
                row.heard = self._decoder.join([row.heard, heard])

    def _embedded(self, row: _Row[M], count: int) -> Array:
        """The next `count` tokens of a prompt as the decoder takes them, (count, hidden)."""
        start = row.memory.length
        embedded = self._decoder.embed(row.ids[start : start + count])
        begin, end = row.audio(count)
        if end > begin:
            shift = len(row.job.head) - start
            embedded[begin + shift : end + shift] = row.heard[begin:end]
        return embedded
