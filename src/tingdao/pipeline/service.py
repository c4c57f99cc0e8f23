"""The service without its doors: models, decoder and pipeline, as the HTTP side and the command line share them.

    source ─ Decoder ─► Spool ─ which model? ─► Transcriber with a lease on its engine ─► Segment, …, Transcript
           └ short, and as the model takes it? ─► passing ──────────────────────────────► the same, unless in doubt

Here it is decided which model a recording gets, and that the next one tries where a model fails.
"""

from __future__ import annotations

import logging
import time
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, BinaryIO

from tingdao.audio import probe
from tingdao.audio.decode import Decoder
from tingdao.audio.fetch import Fetcher
from tingdao.audio.spool import Spool
from tingdao.caller import caller
from tingdao.engines.base import ModelCard, NotTaken
from tingdao.engines.registry import Lent, Registry
from tingdao.engines.slot import Slot
from tingdao.errors import BadRequest, EngineFailed, ModelUnavailable, UnsupportedOption
from tingdao.languages import code_of, parse
from tingdao.observe import Metrics, during, figures
from tingdao.pipeline.load import Load
from tingdao.pipeline.passing import needs_samples, pass_on
from tingdao.pipeline.transcribe import Transcriber
from tingdao.text.finish import Finisher, Finishing, worked
from tingdao.text.vocabulary import Vocabulary
from tingdao.turns import Lane
from tingdao.types import SAMPLE_RATE, Event, Opening, Options, Progress, Segment, Sent, Transcript, Usage

if TYPE_CHECKING:
    from tingdao.engines.aligner.engine import Aligner

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Service:
    """Everything behind the doors. `app.build` makes one from the settings."""

    registry: Registry
    aligner: Slot[Aligner] | None
    decoder: Decoder
    transcriber: Transcriber
    finishing: Finishing
    fetcher: Fetcher
    metrics: Metrics
    load: Load

    async def start(self) -> None:
        """Begin to load the models to be kept and warm up the decoder; returns at once."""
        self.registry.start()
        self.decoder.start()

    async def close(self) -> None:
        """Stop everything and free the models."""
        await self.decoder.close()
        await self.fetcher.close()
        await self.registry.close()
        if self.aligner is not None:
            await self.aligner.close()

    async def run(self, source: BinaryIO, model: str | None, options: Options) -> AsyncGenerator[Event, None]:
        """Transcribe for the caller, on whose account it goes; see `_run`.

        Raises QuotaExceeded as soon as the recording is known to be longer than the caller's quota.
        """
        began = time.monotonic()
        with caller.get().work() as work, self.load.recording() as recording:
            async with aclosing(self._run(source, model, options)) as events:
                async for event in events:
                    if isinstance(event, Progress):
                        figures.get().audio = event.done
                        work.reserve(event.total)
                        work.reach(event.done)
                        self.load.progress(recording, event.done, event.total)
                    elif isinstance(event, Transcript):
                        # Before the yield: nobody asks for what follows the transcript.
                        self._count(event, time.monotonic() - began)
                    else:
                        figures.get().heard()
                    yield event

    async def _run(self, source: BinaryIO, model: str | None, options: Options) -> AsyncGenerator[Event, None]:
        """Transcribe with the named model, or with one that the routes choose; see `Transcriber.run`.

        source: an open file with a descriptor, in any supported format.
        options: languages are as the client wrote them.
        Closing the iterator stops the decoder and frees the engine.
        Raises ModelNotFound, ModelUnavailable, UnknownLanguage, BadRequest, and what the pipeline raises.
        """
        # What is wrong with the request is known before any work.
        if not self.registry.leaves_choice(model):
            caller.get().allowed([self.registry.resolve(model)])
        vocabulary = await worked(self.finishing.vocabulary, options, light=self.finishing.light(options))
        spent = Usage()
        if sent := self._sent(source, options):
            yield Progress(0.0, sent.duration, decoded=True)
            transcript, spent = await self._pass_on(sent, model, options, vocabulary)
            if transcript is not None:
                for segment in transcript.segments:
                    yield segment
                yield Progress(sent.duration, sent.duration, decoded=True)
                yield transcript
                return
        async with aclosing(self._decoded(source, model, options, vocabulary)) as events:
            async for event in events:
                yield replace(event, usage=spent + event.usage) if isinstance(event, Transcript) else event

    async def _decoded(
        self, source: BinaryIO, model: str | None, options: Options, vocabulary: Vocabulary
    ) -> AsyncGenerator[Event, None]:
        """As `_run`, through the whole pipeline."""
        async with self.decoder.open(source) as spool:
            *others, last = await self._models(spool, model, options)
            for name in (*others, last):
                answered = False
                try:
                    async with aclosing(self._run_with(name, spool, options, vocabulary)) as events:
                        async for event in events:
                            answered = answered or isinstance(event, Opening | Segment)
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
        if self.registry.leaves_choice(model) and (horizon := self.registry.horizon):
            await spool.wait_for(int(horizon * SAMPLE_RATE) + 1)
        return self._ranked(spool.duration, model, options)

    def _ranked(self, duration: float, model: str | None, options: Options) -> list[str]:
        """The models to try, best first. duration: of the recording, as far as is known."""
        if not self.registry.leaves_choice(model):
            return [self.registry.resolve(model)]
        return caller.get().allowed(self.registry.ranked(duration, code_of(options.language)))

    async def _run_with(
        self, model: str, spool: Spool, options: Options, vocabulary: Vocabulary
    ) -> AsyncGenerator[Event, None]:
        async with AsyncExitStack() as held:
            engine, lane = await held.enter_async_context(self._leased(model))
            options = _with_languages(options, engine.card.languages)
            aligner = await self._aligner(held, engine.card, options)
            finisher = await self._finisher(options, vocabulary)
            async with aclosing(self.transcriber.run(spool, engine, lane, options, finisher, aligner)) as events:
                async for event in events:
                    yield event

    def _sent(self, source: BinaryIO, options: Options) -> Sent | None:
        """The recording as it was sent, where some model may take it so."""
        limit = min(self.registry.sent_limit, self.transcriber.clip_limit)
        return probe.sent(source, limit) if limit and not needs_samples(options) else None

    async def _pass_on(
        self, sent: Sent, model: str | None, options: Options, vocabulary: Vocabulary
    ) -> tuple[Transcript | None, Usage]:
        """As `passing.pass_on`, with the model that a recording of this length gets; None too where that fails."""
        name = self._ranked(sent.duration, model, options)[0]
        card = self.registry.card(name)
        if card is None or card.sent_limit < sent.duration:
            return None, Usage()
        try:
            async with self._leased(name) as (engine, lane):
                options = _with_languages(options, engine.card.languages)
                finisher = await self._finisher(options, vocabulary)
                return await pass_on(sent, engine, lane, options, finisher)
        except (NotTaken, EngineFailed, ModelUnavailable) as error:
            log.info("not recognised as it was sent", extra={"model": name, "reason": str(error)})
            return None, Usage()

    async def _finisher(self, options: Options, vocabulary: Vocabulary) -> Finisher:
        return await worked(self.finishing.finisher, options, vocabulary, light=self.finishing.light(options))

    @asynccontextmanager
    async def _leased(self, model: str) -> AsyncIterator[tuple[Lent, Lane]]:
        """The engine for one recording, and where its clips wait. Raises ModelUnavailable."""
        figures.get().model = model
        async with AsyncExitStack() as held:
            with during("queue", model=model):
                engine = await held.enter_async_context(self.registry.lease(model))
            yield engine, engine.turns.lane(caller.get().party)

    async def transcribe(self, source: BinaryIO, model: str | None, options: Options) -> Transcript:
        """The whole transcript at once. Raises as `run` does."""
        async with aclosing(self.run(source, model, options)) as events:
            async for event in events:
                if isinstance(event, Transcript):
                    return event
        raise AssertionError("the pipeline ended without a transcript")

    async def _aligner(self, held: AsyncExitStack, card: ModelCard, options: Options) -> Aligner | None:
        """The aligner, where the engine needs its help. Raises UnsupportedOption, ModelUnavailable."""
        if "words" in card.can or not (options.words or options.subtitles):
            return None
        if self.aligner is None:
            if not options.words:
                return None
            raise UnsupportedOption(
                f"The model {card.name!r} gives no word times, and no aligner is set up that would. Leave words out; "
                "the operator can add one with `tingdao download aligner`.",
                param="words",
            )
        try:
            aligner = await held.enter_async_context(self.aligner.lease())
        except ModelUnavailable:
            if options.words:
                raise
            return None
        if options.words and options.language is not None:
            aligner.require(options.language)
        return aligner

    def _count(self, transcript: Transcript, seconds: float) -> None:
        figures.get().transcript = transcript.text
        self.metrics.audio_seconds.labels(transcript.model).inc(transcript.duration)
        if transcript.duration > 0:
            self.metrics.real_time_factor.labels(transcript.model).observe(seconds / transcript.duration)


def _with_languages(options: Options, known: frozenset[str]) -> Options:
    """The languages by their codes; a single one that may be detected is the one spoken. Raises UnknownLanguage."""
    language = parse(options.language, known)
    named = [parse(name, known, "languages[]") for name in options.languages]
    languages = tuple(dict.fromkeys(code for code in named if code is not None))
    if len(languages) == 1 and language is None:
        language, languages = languages[0], ()
    if language is not None and languages:
        if language not in languages:
            raise BadRequest("The field 'language' names a language that is not in 'languages[]'.", param="language")
        languages = ()
    return replace(options, language=language, languages=languages)
