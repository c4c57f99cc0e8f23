"""The service without its doors: models, decoder and pipeline, as the HTTP side and the command line share them."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, BinaryIO

from tingdao.audio.decode import Decoder
from tingdao.engines.base import ModelCard
from tingdao.engines.registry import Loading, Registry
from tingdao.errors import UnsupportedOption
from tingdao.languages import parse
from tingdao.observe import Metrics
from tingdao.pipeline.transcribe import Transcriber
from tingdao.types import Options, Progress, Segment, Transcript

if TYPE_CHECKING:
    from tingdao.engines.aligner import Aligner


@dataclass(frozen=True, slots=True)
class Service:
    """Everything behind the doors. `app.build` makes one from the settings."""

    registry: Registry
    aligner: Loading[Aligner] | None
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
        if self.aligner is not None:
            await self.aligner.close()

    async def run(
        self, source: BinaryIO, model: str | None, options: Options
    ) -> AsyncGenerator[Progress | Segment | Transcript, None]:
        """Transcribe with the named model; see `Transcriber.run`. `options.language` is as the client wrote it.

        Raises ModelNotFound, ModelUnavailable, UnknownLanguage, and what the pipeline raises.
        """
        began = time.monotonic()
        engine = await self.registry.engine(model)
        options = replace(options, language=parse(options.language, engine.card.languages))
        aligner = None
        if options.words and "words" not in engine.card.can:
            aligner = await self._aligner(engine.card, options.language)
        async with aclosing(self.transcriber.run(source, engine, options, aligner)) as events:
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

    async def _aligner(self, card: ModelCard, language: str | None) -> Aligner:
        if self.aligner is None:
            raise UnsupportedOption(
                f"The model {card.name!r} gives no word times, and no aligner is set up that would. Leave words out; "
                "the operator can add one with `tingdao download aligner`.",
                param="words",
            )
        aligner = await self.aligner.get()
        if language is not None:
            aligner.require(language)
        return aligner

    def _count(self, transcript: Transcript, seconds: float) -> None:
        self.metrics.audio_seconds.labels(transcript.model).inc(transcript.duration)
        if transcript.duration > 0:
            self.metrics.real_time_factor.labels(transcript.model).observe(seconds / transcript.duration)
