"""The native dialect: `POST /api/v1/transcribe`, and `GET /health`.

Every answer has the same envelope: `{"code": 0, "message": "success", "data": {…}}`, with a non-zero code, the
error's stable name in `error`, and no data when something is wrong.
"""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request
from pydantic import BaseModel, Field

from tingdao.api.edge import WORKING, NativeError, NativeSuccess, errors_of, success
from tingdao.api.forms import form_schema, read_form
from tingdao.api.options import OptionFields, ShownVocabulary, options_of, vocabulary_of
from tingdao.api.ready import LOADING, failure
from tingdao.engines.registry import ModelState
from tingdao.pipeline.service import Service
from tingdao.types import Segment, Transcript

API_ROOT = "/api/v1/transcribe"
STAND_IN_NOTICE = (
    "The small embedded model is in use. It only stands in for Qwen3-ASR, which makes far fewer mistakes: "
    "run `tingdao download 0.6b` and `pip install 'tingdao[cpu]'` (with a GPU: tingdao[qwen]), then serve again."
)


class TranscribeFields(OptionFields):
    """Fields of the native upload."""

    model: str | None = Field(None, description="Model name; left out: the default model.", examples=["default"])
    segments: bool = Field(default=False, description="Add `segments` with start and end in seconds.")
    words: bool = Field(default=False, description="Add `words` with times to the segments.")


class TranscribeWord(BaseModel):
    """A word with its times in seconds."""

    word: str
    start: float
    end: float


class TranscribeSegment(BaseModel):
    """A stretch of speech with its times in seconds."""

    start: float
    end: float
    text: str
    language: str | None
    flags: list[str] = Field(description="What was repaired here, such as `looped`.")
    words: list[TranscribeWord] | None = None


class TranscribeData(BaseModel):
    """The transcript."""

    text: str = Field(examples=["今天我们要讨论…"])
    language: str | None = Field(description="ISO code of most of the speech; null without speech.", examples=["zh"])
    duration_sec: float = Field(
        description="Real duration of the recording, in seconds, for every format.", examples=[4.23]
    )
    model: str = Field(description="The model that ran.", examples=["qwen3-asr-1.7b"])
    segments: list[TranscribeSegment] | None = None
    vocabulary: ShownVocabulary | None = Field(None, description="There when words were expected.")


class TranscribeAnswer(NativeSuccess):
    """The envelope of a success."""

    data: TranscribeData


class Health(BaseModel):
    """Whether the service lives, and with which model."""

    status: str = Field(description="`ok`, `loading` while the model loads, `failed` when it could not be loaded.")
    model: str
    api_root: str = API_ROOT
    stand_in: bool | None = Field(None, description="Whether the embedded model stands in for Qwen3-ASR.")
    notice: str | None = Field(None, description="What the operator should know, in words.")


def router(service: Service) -> APIRouter:
    """The routes of this dialect."""
    routes = APIRouter(tags=["native"])

    @routes.post(
        API_ROOT,
        summary="Transcribe a recording",
        response_model=TranscribeAnswer,
        response_model_exclude_unset=True,
        openapi_extra=form_schema(TranscribeFields),
        responses=errors_of(NativeError, WORKING),
    )
    async def transcribe(request: Request) -> dict[str, Any]:
        async with read_form(request, TranscribeFields, service.fetcher) as (recording, fields):
            transcript = await service.transcribe(recording, fields.model, options_of(fields, words=fields.words))
        return success(_data(transcript, segments=fields.segments or fields.words))

    @routes.get("/health", summary="Is the service alive?", response_model=Health)
    @routes.get("/api/health", include_in_schema=False, response_model=Health)
    async def health() -> Health:
        return _health(service.registry.state())

    return routes


def _data(transcript: Transcript, *, segments: bool) -> dict[str, Any]:
    data: dict[str, Any] = {
        "text": transcript.text,
        "language": transcript.language,
        "duration_sec": round(transcript.duration, 3),
        "model": transcript.model,
    }
    if vocabulary := vocabulary_of(transcript):
        data["vocabulary"] = vocabulary.model_dump()
    if segments:
        data["segments"] = [_segment(segment) for segment in transcript.segments]
    return data


def _segment(segment: Segment) -> dict[str, Any]:
    shown: dict[str, Any] = {
        "start": round(segment.start, 3),
        "end": round(segment.end, 3),
        "text": segment.text,
        "language": segment.language,
        "flags": list(segment.flags),
    }
    if segment.words is not None:
        shown["words"] = [
            {"word": word.text, "start": round(word.start, 3), "end": round(word.end, 3)} for word in segment.words
        ]
    return shown


def _health(state: ModelState) -> Health:
    # An idle model is loaded by the next request for it.
    status = {"ready": "ok", "idle": "ok", "failed": "failed"}.get(state.state, "loading")
    stand_in = state.card.stand_in if state.card else None
    notice = STAND_IN_NOTICE if stand_in else None
    if status == "loading":
        notice = LOADING
    if status == "failed":
        notice = failure(state)
    return Health(status=status, model=state.name, stand_in=stand_in, notice=notice)
