"""What goes over the wire to a vLLM server: what it is, whether it lives, and a question with its streamed answer.

    UpstreamError       why a server did not answer, in words for the operator
    ├── Unreachable     nobody answers there
    ├── Misfit          it answers, and is not what is needed here: auth refused, other model, no audio, other version
    ├── Busy            it has too much to do
    ├── Broken          it failed: an error of its own, an answer that broke off, or none in time
    └── Refused         it will not take this request, and no other server would

It knows nothing of other servers, and waits for as long as it is let.
Source: vLLM's OpenAI-compatible server, vllm/entrypoints/openai/chat_completion/protocol.py (0.14: openai/protocol.py),
and vllm/entrypoints/speech_to_text for uploads, whose streams have the same form.
All that is asked of it is there from 0.14.0 on: /version, /tokenize, `continue_final_message`, `add_generation_prompt`,
`include_stop_str_in_output`, `return_token_ids`. What a server does not know it ignores (extra="allow"), so that one
without `return_token_ids` answers without ids. vLLM has Qwen3-ASR itself from 0.16.0 on; on 0.14 it is served by
`qwen-asr-serve` (qwen-asr 0.0.6), which is `vllm serve` with the model registered: all of this is true of it too.
"""

from __future__ import annotations

import json
import re
import ssl
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import tingdao
from tingdao.engines.vllm.client import Address, Client, ConnectFailed, ConnectionBroke, Request, Response
from tingdao.errors import SetupError
from tingdao.settings import VllmSettings

END_SECONDS = 0.1
"""How long the end of an answer is waited for, after its last event."""
KEY = re.compile(r"[!-~]+")
MOST_ERROR_BYTES = 64 * 1024
MOST_LINE_BYTES = 8 * 1024 * 1024
OLDEST, NEXT_MAJOR = (0, 14), 1
"""Versions of vLLM that serve Qwen3-ASR and speak as here: from the first up to the next major one."""
NO_AUDIO = re.compile(r"not a multimodal|at most 0 audio|audio.*not supported|not support audio", re.IGNORECASE)
TOO_LONG = re.compile(r"context length|max_model_len|too long|longer than the maximum", re.IGNORECASE)


class UpstreamError(Exception):
    """Why a server did not answer."""


class Unreachable(UpstreamError):
    """Nobody answers there."""


class Misfit(UpstreamError):
    """It is not what is needed here."""


class Busy(UpstreamError):
    """It has too much to do."""


class Broken(UpstreamError):
    """It failed."""


class Refused(UpstreamError):
    """It will not take this request. too_long: since it is more than the model takes in one piece."""

    def __init__(self, reason: str, *, too_long: bool = False) -> None:
        super().__init__(reason)
        self.too_long = too_long


@dataclass(frozen=True, slots=True)
class Identity:
    """What a server says of itself. model: the name under which it serves. length: tokens of prompt and answer."""

    model: str
    version: str
    length: int | None


@dataclass(frozen=True, slots=True)
class Piece:
    """A piece of an answer.

    tokens: its ids; None from servers that do not tell. prompt_tokens, completion_tokens: where it tells them, and
    the latter with the end. finish: why it ended, "stop" or "length". ended_itself: by the model's own end.
    """

    text: str
    tokens: list[int] | None
    finish: str | None = None
    ended_itself: bool = False
    prompt_tokens: int | None = None
    completion_tokens: int | None = None


class Wire:
    """Connections to all servers of one model, kept while they are used. Raises SetupError for unreadable settings."""

    def __init__(self, settings: VllmSettings) -> None:
        headers = {"User-Agent": f"tingdao/{tingdao.__version__}", "Accept-Encoding": "identity"}
        if settings.key:
            key = settings.key.get_secret_value()
            if not KEY.fullmatch(key):
                raise SetupError(
                    "[vllm] key: it holds characters that no key has: space, line ends or letters not ASCII"
                )
            headers["Authorization"] = f"Bearer {key}"
        try:
            tls = ssl.create_default_context(cafile=settings.ca)
        except OSError as error:  # ssl.SSLError too
            raise SetupError(f"[vllm] ca: {settings.ca} cannot be read: {error}") from None
        self._client = Client(headers, tls, settings.connect_timeout_s)

    async def identify(self, address: Address, model: str) -> Identity:
        """What a server is. model: that it must serve; empty: the only one it serves. Raises UpstreamError."""
        version = _version(await self._fetch(address, Request("/version")))
        models = {card["id"]: card for card in await self._models(address)}
        if not model and len(models) == 1:
            model = next(iter(models))
        if model not in models:
            wanted = f"the model {model!r}" if model else "one model only; name the one that is meant: [vllm] model"
            raise Misfit(f"It does not serve {wanted}. It serves: {', '.join(models) or 'none'}")
        length = models[model].get("max_model_len")
        return Identity(model, version, length if isinstance(length, int) else None)

    async def lives(self, address: Address) -> None:
        """Raises UpstreamError unless the server says that it is well."""
        await self._fetch(address, Request("/health"))

    async def count(self, address: Address, model: str, text: str) -> int:
        """How many tokens a text has. Raises UpstreamError."""
        question = json.dumps({"model": model, "prompt": text}).encode()
        said = await self._fetch(address, Request("/tokenize", question))
        try:
            return int(said["count"])
        except (KeyError, TypeError, ValueError):
            raise Broken("It does not count tokens as a vLLM server does") from None

    async def ask(self, address: Address, request: Request, gather: float = 0.0) -> AsyncGenerator[list[Piece], None]:
        """The pieces of an answer as they come; closing it ends the work on the server. Raises UpstreamError.

        gather: seconds that pieces may be held back for more, which makes them cheaper.
        """
        async with self._send(address, request) as answer:
            if answer.status != 200:
                raise _failure(answer.status, await _message(answer))
            rest = b""
            while came := await answer.read(gather):
                *lines, rest = (rest + came).split(b"\n")
                if len(rest) > MOST_LINE_BYTES:
                    raise Broken("It sent a line without end")
                events = [line[5:].strip() for line in lines if line.startswith(b"data:")]
                ended = events[-1:] == [b"[DONE]"]
                if pieces := [_piece(_event(event)) for event in events[: len(events) - ended]]:
                    yield pieces
                if ended:
                    await answer.end(END_SECONDS)  # only then can the connection serve the next request
                    return
            raise Broken("Its answer broke off")

    async def close(self) -> None:
        """End all connections."""
        await self._client.close()

    async def _models(self, address: Address) -> list[dict[str, Any]]:
        said = await self._fetch(address, Request("/v1/models"))
        cards = said.get("data") if isinstance(said, dict) else None
        if not isinstance(cards, list) or not all(
            isinstance(card, dict) and isinstance(card.get("id"), str) for card in cards
        ):
            raise Misfit("It does not list its models as a vLLM server does")
        return cards

    async def _fetch(self, address: Address, request: Request) -> Any:  # noqa: ANN401  JSON
        async with self._send(address, request) as answer:
            status, message = answer.status, await _message(answer)
        if status == 404:
            raise Misfit(f"It has no {request.path}: it is not a vLLM server")
        if status != 200:
            raise _failure(status, message)
        try:
            return json.loads(message or "null")
        except ValueError:
            raise Misfit(f"Its {request.path} is not JSON: it is not a vLLM server") from None

    @asynccontextmanager
    async def _send(self, address: Address, request: Request) -> AsyncGenerator[Response, None]:
        try:
            async with self._client.send(address, request) as answer:
                yield answer
        except ConnectFailed as error:
            raise Unreachable(f"It cannot be reached: {error}") from None
        except ConnectionBroke as error:
            raise Broken(f"The connection to it broke: {error}") from None


def _version(said: Any) -> str:  # noqa: ANN401  JSON
    """A server's version, judged. Raises Misfit."""
    version = said.get("version") if isinstance(said, dict) else None
    if not isinstance(version, str) or not (number := re.match(r"(\d+)\.(\d+)", version)):
        raise Misfit("It does not tell its version: it is not a vLLM server")
    told = int(number[1]), int(number[2])
    built_by_hand = "dev" in version and told < OLDEST  # such builds are numbered 0.1.dev… whatever they are of
    if not built_by_hand and not OLDEST <= told < (NEXT_MAJOR,):
        oldest = ".".join(map(str, OLDEST))
        raise Misfit(f"It is vLLM {version}; what is known here is {oldest} and newer, below {NEXT_MAJOR}.0")
    return version


async def _message(answer: Response) -> str:
    """The beginning of a short body."""
    body = b""
    while len(body) <= MOST_ERROR_BYTES and (came := await answer.read()):
        body += came
    return body[:MOST_ERROR_BYTES].decode(errors="replace")


def _event(data: bytes) -> dict[str, Any]:
    try:
        event = json.loads(data)
    except ValueError:
        event = None
    if not isinstance(event, dict):
        raise Broken("It sent what is no event of an answer")
    return event


def _piece(event: dict[str, Any]) -> Piece:
    """An event as a piece. Raises UpstreamError when it tells of an error."""
    if error := event.get("error"):
        code = error.get("code") if isinstance(error, dict) else None
        raise _failure(code if isinstance(code, int) else 500, json.dumps(event))
    try:
        choice = (event.get("choices") or [{}])[0]
        usage, prompt = event.get("usage") or {}, event.get("prompt_token_ids")
        text, tokens = (choice.get("delta") or {}).get("content") or "", choice.get("token_ids")
        if not isinstance(text, str) or not isinstance(tokens, list | None):
            raise TypeError
        return Piece(
            text,
            tokens,
            finish=choice.get("finish_reason"),
            ended_itself=choice.get("finish_reason") == "stop" and choice.get("stop_reason") is None,
            prompt_tokens=len(prompt) if prompt else usage.get("prompt_tokens"),
            completion_tokens=usage.get("completion_tokens"),
        )
    except (AttributeError, TypeError, KeyError):
        raise Broken("It sent what is no event of an answer") from None


def _failure(status: int, body: str) -> UpstreamError:
    """What an error answer means."""
    try:
        said = json.loads(body)
        error = said.get("error", said)
        reason = str(error.get("message") if isinstance(error, dict) else error)
    except (ValueError, AttributeError):
        reason = body
    reason = " ".join(reason.split())[:300]
    if status in {401, 403}:
        return Misfit(f"It refuses the key ({status}). Set [vllm] key to that of the server")
    if status == 404:
        return Misfit(f"It does not know the model or the path: {reason}")
    if status in {429, 503}:
        return Busy(f"It is busy or starting ({status}): {reason}")
    if 400 <= status < 500:
        if NO_AUDIO.search(reason):
            return Misfit(f"Its model takes no audio: {reason}")
        return Refused(f"It refuses the request ({status}): {reason}", too_long=bool(TOO_LONG.search(reason)))
    return Broken(f"It answered {status}: {reason}")
