"""Qwen3-ASR as the batcher drives it: jobs enter, every step takes all of them on, jobs leave.

    samples ─ log-mel ─ windows of 8 s, each encoded on its own ─┐
    prompt ids ─ embeddings ──────────────────────────────────────┴─ decoder ─ arg max ─ next token of each row

A step gives each settled row its next token and takes a bounded piece of the newcomers' prompts with it, so a long
newcomer never holds the others up for more than one piece. A window is encoded when the piece that needs it comes, in
bounded memory whatever the length of the clip.

Everything here is called from one thread. It knows token ids, not text.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from tingdao.engines.hardware import memory_errors
from tingdao.engines.qwen_decoder import Decoder
from tingdao.engines.qwen_dialogue import Job, audio_tokens
from tingdao.engines.qwen_encoder import Encoder
from tingdao.engines.qwen_memory import Memory

HEARD = 0
"""Stands in a row's ids where audio goes; any token does."""
GRAIN = 512
"""Tokens. Rows reserve multiples of it, so that rows of similar length share a shelf."""
PIECE = {"cpu": 256, "cuda": 4096}
"""Prompt tokens to a step: on a CPU about half a second of work, on a GPU enough to fill it."""


@dataclass(eq=False, slots=True)
class _Row:
    """A job at work.

    ids: its prompt, and what it had answered before it entered. features: log-mel frames of the whole clip.
    heard: what of the audio is encoded, from its beginning, (tokens, hidden).
    """

    job: Job
    memory: Memory
    ids: list[int]
    features: Tensor
    heard: Tensor

    @property
    def left(self) -> int:
        """Tokens of the prompt that are still to go through."""
        return len(self.ids) - self.memory.length

    def audio(self, count: int) -> tuple[int, int]:
        """Which tokens of the audio are among the next `count` of the prompt: (begin, end)."""
        begin = self.memory.length - len(self.job.head)
        total = audio_tokens(self.job.frames)
        return min(max(begin, 0), total), min(max(begin + count, 0), total)


class QwenModel:
    """The model and the rows it works on."""

    def __init__(self, encoder: Encoder, decoder: Decoder) -> None:
        self._encoder, self._decoder = encoder, decoder
        self._piece = PIECE.get(decoder.device.type, PIECE["cuda"])
        self._rows: dict[Job, _Row] = {}
        self._entering: list[_Row] = []

    def cost(self, job: Job) -> int:
        """Tokens that a job reserves."""
        return -(-job.length_limit // GRAIN) * GRAIN

    def enter(self, job: Job) -> None:
        """Take a job in; one that was put back goes on where it was."""
        with memory_errors(), torch.inference_mode():
            ids = [*job.head, *[HEARD] * audio_tokens(job.frames), *job.tail, *job.tokens]
            memory = self._decoder.enter(len(ids), self.cost(job))
            features = self._encoder.features(job.samples)
            row = _Row(job, memory, ids, features, self._decoder.embed([]))
        self._rows[job] = row
        self._entering.append(row)

    def step(self) -> list[Job]:
        """One pass over all rows; returns the jobs that got a token."""
        with memory_errors(), torch.inference_mode():
            return self._step()

    def leave(self, job: Job) -> None:
        """Forget a job, and free what it held."""
        row = self._rows.pop(job, None)
        if row is not None:
            with torch.inference_mode():
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
        hidden = self._decoder.forward(torch.cat(parts), [(row.memory, count) for row, count in pieces])
        asked, end = list(range(len(settled))), len(settled)
        arrived = []
        for row, count in pieces:
            end += count
            if not row.left:
                arrived.append(row)
                asked.append(end - 1)
        chosen = self._decoder.logits(hidden[asked]).max(-1).indices.tolist()
        for row in arrived:
            self._entering.remove(row)
            self._decoder.settle(row.memory)
            row.features = row.heard = row.heard[:0]
        moved = [*settled, *arrived]
        for row, token in zip(moved, chosen, strict=True):
            row.job.take(token)
        return [row.job for row in moved]

    def _pieces(self) -> list[tuple[_Row, int]]:
        """Whose prompts go on in this step, by how many tokens.

        First come, first served, but prompts that fit into a step overtake longer ones, of which the first always
        gets half a step: so neither waits for the other.
        """
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

    def _listen(self, pieces: list[tuple[_Row, int]]) -> None:
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
                row.heard = torch.cat([row.heard, heard])

    def _embedded(self, row: _Row, count: int) -> Tensor:
        """The next `count` tokens of a prompt as the decoder takes them, (count, hidden)."""
        start = row.memory.length
        embedded = self._decoder.embed(row.ids[start : start + count])
        begin, end = row.audio(count)
        if end > begin:
            shift = len(row.job.head) - start
            embedded[begin + shift : end + shift] = row.heard[begin:end]
        return embedded
