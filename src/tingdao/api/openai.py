"""OpenAI's dialect: `POST /v1/audio/transcriptions`, `GET /v1/models`.

Source: OpenAI's public API reference. Fields that cannot be honoured are refused by name, never ignored.
"""

from __future__ import annotations

import asyncio
from typing import Any, Literal

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, PlainTextResponse, Response
from pydantic import Field

from tingdao.api.edge import OpenAIError, errors_of
from tingdao.api.forms import Fields, form_schema, read_form
from tingdao.engines.registry import ModelState
from tingdao.errors import UnsupportedOption
from tingdao.pipeline.service import Service
from tingdao.pipeline.subtitles import WRITERS
from tingdao.types import Options, Segment, Transcript, Word

ResponseFormat = Literal["json", "text", "srt", "verbose_json", "vtt", "diarized_json"]
Granularity = Literal["word", "segment"]

MEDIA_TYPES = {"srt": "application/x-subrip", "vtt": "text/vtt"}


class TranscriptionFields(Fields):
    """Fields of OpenAI's transcription form."""

    model: str = Field(description="Model name; `default` is the default model.", examples=["default", "whisper-1"])
    language: str | None = Field(None, description="ISO code of the language spoken; left out: detected.")
    prompt: str = Field("", max_length=10_000, description="Text that helps the model: names, terms, topic.")
    response_format: ResponseFormat = Field("json", description="Shape of the answer.")
    temperature: float = Field(0.0, description="Only 0: decoding is deterministic here.")
    timestamp_granularities: list[Granularity] = Field(
        default_factory=list,
        alias="timestamp_granularities[]",
        description="`segment`, `word`, or both; needs `verbose_json`.",
    )
    stream: bool = Field(default=False, description="Not supported yet: only false.")
    chunking_strategy: str | None = Field(None, description="Only `auto`, which is what always happens.")
    include: list[str] = Field(default_factory=list, alias="include[]", description="Not supported yet.")
    keywords: list[str] = Field(default_factory=list, alias="keywords[]", description="Not supported yet.")
    languages: list[str] = Field(default_factory=list, alias="languages[]", description="Not supported yet.")
    hotwords: str | None = Field(None, description="Not supported yet.")
    to_language: str | None = Field(None, description="Not supported: recordings are not translated.")


def router(service: Service) -> APIRouter:
    """The routes of this dialect."""
    routes = APIRouter(prefix="/v1", tags=["OpenAI"], responses=errors_of(OpenAIError))

    @routes.post(
        "/audio/transcriptions",
        summary="Transcribe a recording",
        openapi_extra=form_schema(TranscriptionFields),
        responses={200: {"description": "The transcript in the format asked for.", "content": _EXAMPLES}},
        response_class=Response,
    )
    async def transcriptions(request: Request) -> Response:
        async with read_form(request, TranscriptionFields) as (recording, fields):
            _refuse_unsupported(fields)
            options = Options(
                language=fields.language,
                context=fields.prompt,
                words="word" in fields.timestamp_granularities,
            )
            transcript = await service.transcribe(recording, fields.model, options)
        # On a thread: the subtitles of ten hours take seconds to write.
        return await asyncio.to_thread(_response, transcript, fields)

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
        (fields.stream, "stream", "Streamed transcripts are not supported yet; send stream=false."),
        (fields.temperature != 0, "temperature", "Decoding is deterministic here; send 0 or leave it out."),
        (
            fields.include,
            "include[]",
            "Extra fields such as logprobs are not supported yet; leave include[] out.",
        ),
        (fields.keywords, "keywords[]", "Put terms into 'prompt' for now."),
        (fields.hotwords, "hotwords", "Put terms into 'prompt' for now."),
        (fields.languages, "languages[]", "Name one language in 'language', or leave it out."),
        (fields.to_language, "to_language", "Recordings are transcribed, not translated."),
        (
            fields.chunking_strategy not in {None, "auto"},
            "chunking_strategy",
            "Only 'auto' is supported, and is what happens without it.",
        ),
        (
            fields.response_format == "diarized_json",
            "response_format",
            "Speakers are not told apart yet; use json, text, srt, verbose_json or vtt.",
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


def _response(transcript: Transcript, fields: TranscriptionFields) -> Response:
    if fields.response_format == "text":
        return PlainTextResponse(transcript.text + "\n")
    if fields.response_format in MEDIA_TYPES:
        return Response(
            WRITERS[fields.response_format](transcript),
            media_type=f"{MEDIA_TYPES[fields.response_format]}; charset=utf-8",
        )
    usage = {"type": "duration", "seconds": round(transcript.duration, 3)}
    if fields.response_format == "verbose_json":
        return JSONResponse(_verbose(transcript, fields.timestamp_granularities, usage))
    body: dict[str, Any] = {"text": transcript.text, "usage": usage}
    if transcript.language:
        body["languages"] = [{"code": transcript.language}]
    return JSONResponse(body)


def _verbose(transcript: Transcript, granularities: list[Granularity], usage: dict[str, Any]) -> dict[str, Any]:
    body: dict[str, Any] = {
        "task": "transcribe",
        "language": transcript.language,
        "duration": round(transcript.duration, 3),
        "text": transcript.text,
        "usage": usage,
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
