"""One clip of a recording: recognise, try again in parts where the model lost its way, time the words.

This is the one place that asks engines. It knows nothing of other clips, of decoding, or of who asked.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from tingdao.audio.speech import ClipSpan
from tingdao.audio.spool import Spool
from tingdao.engines.base import Ask, Engine, Recognition
from tingdao.pipeline.repair import RETRIED, split
from tingdao.pipeline.segments import aligned_segments, segments_of
from tingdao.types import SAMPLE_RATE, Clip, Segment, Usage

if TYPE_CHECKING:
    from tingdao.engines.aligner import Aligner

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

    aligner: times the words when they are asked for and the engine does not give them; else None.
    """

    spool: Spool
    engine: Engine
    ask: Ask
    aligner: Aligner | None = None

    async def hear(self, span: ClipSpan, splits: int = MOST_SPLITS) -> Heard:
        """Recognise a clip. Raises what the engine and the aligner raise."""
        samples = await asyncio.to_thread(self.spool.read, span.start, span.end)
        clip = Clip(samples, span.start / SAMPLE_RATE)
        recognition = await self.engine.recognise(clip, self.ask)
        parts = split(span) if splits and recognition.ended != "stop" else None
        if parts is None:
            return Heard(await self._timed(span, clip, recognition), recognition.usage)
        heard = [await self.hear(part, splits - 1) for part in parts]
        segments = [_flagged(segment, RETRIED) for part in heard for segment in part.segments]
        return Heard(segments, sum((part.usage for part in heard), recognition.usage))

    async def _timed(self, span: ClipSpan, clip: Clip, recognition: Recognition) -> list[Segment]:
        segments = segments_of(span, recognition)
        if self.aligner is None or not segments or recognition.language is None:
            return segments
        (whole,) = segments  # an engine that leaves the times to the aligner gives none
        alignment = await self.aligner.align(clip, whole.text, recognition.language)
        return aligned_segments(whole, alignment, clip.start)


def _flagged(segment: Segment, flag: str) -> Segment:
    return segment if flag in segment.flags else replace(segment, flags=(*segment.flags, flag))
