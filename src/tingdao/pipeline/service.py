"""The service without its doors: models, decoder and pipeline, as the HTTP side and the command line share them.

    source ─ Decoder ─► Spool ─ which model? ─► Transcriber with a lease on its engine ─► Segment, …, Transcript

Here it is decided which model a recording gets, and that the next one tries where a model fails.
"""

from __future__ import annotations

import logging
import time
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, aclosing
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, BinaryIO

from tingdao.audio.decode import Decoder
from tingdao.audio.fetch import Fetcher
from tingdao.audio.spool import Spool
from tingdao.caller import caller
from tingdao.engines.base import ModelCard
from tingdao.engines.registry import Registry
from tingdao.engines.slot import Slot
from tingdao.errors import EngineFailed, ModelUnavailable, UnsupportedOption
from tingdao.languages import code_of, parse
from tingdao.observe import Metrics
from tingdao.pipeline.transcribe import Transcriber
from tingdao.types import SAMPLE_RATE, Options, Progress, Segment, Transcript

if TYPE_CHECKING:
    from tingdao.engines.aligner import Aligner

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Service:
    """Everything behind the doors. `app.build` makes one from the settings."""

    registry: Registry
    aligner: Slot[Aligner] | None
    decoder: Decoder
    transcriber: Transcriber
    metrics: Metrics
    fetcher: Fetcher

    async def start(self) -> None:
        """Begin to load the models to be kept and warm up the decoder; returns at once."""
        self.registry.start()
        self.decoder.start()

    async def close(self) -> None:
        """Stop everything and free the models."""
        await self.fetcher.close()
        await self.decoder.close()
        await self.registry.close()
        if self.aligner is not None:
            await self.aligner.close()

    async def run(
        self, source: BinaryIO, model: str | None, options: Options
    ) -> AsyncGenerator[Progress | Segment | Transcript, None]:
        """Transcribe for the caller, on whose account it goes; see `_run`.

        Raises QuotaExceeded as soon as the recording is known to be longer than the caller's quota.
        """
        with caller.get().work() as work:
            async with aclosing(self._run(source, model, options)) as events:
                async for event in events:
                    if isinstance(event, Progress):
                        work.reserve(event.total)
                        work.reach(event.done)
                    yield event

    async def _run(
        self, source: BinaryIO, model: str | None, options: Options
    ) -> AsyncGenerator[Progress | Segment | Transcript, None]:
        """Transcribe with the named model, or with one that the routes choose; see `Transcriber.run`.

        source: an open file with a descriptor, in any supported format.
        options: `language` is as the client wrote it.
        Closing the iterator stops the decoder and frees the engine.
        Raises ModelNotFound, ModelUnavailable, UnknownLanguage, and what the pipeline raises.
        """
        began = time.monotonic()
        if not self.registry.leaves_choice(model):  # a wrong name is known before any work
            caller.get().allowed([self.registry.resolve(model)])
        async with self.decoder.open(source) as spool:
            *others, last = await self._models(spool, model, options)
            for name in (*others, last):
                answered = False
                try:
                    async with aclosing(self._run_with(name, spool, options)) as events:
                        async for event in events:
                            answered = answered or isinstance(event, Segment)
                            # Before the yield: nobody asks for what follows the transcript.
                            if isinstance(event, Transcript):
                                self._count(event, time.monotonic() - began)
                            yield event
                except (EngineFailed, ModelUnavailable) as error:
                    # What was said cannot be taken back, and a transcript is of one model.
                    if answered or name == last:
                        raise
                    log.warning("the next model tries", extra={"model": name, "reason": error.message})
                else:
                    return

    async def _models(self, spool: Spool, model: str | None, options: Options) -> list[str]:
        """The models to try, best first; waits until enough of the recording is decoded to know."""
        if not self.registry.leaves_choice(model):
            return [self.registry.resolve(model)]
        if horizon := self.registry.horizon:
            await spool.wait_for(int(horizon * SAMPLE_RATE) + 1)
        return caller.get().allowed(self.registry.ranked(spool.duration, code_of(options.language)))

    async def _run_with(
        self, model: str, spool: Spool, options: Options
    ) -> AsyncGenerator[Progress | Segment | Transcript, None]:
        async with AsyncExitStack() as held:
            engine = await held.enter_async_context(self.registry.lease(model))
            options = replace(options, language=parse(options.language, engine.card.languages))
            aligner = None
            if options.words and "words" not in engine.card.can:
                aligner = await self._aligner(held, engine.card, options.language)
            async with aclosing(self.transcriber.run(spool, engine, options, aligner)) as events:
                async for event in events:
                    yield event

    async def transcribe(self, source: BinaryIO, model: str | None, options: Options) -> Transcript:
        """The whole transcript at once. Raises as `run` does."""
        async with aclosing(self.run(source, model, options)) as events:
            async for event in events:
                if isinstance(event, Transcript):
                    return event
        raise AssertionError("the pipeline ended without a transcript")

    async def _aligner(self, held: AsyncExitStack, card: ModelCard, language: str | None) -> Aligner:
        if self.aligner is None:
            raise UnsupportedOption(
                f"The model {card.name!r} gives no word times, and no aligner is set up that would. Leave words out; "
                "the operator can add one with `tingdao download aligner`.",
                param="words",
            )
        aligner = await held.enter_async_context(self.aligner.lease())
        if language is not None:
            aligner.require(language)
        return aligner

    def _count(self, transcript: Transcript, seconds: float) -> None:
        self.metrics.audio_seconds.labels(transcript.model).inc(transcript.duration)
        if transcript.duration > 0:
            self.metrics.real_time_factor.labels(transcript.model).observe(seconds / transcript.duration)
