"""The edge of the service: what happens to every request before and after its dialect.

    request ─► id ─► access ─► admission ─► body limits ─► dialect ─► error → response ─► log, metrics

`Edge` is plain ASGI middleware around the whole application. It bounds what a client may send (bytes, and time
between bytes), bounds how much work is in flight, and cancels the work when the client leaves. `answer` is the only
place that turns an error into a response, in the shape of the dialect that the path belongs to.
"""

from __future__ import annotations

import asyncio
import logging
import re
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tingdao import errors
from tingdao.api.access import Access
from tingdao.api.admission import KIB, Admission, Place, Upload
from tingdao.caller import caller
from tingdao.errors import DeadlineExceeded, QuotaExceeded, TingdaoError, TooLarge, UploadTimeout
from tingdao.observe import Figures, Journal
from tingdao.settings import MIB

log = logging.getLogger(__name__)

NATIVE_PREFIX = "/api/"
ID_HEADER = b"x-request-id"
SAFE_ID = re.compile(rb"[A-Za-z0-9._-]{1,64}")

# On every response. Scripts and styles come from this service only; `blob:` is the page playing the chosen file.
SECURITY_HEADERS = [
    (b"content-security-policy", b"default-src 'self'; media-src 'self' blob:; frame-ancestors 'none'"),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
]

# A refused upload is read on for a moment: a client that is still sending would otherwise see a reset connection
# in place of the answer.
LINGER_BYTES = 64 * MIB
LINGER_SECONDS = 2.0

POLICY_VIOLATION = 1008  # RFC 6455, section 7.4.1

PLACE = "tingdao.place"
"""Where the scope holds the `Place` of a request, for answers that come bit by bit."""


class NativeSuccess(BaseModel):
    """The native envelope of what was asked for, which is in `data`."""

    code: int = Field(0, description="0; anything else is an error.")
    message: str = "success"


def success(data: dict[str, Any]) -> dict[str, Any]:
    """What was asked for, in the native envelope."""
    return {"code": 0, "message": "success", "data": data}


class NativeError(BaseModel):
    """An error in the native envelope."""

    code: int = Field(description="Number of the error; never 0.", examples=[40010])
    message: str = Field(description="What happened, and what to do next.")
    error: str = Field(description="Stable name of the error.", examples=["unsupported_audio"])
    param: str | None = Field(description="The field at fault, where there is one.")
    data: None = None


class OpenAIErrorBody(BaseModel):
    """What is wrong, in OpenAI's terms."""

    message: str = Field(description="What happened, and what to do next.")
    type: str = Field(examples=["invalid_request_error", "server_error"])
    param: str | None = Field(description="The field at fault, where there is one.")
    code: str = Field(description="Stable name of the error.", examples=["unsupported_audio"])


class OpenAIError(BaseModel):
    """An error in OpenAI's shape."""

    error: OpenAIErrorBody


READING = frozenset({400, 401, 403, 404, 429, 500, 503})
"""What any request may be refused with."""
CHANGING = READING | {408, 409, 413, 504}
"""And one with a body."""
WORKING = READING | {408, 413, 422, 504, 507}
"""And one with a recording."""


def errors_of(shape: type[BaseModel], statuses: frozenset[int] = READING) -> dict[int | str, dict[str, object]]:
    """The error responses of a dialect, for the OpenAPI document, with the codes of each."""
    codes: dict[int, list[str]] = {status: [] for status in sorted(statuses)}
    for kind in vars(errors).values():
        if isinstance(kind, type) and issubclass(kind, TingdaoError) and kind.status in codes:
            codes[kind.status].append(f"`{kind.code}`")
    return {status: {"model": shape, "description": ", ".join(dict.fromkeys(found))} for status, found in codes.items()}


def error_body(error: TingdaoError, path: str) -> BaseModel:
    """An error in the shape of the dialect that `path` belongs to."""
    if path.startswith(NATIVE_PREFIX):
        return NativeError(code=error.number, message=error.message, error=error.code, param=error.param)
    kind = "invalid_request_error" if error.status < 500 else "server_error"
    return OpenAIError(error=OpenAIErrorBody(message=error.message, type=kind, param=error.param, code=error.code))


def answer(error: TingdaoError, path: str) -> JSONResponse:
    """The response to an error, in the shape of the dialect that `path` belongs to."""
    body = error_body(error, path)
    headers = {"x-error-code": error.code}
    if error.retry_after is not None:
        headers["retry-after"] = str(max(1, round(error.retry_after)))
    if error.status == 401:
        headers["www-authenticate"] = "Bearer"
    if isinstance(error, QuotaExceeded):
        headers["x-should-retry"] = "false"  # OpenAI's clients would try again within seconds, all day long
    return JSONResponse(body.model_dump(), status_code=error.status, headers=headers)


@dataclass(slots=True)
class _Exchange:
    """One request and its response, as the edge sees them."""

    figures: Figures
    upload: Upload
    body_done: asyncio.Event = field(default_factory=asyncio.Event)
    left: asyncio.Event = field(default_factory=asyncio.Event)
    started: bool = False
    answered: bool = False
    headers: list[tuple[bytes, bytes]] = field(default_factory=list)  # of the response, beside the application's
    status: int = 499  # what is logged when the client leaves before there is one
    error: str | None = None


class Edge:
    """The middleware around `app`, the application with all dialects."""

    def __init__(self, app: ASGIApp, admission: Admission, journal: Journal, access: Access) -> None:
        self._app = app
        self._admission = admission
        self._journal = journal
        journal.metrics.in_flight.set_function(lambda: admission.in_flight)
        self._access = access

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One ASGI connection."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        method, headers = scope.get("method", "WEBSOCKET"), dict(scope["headers"])
        figures = self._journal.open(_request_id(headers), method, scope["path"], headers)
        exchange = _Exchange(figures, Upload(self._admission.settings.min_upload_kib_s * KIB))
        try:
            await self._exchange(exchange, scope, receive, send)
        except Exception:
            exchange.status, exchange.error = TingdaoError.status, TingdaoError.code
            raise  # the server answers
        finally:
            route = getattr(scope.get("route"), "path", "other")
            self._journal.close(exchange.figures, route, exchange.status, exchange.error, exchange.upload.received)

    async def _exchange(self, exchange: _Exchange, scope: Scope, receive: Receive, send: Send) -> None:
        visit = await self._access.admit(scope)
        exchange.figures.key, exchange.figures.client = visit.caller.name, visit.caller.address
        exchange.headers = visit.headers
        caller.set(visit.caller)
        if scope["type"] == "websocket":
            await self._socket(exchange, visit.refusal, scope, receive, send)
            return

        async def watched_send(message: Message) -> None:
            _note_response(exchange, message, closing=self._admission.stopping)
            await send(message)

        async def watched_receive() -> Message:
            return await self._receive(exchange, receive)

        try:
            if visit.refusal:
                await answer(visit.refusal, scope["path"])(scope, receive, watched_send)
            elif not self._admission.concerns(scope):
                await self._app(scope, watched_receive, watched_send)
            else:
                await self._work(exchange, scope, receive, watched_receive, watched_send)
        except TingdaoError as refusal:
            ends = self._admission.stopping and not exchange.body_done.is_set()
            parting = _parting(receive, watched_send) if ends else watched_send
            await answer(refusal, scope["path"])(scope, receive, parting)
        except Exception:
            # The application has answered with an error already; it comes up here to be logged, once.
            log.exception("unexpected error")

    async def _socket(
        self, exchange: _Exchange, refusal: TingdaoError | None, scope: Scope, receive: Receive, send: Send
    ) -> None:
        """One WebSocket; a refusal comes before it is accepted, as an HTTP answer where the server can send one."""
        if refusal is None:
            exchange.status = 101
            await self._app(scope, receive, send)
            return
        exchange.status, exchange.error = refusal.status, refusal.code
        if "websocket.http.response" in scope.get("extensions", {}):
            await answer(refusal, scope["path"])(scope, receive, send)
        else:
            await send({"type": "websocket.close", "code": POLICY_VIOLATION, "reason": refusal.code})

    async def _work(
        self, exchange: _Exchange, scope: Scope, receive: Receive, watched_receive: Receive, send: Send
    ) -> None:
        """Run the application in a place of its own, and cancel it when the client leaves or the place is ended.

        Raises BadRequest, and what ends the request before it is answered: Overloaded, Stopping, DeadlineExceeded, …
        """
        seconds = self._admission.time_limit(scope)
        with self._admission.place(caller.get().party, exchange.upload, seconds) as place:
            scope[PLACE] = place
            work = place.work = asyncio.ensure_future(self._app(scope, watched_receive, send))
            watch = asyncio.ensure_future(_wait_for_leaving(exchange, receive))
            try:
                with _deadline(place, seconds):
                    await asyncio.wait({work, watch}, return_when=asyncio.FIRST_COMPLETED)
                    if not work.done() and not exchange.answered:
                        work.cancel()
                    await asyncio.wait({work})
                if place.ended and not exchange.started:
                    raise place.ended
                if not work.cancelled() and (error := work.exception()):
                    raise error
            finally:
                watch.cancel()
                work.cancel()
                await asyncio.gather(work, watch, return_exceptions=True)

    async def _receive(self, exchange: _Exchange, receive: Receive) -> Message:
        """The next part of the body, within the limits. Raises TooLarge, UploadTimeout."""
        if exchange.body_done.is_set():
            await exchange.left.wait()
            return {"type": "http.disconnect"}
        patience = self._admission.settings.receive_timeout_s
        try:
            async with asyncio.timeout(min(patience, exchange.upload.left(patience))):
                with exchange.upload.waiting():
                    message = await receive()
        except TimeoutError:
            exchange.body_done.set()
            why = "came" if exchange.upload.left(patience) > 0 else "has come fast enough"
            raise UploadTimeout(f"No data {why} for {patience:g} s. Send the recording again.") from None
        if message["type"] == "http.disconnect":
            exchange.left.set()
            return message
        exchange.upload.received += len(message.get("body", b""))
        if exchange.upload.received > (most := self._admission.settings.max_upload_mib) * MIB:
            await _linger(receive, message)
            exchange.body_done.set()
            raise TooLarge(
                f"The request is larger than {most} MiB. Send a compressed format "
                "(Opus, MP3, M4A), or cut the recording."
            )
        if not message.get("more_body", False):
            exchange.body_done.set()
        return message


def _request_id(headers: dict[bytes, bytes]) -> str:
    """The id the client gave, when it is harmless, else a new one."""
    given = headers.get(ID_HEADER, b"")
    return given.decode() if SAFE_ID.fullmatch(given) else uuid.uuid4().hex


def _note_response(exchange: _Exchange, message: Message, *, closing: bool) -> None:
    """closing: whether this connection is to have no further request."""
    if message["type"] == "http.response.start":
        exchange.started, exchange.status = True, message["status"]
        identity = (ID_HEADER, exchange.figures.id.encode())
        message["headers"] = [*message.get("headers", []), identity, *exchange.headers, *SECURITY_HEADERS]
        exchange.error = dict(message["headers"]).get(b"x-error-code", b"").decode() or None
        if closing:
            message["headers"].append((b"connection", b"close"))
    elif message["type"] == "http.response.body" and not message.get("more_body", False):
        exchange.answered = True


@contextmanager
def _deadline(place: Place, seconds: float | None) -> Iterator[None]:
    """End the work of the block when its time is over."""
    if seconds is None:
        yield
        return
    error = DeadlineExceeded(f"This was not done within {seconds:g} s. Give it more time, or send less at once.")
    timer = asyncio.get_running_loop().call_later(seconds, place.end, error)
    try:
        yield
    finally:
        timer.cancel()


def _parting(receive: Receive, send: Send) -> Send:
    """`send` for an answer that closes the connection: the client gets it all first, and time to stop sending."""

    async def parting(message: Message) -> None:
        last = message["type"] == "http.response.body" and not message.get("more_body", False)
        await send({**message, "more_body": True} if last else message)
        if last:
            await _linger(receive, {"more_body": True})
            await send({"type": "http.response.body"})

    return parting


async def _wait_for_leaving(exchange: _Exchange, receive: Receive) -> None:
    """Return when the client has left; only one party may read, so this begins where the body ends."""
    await exchange.body_done.wait()
    while (await receive())["type"] != "http.disconnect":
        pass
    exchange.left.set()


async def _linger(receive: Receive, message: Message) -> None:
    """Read and drop what a client still sends, for a bounded time and number of bytes."""
    dropped = 0
    try:
        async with asyncio.timeout(LINGER_SECONDS):
            while message.get("more_body", False) and dropped < LINGER_BYTES:
                message = await receive()
                dropped += len(message.get("body", b""))
    except TimeoutError:
        return
