r"""What is said to Qwen3-ASR and what it answers, as token ids and as text. Needs no torch.

    <|im_start|>system\n{context}<|im_end|>\n<|im_start|>user\n<|audio_start|>{audio}<|audio_end|><|im_end|>\n
    <|im_start|>assistant\n[language English<asr_text>[prefix]]  →  [language English<asr_text>]text<|im_end|>

With a forced language its tag is put into the model's mouth and only text comes back; without one the model says the
tag itself, `language None` when it hears no speech. What callers write (context, prefix) is never read as one of the
tokens that steer the model, whatever it spells.

Source of the form: the processors of transformers' `qwen3_asr` and of qwen-asr 0.0.6.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from math import ceil

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from tingdao.engines.base import Ask, Ended
from tingdao.engines.qwen.answer import TAG, AnswerReader, opening, parse
from tingdao.errors import ContextTooLong, SetupError
from tingdao.types import SAMPLE_RATE, Clip

HOP = 160
"""Samples to a mel frame."""
CHUNK = 100
"""Mel frames to a chunk of the encoder, which makes 13 tokens of it."""
SHORTEST = SAMPLE_RATE // 2
"""Samples. Shorter clips are filled up with silence, as the official implementation does."""
TOKENS_PER_SECOND = 25
"""More than the fastest speech takes: hurried Hindi, at about a token a letter, comes to some 20."""
TOKENS_AT_LEAST = 32
LOOP_TIMES, LOOP_TOKENS, LOOP_PERIOD = 8, 24, 60


@dataclass(eq=False, slots=True)
class Job:
    """One clip and how to answer it; the engine's batcher carries it to the model and back.

    samples: float32 (n,), 16 kHz. head, tail: prompt ids before and after the audio.
    ends: ids that end an answer. follow: ids that the answer must go on with after the token `tag`.
    tokens: the answer so far without its end. It outlives being taken off the model and started again.
    """

    samples: NDArray[np.float32]
    head: list[int]
    tail: list[int]
    max_tokens: int
    ends: frozenset[int]
    tag: int
    follow: list[int] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)
    ended: Ended | None = None
    _followed_from: int | None = None

    @property
    def frames(self) -> int:
        """Mel frames of the clip."""
        return max(len(self.samples), SHORTEST) // HOP

    @property
    def prompt_tokens(self) -> int:
        """Tokens before the answer, the audio's among them."""
        return len(self.head) + audio_tokens(self.frames) + len(self.tail)

    @property
    def length_limit(self) -> int:
        """Tokens that prompt and answer can come to."""
        return self.prompt_tokens + self.max_tokens + len(self.follow)

    @property
    def completion_tokens(self) -> int:
        """Tokens that the model chose itself, without the end."""
        followed = 0 if self._followed_from is None else min(len(self.follow), len(self.tokens) - self._followed_from)
        return len(self.tokens) - followed

    def take(self, token: int) -> None:
        """The model's next token; decides whether the answer ends with it."""
        if self._followed_from is not None and len(self.tokens) - self._followed_from < len(self.follow):
            self.tokens.append(self.follow[len(self.tokens) - self._followed_from])
            return
        if token in self.ends:
            self.ended = "stop"
            return
        self.tokens.append(token)
        if self.follow and self._followed_from is None and token == self.tag:
            self._followed_from = len(self.tokens)
        elif loops(self.tokens):
            self.ended = "loop"
        elif self.completion_tokens >= self.max_tokens:
            self.ended = "length"


def audio_tokens(frames: int) -> int:
    """Tokens that so many mel frames become: three halvings, rounded up, of every chunk."""
    rest = frames % CHUNK
    for _ in range(3):
        rest = (rest + 1) // 2
    return frames // CHUNK * 13 + rest


def answer_budget(clip: Clip, ask: Ask) -> int:
    """Tokens that an answer may have."""
    return ask.max_tokens or TOKENS_AT_LEAST + ceil(clip.duration * TOKENS_PER_SECOND)


def loops(tokens: Sequence[int]) -> bool:
    """Whether an answer has come to say the same again and again.

    That is: its end is one phrase of up to 60 tokens, 8 times or more in a row, and 24 tokens or more in all.
    """
    for period in range(1, min(LOOP_PERIOD, len(tokens) // LOOP_TIMES) + 1):
        if tokens[-1] != tokens[-1 - period]:
            continue
        span = period * max(LOOP_TIMES, ceil(LOOP_TOKENS / period))
        tail = tokens[-span:]
        if len(tail) == span and tail[period:] == tail[:-period]:
            return True
    return False


class Dialogue:
    """Prompts and answers in terms of one tokenizer. Raises SetupError when it is not one of Qwen3-ASR."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        added = tokenizer.get_added_tokens_decoder()
        spelled = sorted((token.content for token in added.values()), key=len, reverse=True)
        self._steering = re.compile("|".join(re.escape(text) for text in spelled) or r"(?!)")
        self._start, self._end, stop = self._id("<|im_start|>"), self._id("<|im_end|>"), self._id("<|endoftext|>")
        self._audio = self._id("<|audio_start|>"), self._id("<|audio_end|>")
        self.tag = self._id("<asr_text>")
        self.ends = frozenset({self._end, stop})

    def job(self, clip: Clip, ask: Ask, context_limit: int) -> Job:
        """What the model needs for a clip. Raises ContextTooLong past `context_limit` tokens of context."""
        context = self._encode(f"system\n{ask.context}")
        if len(context) > context_limit:
            raise ContextTooLong(
                f"The context has {len(context)} tokens; this model takes {context_limit}. Shorten it.", param="context"
            )
        line, (before, after) = self._encode("\n"), self._audio
        head = [self._start, *context, self._end, *line, self._start, *self._encode("user\n"), before]
        tail = [after, self._end, *line, self._start]
        prefix, follow = self._encode(ask.prefix), []
        if ask.language is None:
            tail += self._encode("assistant\n")
            follow = prefix
        else:
            tag = opening(ask.language).removesuffix(TAG)
            tail += [*self._encode(f"assistant\n{tag}"), self.tag, *prefix]
        return Job(clip.samples, head, tail, answer_budget(clip, ask), self.ends, self.tag, follow)

    def answer(self, tokens: Sequence[int], ask: Ask) -> tuple[str, str | None]:
        """(text, ISO code of the language); no speech is ("", None)."""
        return parse(self.decode(tokens), ask)

    def _encode(self, text: str) -> list[int]:
        """Ids of text whose steering tokens are only spelled: broken in two, they are read as plain characters."""
        ids: list[int] = []
        begin = 0
        for match in self._steering.finditer(text):
            ids += self._tokenizer.encode(text[begin : match.start() + 1], add_special_tokens=False).ids
            begin = match.start() + 1
        return ids + self._tokenizer.encode(text[begin:], add_special_tokens=False).ids

    def decode(self, tokens: Sequence[int]) -> str:
        """Ids → text, steering tokens left out."""
        return self._tokenizer.decode(list(tokens), skip_special_tokens=True)

    def _id(self, token: str) -> int:
        number = self._tokenizer.token_to_id(token)
        if number is None:
            raise SetupError(f"The tokenizer lacks {token}: it is not that of Qwen3-ASR. Download the model again.")
        return int(number)


class Reader:
    """An answer's text while its tokens come: as `AnswerReader`, and half a character is held back too."""

    def __init__(self, dialogue: Dialogue, ask: Ask) -> None:
        self._dialogue, self._text, self._next = dialogue, AnswerReader(ask), 0

    def more(self, tokens: Sequence[int]) -> str:
        """The text that has been added, given all tokens so far."""
        said = self._dialogue.decode(tokens[self._next :])
        if said.endswith("\ufffd"):
            return ""
        self._next = len(tokens)
        return self._text.more(said)

    def rest(self, text: str) -> str:
        """What is still to be given of the final text."""
        return self._text.rest(text)
