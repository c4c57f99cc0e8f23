"""The contract between the pipeline and every engine.

An engine turns one clip into text. It does not know about recordings, requests, HTTP or files. Many `recognise`
calls run at once; how they share the hardware (threads, batches, servers) is the engine's own affair.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Literal, Protocol

from tingdao.types import Clip, Segment, Usage

Ability = Literal["words", "stream", "context", "force_language"]
"""words: gives word times. stream: gives text while it decodes. context: takes context text.
force_language: can be told the language."""
Ended = Literal["stop", "length", "loop"]
"""Why an answer ended: by the model's own end, by its budget, or stopped because it repeated itself."""


@dataclass(frozen=True, slots=True)
class ModelCard:
    """What a model is and can do.

    languages: ISO 639 codes that it recognises.
    clip_limit: the longest clip it takes, in seconds.
    width: how many clips it works on side by side before more only wait.
    sent_limit: the longest recording that it takes as it was sent (`Clip.sent`), in seconds; 0 for none.
    stand_in: whether it only fills in until Qwen3-ASR is set up.
    """

    name: str
    family: str
    languages: frozenset[str]
    clip_limit: float
    width: int
    can: frozenset[Ability]
    sent_limit: float = 0.0
    stand_in: bool = False


@dataclass(frozen=True, slots=True)
class Ask:
    """How one clip is to be recognised.

    language: ISO code to force, or None to detect.
    context: text that helps (the system turn of Qwen3-ASR).
    prefix: text that the answer must start with, for live sessions.
    max_tokens: budget for the answer, or None for one that follows from the clip's length.
    words: whether word times are wanted.
    """

    language: str | None = None
    context: str = ""
    prefix: str = ""
    max_tokens: int | None = None
    words: bool = False


@dataclass(frozen=True, slots=True)
class Recognition:
    """What an engine heard in one clip.

    language: ISO code, or None when it heard no speech.
    segments: finer pieces with times in seconds from the clip's start, from engines that know them; else empty.
    ended: "stop" when the model came to its own end, "length" when the budget ran out, "loop" when it was
        stopped because it repeated itself.
    """

    text: str
    language: str | None
    segments: tuple[Segment, ...] = ()
    usage: Usage = field(default_factory=Usage)
    ended: Ended = "stop"


@dataclass(frozen=True, slots=True)
class Partial:
    """Text that has been added since the last partial; the last one carries the whole recognition."""

    delta: str
    final: Recognition | None = None


class NotTaken(Exception):
    """A clip as it was sent was not recognised: it must be decoded after all. Says why."""


class Engine(Protocol):
    """One loaded model.

    Cancelling a task that awaits `recognise` frees the engine's slot. An item that fails raises `EngineFailed`
    for its own caller only.
    """

    card: ModelCard

    async def recognise(self, clip: Clip, ask: Ask) -> Recognition:
        """Recognise one clip. Raises EngineFailed, and NotTaken for clips as they were sent."""
        ...

    def recognise_stream(self, clip: Clip, ask: Ask) -> AsyncIterator[Partial]:
        """Recognise one clip and yield text as it comes. Engines without the ability yield once."""
        ...

    async def close(self) -> None:
        """Free the model. Calls in flight end with EngineFailed."""
        ...
