"""OpenAI's dialect: `POST /v1/audio/transcriptions`, `GET /v1/models`.

Source: OpenAI's public API reference. Fields that cannot be honoured are refused by name, never ignored.
"""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, aclosing
from typing import Any, Literal

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, PlainTextResponse, Response
from pydantic import Field

from tingdao.api.edge import WORKING, OpenAIError, errors_of
from tingdao.api.forms import form_schema, read_form
from tingdao.api.options import OptionFields, options_of, vocabulary_of
from tingdao.api.sse import EventStream
from tingdao.cores import on_core
from tingdao.engines.registry import ModelState
from tingdao.errors import UnsupportedOption
from tingdao.pipeline.service import Service
from tingdao.pipeline.subtitles import WRITERS
from tingdao.types import Event, Joined, Opening, Segment, Transcript, Word

ResponseFormat = Literal["json", "text", "srt", "verbose_json", "vtt", "diarized_json"]
Granularity = Literal["word", "segment"]

_CUTTERS = ("auto", "server_vad")
MEDIA_TYPES = {"srt": "application/x-subrip", "vtt": "text/vtt"}


class TranscriptionFields(OptionFields):
    """Fields of OpenAI's transcription form."""

    model: str = Field(description="Model name; `default` is the default model.", examples=["default", "whisper-1"])
    response_format: ResponseFormat = Field("json", description="Shape of the answer.")
    temperature: float = Field(0.0, description="Only 0: decoding is deterministic here.")
    timestamp_granularities: list[Granularity] = Field(
        default_factory=list,
        alias="timestamp_granularities[]",
        description="`segment`, `word`, or both; needs `verbose_json`.",
    )
    stream: bool = Field(
        default=False, description="Send the text in events while the recording is still being recognised."
    )
    chunking_strategy: str | None = Field(
        None, description="`auto` or `server_vad` without parameters: recordings are always cut where nobody speaks."
    )
    chunking_type: Literal["auto", "server_vad"] | None = Field(
        None, alias="chunking_strategy[type]", description="The same, as OpenAI's clients send an object."
    )
    chunking_threshold: float | None = Field(
        None, alias="chunking_strategy[threshold]", description="Not supported: the operator sets it."
    )
    chunking_silence: int | None = Field(
        None, alias="chunking_strategy[silence_duration_ms]", description="Not supported."
    )
    chunking_padding: int | None = Field(
        None, alias="chunking_strategy[prefix_padding_ms]", description="Not supported."
    )
    known_speaker_names: list[str] = Field(
        default_factory=list, alias="known_speaker_names[]", description="Not supported yet."
    )
    known_speaker_references: list[str] = Field(
        default_factory=list, alias="known_speaker_references[]", description="Not supported yet."
    )
    include: list[str] = Field(
        default_factory=list, alias="include[]", description="Not supported: no model here gives `logprobs`."
    )
    to_language: str | None = Field(None, description="Not supported: recordings are not translated.")


def router(service: Service) -> APIRouter:
    """The routes of this dialect."""
    routes = APIRouter(prefix="/v1", tags=["OpenAI"], responses=errors_of(OpenAIError))

    @routes.post(
        "/audio/transcriptions",
        summary="Transcribe a recording",
        openapi_extra=form_schema(TranscriptionFields),
        responses=errors_of(OpenAIError, WORKING)
        | {200: {"description": "The transcript in the format asked for.", "content": _EXAMPLES}},
        response_class=Response,
    )
    async def transcriptions(request: Request) -> Response:
        async with AsyncExitStack() as stack:
            form = read_form(request, TranscriptionFields, service.fetcher)
            recording, fields = await stack.enter_async_context(form)
            _refuse_unsupported(fields)
            options = options_of(
                fields,
                words="word" in fields.timestamp_granularities,
                subtitles=fields.response_format in MEDIA_TYPES,
            )
            if fields.stream:
                return EventStream(_events(service.run(recording, fields.model, options)), stack.pop_all())
            transcript = await service.transcribe(recording, fields.model, options)
        # On a thread: the subtitles of ten hours take seconds to write.
        return await on_core(_response, transcript, fields)

    @routes.get("/models", summary="The models there are")
    async def models() -> dict[str, Any]:
        registry = service.registry
        return {
            "object": "list",
            "data": [_model(state, registry.created, registry.default) for state in registry.states()],
        }

    @routes.get("/models/{name}", summary="One model")
    async def model(name: str) -> dict[str, Any]:
        registry = service.registry
        return _model(registry.state(name), registry.created, registry.default)

    return routes


def _refuse_unsupported(fields: TranscriptionFields) -> None:
    """Raise UnsupportedOption for the first field that cannot be honoured."""
    refusals = (
        (fields.temperature != 0, "temperature", "Decoding is deterministic here; send 0 or leave it out."),
        (fields.include, "include[]", "No model here gives logprobs; leave include[] out."),
        (fields.to_language, "to_language", "Recordings are transcribed, not translated."),
        (not _cuts_by_itself(fields.chunking_strategy), "chunking_strategy", _CUTTING),
        (fields.chunking_threshold is not None, "chunking_strategy[threshold]", _CUTTING),
        (fields.chunking_silence is not None, "chunking_strategy[silence_duration_ms]", _CUTTING),
        (fields.chunking_padding is not None, "chunking_strategy[prefix_padding_ms]", _CUTTING),
        (fields.known_speaker_names, "known_speaker_names[]", _SPEAKERS),
        (fields.known_speaker_references, "known_speaker_references[]", _SPEAKERS),
        (
            fields.stream and fields.response_format not in {"json", "text"},
            "response_format",
            "A stream carries text only; use json or text with stream=true.",
        ),
        (
            fields.response_format == "diarized_json",
            "response_format",
            f"{_SPEAKERS} Use json, text, srt, verbose_json or vtt.",
        ),
        (
            fields.timestamp_granularities and fields.response_format != "verbose_json",
            "timestamp_granularities[]",
            "Times are in response_format=verbose_json only.",
        ),
    )
    for refused, name, why in refusals:
        if refused:
            raise UnsupportedOption(f"The field {name!r} cannot be honoured: {why}", param=name)


_CUTTING = "Recordings are cut where nobody speaks, by the operator's settings; send 'auto' or leave it out."
_SPEAKERS = "Speakers are not told apart yet."


def _cuts_by_itself(strategy: str | None) -> bool:
    """Whether a chunking strategy is what always happens; older clients send an object as JSON."""
    if strategy is None or strategy in _CUTTERS:
        return True
    try:
        given = json.loads(strategy)
    except ValueError:
        return False
    return isinstance(given, dict) and given.keys() == {"type"} and given["type"] in _CUTTERS


async def _events(run: AsyncGenerator[Event, None]) -> AsyncGenerator[dict[str, Any], None]:
    """The text as it comes, then the whole."""
    joined = Joined()
    async with aclosing(run) as found:
        async for item in found:
            delta = ""
            if isinstance(item, Opening):
                delta = joined.open(item)
            elif isinstance(item, Segment):
                delta = joined.add(item.text, item.language)
            elif isinstance(item, Transcript):
                usage = item.usage
                yield {
                    "type": "transcript.text.done",
                    "text": item.text,
                    "languages": _languages(item),
                    "usage": {
                        "type": "tokens",
                        "input_tokens": usage.prompt_tokens,
                        "output_tokens": usage.completion_tokens,
                        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
                    },
                }
            if delta:
                yield {"type": "transcript.text.delta", "delta": delta}


def _languages(transcript: Transcript) -> list[dict[str, str]]:
    return [{"code": transcript.language}] if transcript.language else []


def _response(transcript: Transcript, fields: TranscriptionFields) -> Response:
    if fields.response_format == "text":
        return PlainTextResponse(transcript.text + "\n")
    if fields.response_format in MEDIA_TYPES:
        return Response(
            WRITERS[fields.response_format](transcript),
            media_type=f"{MEDIA_TYPES[fields.response_format]}; charset=utf-8",
        )
    body: dict[str, Any] = {
        "text": transcript.text,
        "usage": {"type": "duration", "seconds": round(transcript.duration, 3)},
    }
    if fields.response_format == "verbose_json":
        body |= _verbose(transcript, fields.timestamp_granularities)
    elif languages := _languages(transcript):
        body["languages"] = languages
    if vocabulary := vocabulary_of(transcript):
        body["vocabulary"] = vocabulary.model_dump()
    return JSONResponse(body)


def _verbose(transcript: Transcript, granularities: list[Granularity]) -> dict[str, Any]:
    """What `verbose_json` has beside the text and its usage."""
    body: dict[str, Any] = {
        "task": "transcribe",
        "language": transcript.language,
        "duration": round(transcript.duration, 3),
    }
    # As OpenAI does it: segments unless only words are asked for.
    if "segment" in granularities or not granularities:
        body["segments"] = [_segment(number, segment) for number, segment in enumerate(transcript.segments)]
    if "word" in granularities:
        body["words"] = [_word(word) for segment in transcript.segments for word in segment.words or ()]
    return body


def _segment(number: int, segment: Segment) -> dict[str, Any]:
    """A segment; the model's own evidence is there only when it measures that."""
    shown: dict[str, Any] = {
        "id": number,
        "start": round(segment.start, 3),
        "end": round(segment.end, 3),
        "text": segment.text,
    }
    if segment.evidence:
        shown |= {
            "seek": segment.evidence.seek,
            "tokens": list(segment.evidence.tokens),
            "temperature": segment.evidence.temperature,
            "avg_logprob": segment.evidence.avg_logprob,
            "compression_ratio": segment.evidence.compression_ratio,
            "no_speech_prob": segment.evidence.no_speech_prob,
        }
    if segment.flags:
        shown["flags"] = list(segment.flags)
    return shown


def _word(word: Word) -> dict[str, Any]:
    return {"word": word.text, "start": round(word.start, 3), "end": round(word.end, 3)}


def _model(state: ModelState, created: int, default: str) -> dict[str, Any]:
    shown: dict[str, Any] = {
        "id": state.name,
        "object": "model",
        "created": created,
        "owned_by": "tingdao",
        "state": state.state,
        "default": state.name == default,
    }
    if state.card:
        shown |= {
            "family": state.card.family,
            "stand_in": state.card.stand_in,
            "languages": sorted(state.card.languages),
            "can": sorted(state.card.can),
            "clip_limit": state.card.clip_limit,
        }
    return shown


_EXAMPLES = {
    "application/json": {
        "examples": {
            "json": {
                "value": {
                    "text": "And so, my fellow Americans …",
                    "usage": {"type": "duration", "seconds": 11.0},
                    "languages": [{"code": "en"}],
                }
            },
            "verbose_json": {
                "value": {
                    "task": "transcribe",
                    "language": "en",
                    "duration": 11.0,
                    "text": "And so, my fellow Americans …",
                    "usage": {"type": "duration", "seconds": 11.0},
                    "segments": [{"id": 0, "start": 0.3, "end": 10.6, "text": "And so, my fellow Americans …"}],
                }
            },
        }
    },
    "text/plain": {"example": "And so, my fellow Americans …\n"},
    "application/x-subrip": {"example": "1\n00:00:00,300 --> 00:00:03,200\nAnd so, my fellow Americans …\n"},
    "text/vtt": {"example": "WEBVTT\n\n00:00:00.300 --> 00:00:03.200\nAnd so, my fellow Americans …\n"},
}
