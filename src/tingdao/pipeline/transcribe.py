"""A recording in, a transcript out.

    Spool (16 kHz, on disk, growing) ─ clips ─► ClipSpan ─ Listener (engine, repair, aligner) ─► what was heard
                                     ─ Finisher (terms, punctuation, numbers, script) ─► Segment

The stages run at once: the first clip is recognised while the rest is still being decoded, and several clips of
one recording are recognised side by side. Segments come out in the order of the recording. Only the clips in work
are held in memory, so it does not grow with the recording.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict, deque
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tingdao.audio.speech import ClipSpan, SpeechDetector, clips
from tingdao.audio.spool import Spool
from tingdao.engines.base import Ask, Engine, ModelCard
from tingdao.errors import UnsupportedOption
from tingdao.pipeline.clip import Heard, Listener
from tingdao.text.finish import Finisher, worked
from tingdao.text.vocabulary import Vocabulary
from tingdao.turns import Lane
from tingdao.types import SAMPLE_RATE, Event, Options, Progress, Segment, Transcript, Usage

if TYPE_CHECKING:
    from tingdao.engines.aligner.engine import Aligner


@dataclass(frozen=True, slots=True)
class Transcriber:
    """The pipeline with what it needs; one per service.

    clip_limit: the longest clip in seconds, where the engine allows that much.
    """

    detector: SpeechDetector
    clip_limit: float

    async def run(
        self,
        spool: Spool,
        engine: Engine,
        lane: Lane,
        options: Options,
        finisher: Finisher,
        aligner: Aligner | None = None,
    ) -> AsyncGenerator[Event, None]:
        """Transcribe a recording; the last item is the whole `Transcript`.

        spool: the decoded recording, which may still grow.
        lane: where its clips wait for their turn at the engine.
        finisher: a fresh one, whose terms go into the context of engines that take one.
        aligner: times words where the engine does not.
        Closing the iterator frees the engine.
        Raises a TingdaoError for what is wrong with the recording or the options.
        """
        ask, hinted = question_of(engine.card, options, finisher.vocabulary)
        segments: list[Segment] = []
        usage = Usage()
        at_work: deque[tuple[ClipSpan, asyncio.Task[Heard]]] = deque()
        limit = min(self.clip_limit, engine.card.clip_limit)
        try:
            async with aclosing(clips(spool, self.detector, limit)) as spans:
                listener = Listener(spool, engine, lane, ask, options.languages, aligner, must_time=options.words)
                more = True
                while more or at_work:
                    # One clip more than the engine works on, so that it never waits for us.
                    if more and len(at_work) <= engine.card.width:
                        span = await anext(spans, None)
                        if span is None:
                            more = False
                        else:
                            at_work.append((span, asyncio.create_task(listener.hear(span))))
                        continue
                    span, task = at_work[0]
                    heard = await task
                    at_work.popleft()
                    usage += heard.usage
                    ready = await worked(finisher.clip, heard.segments, light=finisher.light)
                    if at_work:
                        ready += finisher.rest((at_work[0][0].start - span.end) / SAMPLE_RATE)
                    for segment in ready:
                        segments.append(segment)
                        yield segment
                    if heard.segments and (opening := finisher.opening()):
                        yield opening
                    yield Progress(span.end / SAMPLE_RATE, spool.duration, decoded=spool.complete)
                for segment in finisher.rest():
                    segments.append(segment)
                    yield segment
        finally:
            for _, task in at_work:
                task.cancel()
            await asyncio.gather(*(task for _, task in at_work), return_exceptions=True)
        yield Progress(spool.duration, spool.duration, decoded=True)
        yield transcript_of(segments, spool.duration, engine.card, usage, hinted)


def question_of(card: ModelCard, options: Options, vocabulary: Vocabulary) -> tuple[Ask, tuple[str, ...] | None]:
    """What the engine is asked, and the expected terms that it is told (`Transcript.hinted`).

    Raises UnsupportedOption for what this engine cannot do.
    """
    hinted = vocabulary.chosen if "context" in card.can else ()
    ask = ask_of(card, options, vocabulary.context if hinted else "")
    return ask, tuple(term.word for term in hinted) if vocabulary.terms else None


def transcript_of(
    segments: list[Segment], duration: float, card: ModelCard, usage: Usage, hinted: tuple[str, ...] | None
) -> Transcript:
    """The whole of what was heard. duration: of the recording, in seconds."""
    return Transcript(tuple(segments), _main_language(segments), duration, card.name, usage, hinted)


def ask_of(card: ModelCard, options: Options, terms: str = "") -> Ask:
    """The engine's part of the options. Words that it does not give are left to the aligner.

    terms: what the engine is told of the expected terms, behind the caller's own context.
    Raises UnsupportedOption for what this engine cannot do.
    """
    for wanted, ability, param in (
        (options.context, "context", "prompt"),
        (options.language, "force_language", "language"),
        (options.languages, "force_language", "languages[]"),
    ):
        if wanted and ability not in card.can:
            raise UnsupportedOption(
                f"The model {card.name!r} cannot honour {param!r}. Leave it out, or choose another model.", param=param
            )
    return Ask(
        language=options.language,
        context="\n".join(part for part in (options.context, terms) if part),
        words=options.words and "words" in card.can,
    )


def _main_language(segments: list[Segment]) -> str | None:
    """The language that most of the speech is in, by time."""
    seconds: defaultdict[str, float] = defaultdict(float)
    for segment in segments:
        if segment.language:
            seconds[segment.language] += segment.end - segment.start
    return max(seconds, key=seconds.__getitem__, default=None)
