"""One clip of a recording: recognise, try again where the model lost its way, time the words.

This is the one place that asks engines. It knows nothing of other clips, of decoding, or of who asked.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from tingdao.audio.speech import ClipSpan
from tingdao.audio.spool import Spool
from tingdao.engines.base import Ask, Engine, Recognition
from tingdao.errors import UnsupportedOption
from tingdao.observe import during, figures
from tingdao.pipeline.repair import CONTEXT_LEAKED, LANGUAGE_FORCED, RETRIED, split
from tingdao.pipeline.segments import aligned_segments, segments_of
from tingdao.text.leak import leaked
from tingdao.turns import Lane
from tingdao.types import SAMPLE_RATE, Clip, Segment, Usage

if TYPE_CHECKING:
    from tingdao.engines.aligner.engine import Aligner

MOST_SPLITS = 2
"""How often a clip is halved: into four parts at most."""


@dataclass(frozen=True, slots=True)
class Heard:
    """What came of one clip. usage: of everything that was tried."""

    segments: list[Segment]
    usage: Usage


@dataclass(frozen=True, slots=True)
class Listener:
    """How the clips of one recording are heard.

    lane: where they wait for their turn at the engine; only a clip that has its turn is read into memory.
    languages: the only ones that may be detected, the likeliest first; empty for any.
    aligner: times the words where the engine does not; None where none are needed.
    must_time: whether text that the aligner cannot time is an error; else it stays without words.
    """

    spool: Spool
    engine: Engine
    lane: Lane
    ask: Ask
    languages: tuple[str, ...] = ()
    aligner: Aligner | None = None
    must_time: bool = True

    async def hear(self, span: ClipSpan, splits: int = MOST_SPLITS) -> Heard:
        """Recognise a clip. Raises what the engine and the aligner raise."""
        async with self.lane.turn((span.end - span.start) / SAMPLE_RATE):
            samples = await asyncio.to_thread(self.spool.read, span.start, span.end)
            clip = Clip(samples, span.start / SAMPLE_RATE)
            recognition, flags = await self._recognised(clip, span)
        parts = split(span) if splits and recognition.ended != "stop" else None
        if parts is None:
            segments = await self._timed(span, clip, recognition)
            return Heard(_flagged(segments, *flags), recognition.usage)
        heard = [await self.hear(part, splits - 1) for part in parts]
        segments = [segment for part in heard for segment in part.segments]
        return Heard(_flagged(segments, RETRIED), sum((part.usage for part in heard), recognition.usage))

    async def _recognised(self, clip: Clip, span: ClipSpan) -> tuple[Recognition, list[str]]:
        """What the engine hears, again and asked otherwise where the answer shows that it was misled.

        Returns the last answer, with the tokens of all, and the flags that say what was done.
        """
        ask, flags = self.ask, []
        recognition = await asked(self.engine, clip, ask)
        usage = recognition.usage
        if ask.context and leaked(recognition.text, ask.context, span.speech_seconds):
            ask = replace(ask, context="")
            flags.append(CONTEXT_LEAKED)
            recognition = await asked(self.engine, clip, ask)
            usage += recognition.usage
        if self.languages and recognition.language not in {None, *self.languages}:
            ask = replace(ask, language=self.languages[0])
            flags.append(LANGUAGE_FORCED)
            recognition = await asked(self.engine, clip, ask)
            usage += recognition.usage
        return replace(recognition, usage=usage), flags

    async def _timed(self, span: ClipSpan, clip: Clip, recognition: Recognition) -> list[Segment]:
        segments = segments_of(span, recognition)
        if self.aligner is None or not segments or recognition.language is None:
            return segments
        (whole,) = segments  # an engine that leaves the times to the aligner gives none
        try:
            with during("align", start=clip.start):
                alignment = await self.aligner.align(clip, whole.text, recognition.language)
        except UnsupportedOption:
            if self.must_time:
                raise
            return segments
        return aligned_segments(whole, alignment, clip.start)


async def asked(engine: Engine, clip: Clip, ask: Ask) -> Recognition:
    """What an engine hears in a clip. Raises what it raises."""
    figures.get().clips += 1
    with during("recognise", start=clip.start, seconds=clip.duration):
        return await engine.recognise(clip, ask)


def _flagged(segments: list[Segment], *flags: str) -> list[Segment]:
    return [
        replace(segment, flags=tuple(dict.fromkeys((*segment.flags, *flags)))) if flags else segment
        for segment in segments
    ]
