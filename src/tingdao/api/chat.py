"""Chat with audio: `POST /v1/chat/completions`, as clients of qwen-asr-serve, OpenAI and DashScope send it.

    request ─► ChatFields ─► Ask (recording, Options, form of the answer) ─► Service.run ─► message | chunks

The content is `language English<asr_text>…`, as Qwen3-ASR itself writes and `qwen_asr.parse_asr_output` reads it, or
the text alone. The language in its head is that of the first speech, streamed or not, because a stream has to begin
with it; `annotations` name the language of most of the speech.
"""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, aclosing
from dataclasses import dataclass, field
from typing import Any, BinaryIO, Literal

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response

from tingdao.api.chat_fields import ChatFields
from tingdao.api.chat_request import Ask, read
from tingdao.api.edge import WORKING, OpenAIError, errors_of
from tingdao.api.inline import Inline
from tingdao.api.payload import payload_schema, read_payload
from tingdao.api.sse import EventStream
from tingdao.languages import name_of
from tingdao.observe import request_id
from tingdao.pipeline.repair import CUT_OFF
from tingdao.pipeline.service import Service
from tingdao.types import Joined, Opening, Progress, Segment, Transcript


def router(service: Service) -> APIRouter:
    """The routes of this dialect."""
    routes = APIRouter(prefix="/v1", tags=["chat"], responses=errors_of(OpenAIError, WORKING))

    @routes.post(
        "/chat/completions",
        summary="Transcribe the recording of a chat",
        openapi_extra=payload_schema(ChatFields),
        responses={200: {"description": "The transcript as the assistant's message.", "content": _EXAMPLES}},
        response_class=Response,
    )
    async def completions(request: Request) -> Response:
        async with AsyncExitStack() as resources:
            fields = await resources.enter_async_context(read_payload(request, ChatFields))
            ask = read(fields)
            service.registry.resolve(ask.model)  # a wrong name is known before anything is fetched
            if isinstance(ask.audio, Inline):
                recording = ask.audio.file
            else:
                recording = await resources.enter_async_context(service.fetcher.recording(ask.audio))
            if ask.stream:
                return EventStream(chunks(service, recording, ask), resources.pop_all())
            transcript = await service.transcribe(recording, ask.model, ask.options)
        return JSONResponse(completion(transcript, ask))

    return routes


@dataclass(slots=True)
class Content:
    """The content as it grows: `head` once, then what each segment adds. Whole and streamed content are the same."""

    raw: bool
    _joined: Joined = field(default_factory=Joined)

    def head(self, first: Opening | Segment | None) -> str:
        """What the content begins with, given the first segment; None when nobody speaks."""
        if not self.raw:
            return ""
        language = name_of(first.language) if first and first.language else "None"
        return f"language {language}<asr_text>"

    def add(self, part: Opening | Segment) -> str:
        """What a segment adds, or its opening."""
        return self._joined.open(part) if isinstance(part, Opening) else self._joined.add(part.text, part.language)


def completion(transcript: Transcript, ask: Ask) -> dict[str, Any]:
    """The answer in one piece."""
    content, segments = Content(ask.raw), transcript.segments
    text = content.head(segments[0] if segments else None) + "".join(map(content.add, segments))
    message = {"role": "assistant", "content": text} | _annotations(transcript, ask)
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": _finish_reason(transcript, ask)}
    return _envelope("chat.completion") | {
        "model": transcript.model,
        "choices": [choice],
        "usage": _usage(transcript),
    }


async def chunks(service: Service, recording: BinaryIO, ask: Ask) -> AsyncGenerator[dict[str, Any], None]:
    """The answer in chunks: the head with the first segment, each segment's text, and how it ended."""
    registry = service.registry
    # Where routes choose, which model runs is known at the end.
    model = ask.model if registry.leaves_choice(ask.model) else registry.resolve(ask.model)
    envelope = _envelope("chat.completion.chunk") | {"model": model or registry.default}
    if ask.usage_chunk:
        envelope["usage"] = None
    content, begun = Content(ask.raw), False

    def chunk(delta: dict[str, Any], finish_reason: str | None = None) -> dict[str, Any]:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}
        return envelope | {"choices": [choice]}

    async with aclosing(service.run(recording, ask.model, ask.options)) as events:
        async for event in events:
            if not isinstance(event, Progress) and not begun:
                first = None if isinstance(event, Transcript) else event
                yield chunk({"role": "assistant", "content": content.head(first)})
                begun = True
            if isinstance(event, Opening | Segment):
                if text := content.add(event):
                    yield chunk({"content": text})
            elif isinstance(event, Transcript):
                envelope["model"] = event.model
                yield chunk(_annotations(event, ask), _finish_reason(event, ask))
                if ask.usage_chunk:
                    yield envelope | {"choices": [], "usage": _usage(event)}


def _envelope(kind: Literal["chat.completion", "chat.completion.chunk"]) -> dict[str, Any]:
    return {"id": f"chatcmpl-{request_id.get()}", "object": kind, "created": int(time.time())}


def _annotations(transcript: Transcript, ask: Ask) -> dict[str, Any]:
    """DashScope's `annotations`: the language of most of the speech; empty when nobody speaks."""
    if not ask.annotate:
        return {}
    return {"annotations": [{"type": "audio_info", "language": transcript.language}] if transcript.language else []}


def _finish_reason(transcript: Transcript, ask: Ask) -> str:
    """`length` when the model ran out of its own budget, or used more than the client expected; else `stop`."""
    cut = any(CUT_OFF in segment.flags for segment in transcript.segments)
    return "length" if cut or (ask.room and transcript.usage.completion_tokens > ask.room) else "stop"


def _usage(transcript: Transcript) -> dict[str, Any]:
    """Tokens as the model counted them where it ran, and the recording's duration as DashScope gives it."""
    prompt, completed = transcript.usage.prompt_tokens, transcript.usage.completion_tokens
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completed,
        "total_tokens": prompt + completed,
        "seconds": round(transcript.duration, 3),
    }


_EXAMPLES = {
    "application/json": {
        "example": {
            "id": "chatcmpl-6f1c",
            "object": "chat.completion",
            "created": 1767225600,
            "model": "qwen3-asr-1.7b",
            "choices": [
                {
                    "index": 0,
                    "message": {
                        "role": "assistant",
                        "content": "language English<asr_text>Hello, how are you?",
                        "annotations": [{"type": "audio_info", "language": "en"}],
                    },
                    "logprobs": None,
                    "finish_reason": "stop",
                }
            ],
            "usage": {"prompt_tokens": 41, "completion_tokens": 10, "total_tokens": 51, "seconds": 2.1},
        }
    },
    "text/event-stream": {
        "example": 'data: {"object": "chat.completion.chunk", "choices": [{"index": 0, "delta": {"content": "Hello"}, '
        '"finish_reason": null}]}\n\ndata: [DONE]\n\n'
    },
}
