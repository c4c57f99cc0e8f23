"""The service without its doors: models, decoder and pipeline, as the HTTP side and the command line share them."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import BinaryIO

from tingdao.audio.decode import Decoder
from tingdao.engines.registry import Registry
from tingdao.languages import parse
from tingdao.observe import Metrics
from tingdao.pipeline.transcribe import Transcriber
from tingdao.types import Options, Progress, Segment, Transcript


@dataclass(frozen=True, slots=True)
class Service:
    """Everything behind the doors. `app.build` makes one from the settings."""

    registry: Registry
    decoder: Decoder
    transcriber: Transcriber
    metrics: Metrics

    async def start(self) -> None:
        """Begin to load the default model and warm up the decoder; returns at once."""
        self.registry.begin_loading()
        self.decoder.start()

    async def close(self) -> None:
        """Stop everything and free the models."""
        await self.decoder.close()
        await self.registry.close()

    async def run(
        self, source: BinaryIO, model: str | None, options: Options
    ) -> AsyncGenerator[Progress | Segment | Transcript, None]:
        """Transcribe with the named model; see `Transcriber.run`. `options.language` is as the client wrote it.

        Raises ModelNotFound, ModelUnavailable, UnknownLanguage, and what the pipeline raises.
        """
        began = time.monotonic()
        engine = await self.registry.engine(model)
        options = replace(options, language=parse(options.language, engine.card.languages))
        async with aclosing(self.transcriber.run(source, engine, options)) as events:
            async for event in events:
                # Before the yield: nobody asks for what follows the transcript.
                if isinstance(event, Transcript):
                    self._count(event, time.monotonic() - began)
                yield event

    async def transcribe(self, source: BinaryIO, model: str | None, options: Options) -> Transcript:
        """The whole transcript at once. Raises as `run` does."""
        async with aclosing(self.run(source, model, options)) as events:
            async for event in events:
                if isinstance(event, Transcript):
                    return event
        raise AssertionError("the pipeline ended without a transcript")

    def _count(self, transcript: Transcript, seconds: float) -> None:
        self.metrics.audio_seconds.labels(transcript.model).inc(transcript.duration)
        if transcript.duration > 0:
            self.metrics.real_time_factor.labels(transcript.model).observe(seconds / transcript.duration)
