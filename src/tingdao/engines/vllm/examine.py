"""What a vLLM server is, what it can, and whether it recognises: asked when it is found, and when it has idled."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass

from tingdao.engines import canary
from tingdao.engines.base import Ability, Ask
from tingdao.engines.qwen.answer import opening, parse
from tingdao.engines.qwen.dialogue import HOP, TOKENS_PER_SECOND, audio_tokens
from tingdao.engines.vllm.client import Address
from tingdao.engines.vllm.prompt import Question
from tingdao.engines.vllm.wire import Broken, Busy, Identity, Misfit, UpstreamError, Wire
from tingdao.settings import VllmSettings
from tingdao.types import SAMPLE_RATE

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
    """What was found out about a server. can: as `ModelCard.can`."""

    identity: Identity
    can: frozenset[Ability]


async def examine(wire: Wire, address: Address, settings: VllmSettings) -> tuple[Facts, float, float]:
    """Find out what a server is and whether it recognises. Raises UpstreamError.

    Returns what it can, and how long the canary took and was silent, in seconds.
    """
    async with limit(settings.canary_timeout_s):
        identity = await wire.identify(address, settings.model)
        if room(identity.length, settings.context_tokens)[1] < SHORTEST_LIMIT:
            raise Misfit(f"It takes {identity.length} tokens at once: start it with a larger --max-model-len")
        took, silent = await sing(wire, address, identity.model)
        can: set[Ability] = {"stream", "context"}
        if await _obeys(wire, address, identity.model):
            can.add("force_language")
    return Facts(identity, frozenset(can)), took, silent


async def sing(wire: Wire, address: Address, model: str) -> tuple[float, float]:
    """Let a server recognise the canary: seconds in all, and of silence at most. Raises UpstreamError."""
    body = _song().body(model, "", CANARY_TOKENS)
    began = last = time.monotonic()
    said, silent = "", 0.0
    async with aclosing(wire.ask(address, body)) as answered:
        async for pieces in answered:
            silent, last = max(silent, time.monotonic() - last), time.monotonic()
            said += "".join(piece.text for piece in pieces)
            if any(piece.finish == "length" for piece in pieces):
                raise Broken("It finds no end on the canary recording: is its model Qwen3-ASR, and whole?")
    if not parse(said, Ask())[0]:
        raise Broken("It makes nothing of the canary recording: is its model Qwen3-ASR, and whole?")
    return last - began, silent


async def _obeys(wire: Wire, address: Address, model: str) -> bool:
    """Whether a language can be forced: words put into the model's mouth are not said again, or refused."""
    said = ""
    try:
        async with aclosing(
            wire.ask(address, _song().body(model, opening(canary.LANGUAGE), CANARY_TOKENS))
        ) as answered:
            async for pieces in answered:
                said += "".join(piece.text for piece in pieces)
    except (Misfit, Busy, Broken):
        raise
    except UpstreamError:
        return False
    return bool(said.strip()) and not said.lstrip().startswith("language")


def _song() -> Question:
    return Question.of(canary.recording(), encoding="wav")


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
