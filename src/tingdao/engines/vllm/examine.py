"""What a vLLM server is, what it can, and whether it recognises: asked when it is found, and when it has idled."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from typing import Literal

from tingdao import languages
from tingdao.engines import canary
from tingdao.engines.base import Ability, Ask
from tingdao.engines.qwen.answer import opening, parse
from tingdao.engines.qwen.dialogue import HOP, TOKENS_PER_SECOND, audio_tokens
from tingdao.engines.vllm.client import Address, Request
from tingdao.engines.vllm.prompt import UPLOAD_LANGUAGES, UPLOAD_SECONDS, Question
from tingdao.engines.vllm.wire import Broken, Identity, Misfit, Refused, Wire
from tingdao.settings import VllmSettings
from tingdao.types import SAMPLE_RATE

Told = Literal["language", "context"]

CANARY_TOKENS = 48
CLIP_LIMIT = 1200.0
"""Seconds that the model takes in one piece."""
SHORTEST_LIMIT = 10.0
"""Seconds of a clip that a server must take at least."""
FRAME_TOKENS = 64
"""Tokens of the prompt beside context and audio, with some to spare."""
SECOND_TOKENS = audio_tokens(SAMPLE_RATE // HOP) + TOKENS_PER_SECOND
"""Tokens of a second of audio and its answer."""


@dataclass(frozen=True, slots=True)
class Facts:
    """What was found out about a server.

    continues: whether it goes on with what is put into its mouth: a language, prefix text, what another server said.
    upload: what an upload can tell it instead.
    """

    identity: Identity
    continues: bool
    upload: frozenset[Told] = frozenset()

    @property
    def can(self) -> frozenset[Ability]:
        """As `ModelCard.can`."""
        always: frozenset[Ability] = frozenset({"stream", "context"})
        return always | {"force_language"} if self.continues or "language" in self.upload else always

    @property
    def limits(self) -> str:
        """What it cannot be told, in words for the operator; nothing when there is no such thing."""
        if self.continues:
            return ""
        if "language" not in self.upload:
            return "the language"
        missing = " and ".join(sorted(languages.NAMES[code] for code in languages.NAMES.keys() - UPLOAD_LANGUAGES))
        context = "" if "context" in self.upload else ", nor a context with a language"
        return f"{missing}, nor the language of clips of more than {UPLOAD_SECONDS:g} s{context}"

    def why_not(self, ask: Ask, seconds: float) -> str | None:
        """Why it cannot recognise a clip of so many seconds as it is asked to, in words for the caller."""
        if self.continues or not (ask.language or ask.prefix):
            return None
        if ask.prefix or "language" not in self.upload:
            return "it cannot be told the language: its chat template leaves that out"
        if ask.language not in UPLOAD_LANGUAGES:
            return f"its chat template leaves the language out, and it cannot be told {ask.language!r} otherwise"
        if ask.context and "context" not in self.upload:
            return "its chat template leaves the language out, and otherwise it takes no context with a language"
        if seconds > UPLOAD_SECONDS:
            return (
                "its chat template leaves the language out, and otherwise it is told one only with clips of up to "
                f"{UPLOAD_SECONDS:g} s ([audio] clip_limit_s)"
            )
        return None


async def examine(wire: Wire, address: Address, settings: VllmSettings) -> tuple[Facts, float, float]:
    """Find out what a server is and whether it recognises. Raises UpstreamError.

    Returns what it can, and how long the canary took and was silent, in seconds.
    """
    async with limit(settings.canary_timeout_s):
        identity = await wire.identify(address, settings.model)
        if room(identity.length, settings.context_tokens)[1] < SHORTEST_LIMIT:
            raise Misfit(f"It takes {identity.length} tokens at once: start it with a larger --max-model-len")
        took, silent = await sing(wire, address, identity.model)
        continues = await _continues(wire, address, identity.model)
        upload = frozenset() if continues else await _upload(wire, address, identity.model)
    return Facts(identity, continues, upload), took, silent


async def sing(wire: Wire, address: Address, model: str) -> tuple[float, float]:
    """Let a server recognise the canary: seconds in all, and of silence at most. Raises UpstreamError."""
    request = _song().chat(model, "", CANARY_TOKENS)
    began = last = time.monotonic()
    said, silent = "", 0.0
    async with aclosing(wire.ask(address, request)) as answered:
        async for pieces in answered:
            silent, last = max(silent, time.monotonic() - last), time.monotonic()
            said += "".join(piece.text for piece in pieces)
            if any(piece.finish == "length" for piece in pieces):
                raise Broken("It finds no end on the canary recording: is its model Qwen3-ASR, and whole?")
    if not parse(said, Ask())[0]:
        raise Broken("It makes nothing of the canary recording: is its model Qwen3-ASR, and whole?")
    return last - began, silent


async def _continues(wire: Wire, address: Address, model: str) -> bool:
    """Whether words that are put into the model's mouth are gone on with, and not said again, or refused."""
    try:
        said, _ = await _said(wire, address, _song().chat(model, opening(canary.LANGUAGE), CANARY_TOKENS))
    except Refused:
        return False
    return bool(said.strip()) and not said.lstrip().startswith("language")


async def _upload(wire: Wire, address: Address, model: str) -> frozenset[Told]:
    """What an upload can tell: that which makes the prompt longer."""
    requests = (
        _song().upload(model, None, 1),
        _song().upload(model, canary.LANGUAGE, 1),
        _song(canary.SAID).upload(model, canary.LANGUAGE, 1),
    )
    try:
        bare, with_language, with_both = [(await _said(wire, address, request))[1] for request in requests]
    except (Broken, Misfit, Refused):
        return frozenset()
    told: dict[Told, bool] = {"language": bare < with_language, "context": with_language < with_both}
    return frozenset(what for what, longer in told.items() if longer)


async def _said(wire: Wire, address: Address, request: Request) -> tuple[str, int]:
    """What is said to a request, and how many tokens its prompt has. Raises UpstreamError."""
    said, prompt_tokens = "", 0
    async with aclosing(wire.ask(address, request)) as answered:
        async for pieces in answered:
            said += "".join(piece.text for piece in pieces)
            prompt_tokens = max([prompt_tokens, *(piece.prompt_tokens or 0 for piece in pieces)])
    return said, prompt_tokens


def _song(context: str = "") -> Question:
    return Question.of(canary.recording(), context, encoding="wav")


def room(length: int | None, context_tokens: int) -> tuple[int, float]:
    """(tokens of context, seconds of a clip) at most, where prompt and answer have `length` tokens together."""
    if length is None:
        return context_tokens, CLIP_LIMIT
    context = min(context_tokens, length // 2)
    return context, min(CLIP_LIMIT, (length - context - FRAME_TOKENS) / SECOND_TOKENS)


@asynccontextmanager
async def limit(seconds: float) -> AsyncIterator[None]:
    """A block in which a server must be through in time. Raises Broken."""
    try:
        async with asyncio.timeout(seconds) as deadline:
            yield
    except TimeoutError:
        if not deadline.expired():
            raise
        raise Broken(f"It did not answer within {seconds:g} s") from None
