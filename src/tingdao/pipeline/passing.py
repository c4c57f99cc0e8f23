"""A short recording that an engine takes as it was sent: no decoding, no speech detection, one answer.

    Sent ─ engine, once ─► does the answer stand by itself? ─► Finisher ─► Transcript
                                                           └─► nothing: the recording goes through the whole pipeline

An answer stands when nothing about it asks for a second look. Every repair needs the samples, so whatever would be
repaired, and no text at all, goes through the pipeline from the beginning, where the speech detector has its say.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from tingdao.audio.speech import ClipSpan, Span
from tingdao.engines.base import Ask, Engine, Recognition
from tingdao.pipeline.clip import asked
from tingdao.pipeline.segments import segments_of
from tingdao.pipeline.transcribe import question_of, transcript_of
from tingdao.text.finish import Finisher, worked
from tingdao.text.leak import leaked
from tingdao.turns import Lane
from tingdao.types import SAMPLE_RATE, Clip, Options, Segment, Sent, Transcript, Usage

NO_SAMPLES: Final = np.empty(0, np.float32)


def needs_samples(options: Options) -> bool:
    """Whether something is asked for that only samples give."""
    return options.words or options.subtitles


async def pass_on(
    sent: Sent, engine: Engine, lane: Lane, options: Options, finisher: Finisher
) -> tuple[Transcript | None, Usage]:
    """The transcript of a recording as it was sent, or None where it does not stand; and what was used for it.

    Its one segment is as long as the recording. Raises what the engine raises, and UnsupportedOption.
    """
    ask, hinted = question_of(engine.card, options, finisher.vocabulary)
    async with lane.turn(sent.duration):
        recognition = await asked(engine, Clip(NO_SAMPLES, sent=sent), ask)
    segments = _standing(recognition, ask, options.languages, sent.duration)
    if segments is None:
        return None, recognition.usage
    finished = await worked(_finished, finisher, segments, light=finisher.light)
    return transcript_of(finished, sent.duration, engine.card, recognition.usage, hinted), recognition.usage


def _standing(recognition: Recognition, ask: Ask, languages: tuple[str, ...], duration: float) -> list[Segment] | None:
    """What was heard, when it can be taken as it is."""
    if recognition.ended != "stop" or (languages and recognition.language not in languages):
        return None
    # How much of it is speech is not known. So whoever says little but what the context says is looked at again.
    if ask.context and leaked(recognition.text, ask.context, 0.0):
        return None
    whole = Span(0, round(duration * SAMPLE_RATE))
    segments = segments_of(ClipSpan(whole.start, whole.end, (whole,)), recognition)
    return segments if segments and not any(segment.flags for segment in segments) else None


def _finished(finisher: Finisher, segments: list[Segment]) -> list[Segment]:
    return [*finisher.clip(segments), *finisher.rest()]
