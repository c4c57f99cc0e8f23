"""What the forced aligner is given: a clip and its words as token ids. Needs no torch.

    <|audio_start|><|audio_pad|>…<|audio_end|>word<timestamp><timestamp>word<timestamp><timestamp>…

At the two marks behind each word the model says when it starts and ends. Words are letters, digits and apostrophes, so
none can spell a token that steers the model.

Source of the form: the processors of transformers' `qwen3_asr` and of qwen-asr 0.0.6.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from tingdao.engines.aligner.words import Unit
from tingdao.engines.base import Ended
from tingdao.engines.qwen.dialogue import HOP, SHORTEST, audio_tokens
from tingdao.engines.qwen.weights import AGAIN
from tingdao.errors import SetupError
from tingdao.types import SAMPLE_RATE

TOKENS_PER_SECOND, TOKENS_AT_LEAST = 100, 256
"""More text than anybody speaks: the fastest speech is some 20 characters a second, each with two marks of time."""


@dataclass(eq=False, slots=True)
class Job:
    """One clip and its words; the aligner's batcher carries it to the model and back.

    samples: float32 (n,), 16 kHz. ids: the whole prompt. words: how many are in it.
    steps: once it has ended, the predicted start and end of each word in turn.
    """

    samples: NDArray[np.float32]
    ids: list[int]
    words: int
    steps: list[int] = field(default_factory=list)
    ended: Ended | None = None


class Prompter:
    """Prompts in terms of one tokenizer. Raises SetupError when it is not one of the forced aligner.

    audio, timestamp: ids of the token that stands for a piece of audio, and of the one that asks for a time.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._before, self._after = self._id("<|audio_start|>"), self._id("<|audio_end|>")
        self.audio, self.timestamp = self._id("<|audio_pad|>"), self._id("<timestamp>")

    def job(self, samples: NDArray[np.float32], units: Sequence[Unit]) -> Job:
        """The job of a clip, with as many of its units as anybody could say in that time."""
        heard = audio_tokens(max(len(samples), SHORTEST) // HOP)
        ids = [self._before, *[self.audio] * heard, self._after]
        budget = TOKENS_AT_LEAST + len(samples) * TOKENS_PER_SECOND // SAMPLE_RATE
        words = 0
        for unit in units:
            word = self._tokenizer.encode(unit.spoken, add_special_tokens=False).ids
            budget -= len(word) + 2
            if budget < 0:
                break
            ids += [*word, self.timestamp, self.timestamp]
            words += 1
        return Job(samples, ids, words)

    def _id(self, token: str) -> int:
        number = self._tokenizer.token_to_id(token)
        if number is None:
            raise SetupError(f"The tokenizer lacks {token}: it is not that of the forced aligner. {AGAIN}")
        return int(number)
