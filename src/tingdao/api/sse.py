"""Answers that come bit by bit, as server-sent events: `data: {…}` for each event, `data: [DONE]` at the end.

Until the first event is there nothing is sent, so that what fails early is an ordinary error response. What fails
later is the last event, `data: {"error": {…}}`, without a `[DONE]`. When the client leaves, the edge cancels the
request, which closes the events and with them the work behind.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, aclosing
from typing import Any

from fastapi.responses import StreamingResponse
from starlette.types import Message, Receive, Scope, Send

from tingdao.api.admission import Place
from tingdao.api.edge import PLACE, error_body
from tingdao.errors import TingdaoError
from tingdao.observe import figures

STALL = 60.0
"""Seconds that a client may take no data before it is let go."""
HEADERS = {"cache-control": "no-cache", "x-accel-buffering": "no"}  # the second: nginx passes events on at once
# Inside JSON these are only found in strings. Some clients take them for ends of lines.
LINE_ENDS = {0x85: "\\u0085", 0x2028: "\\u2028", 0x2029: "\\u2029"}


class EventStream(StreamingResponse):
    """The response around a generator of events, each a dict.

    resources: what the events need, such as the recording; closed after them.
    """

    def __init__(self, events: AsyncGenerator[dict[str, Any], None], resources: AsyncExitStack) -> None:
        super().__init__((), headers=HEADERS, media_type="text/event-stream")
        self._events = events
        self._resources = resources

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send all events. Raises what the first one raises."""
        async with self._resources, aclosing(self._events) as events:
            event = await anext(events, None)
            await _send(send, {"type": "http.response.start", "status": 200, "headers": self.raw_headers})
            failed: TingdaoError | None = None
            try:
                while event is not None:
                    await _send_data(send, json.dumps(event, ensure_ascii=False, separators=(",", ":")))
                    event = await anext(events, None)
                await _send_data(send, "[DONE]")
            except TingdaoError as error:
                failed = error
            except asyncio.CancelledError:
                failed = _why(scope)
                if failed is None:
                    raise
        # By now the work behind the events is over.
        if failed is not None:
            figures.get().error = failed.code
            await _send_data(send, error_body(failed, scope["path"]).model_dump_json())
        await _send(send, {"type": "http.response.body"})


def _why(scope: Scope) -> TingdaoError | None:
    """What the client is to be told of the end of its request, when that is why this task is cancelled."""
    place: Place | None = scope.get(PLACE)
    if place is None or place.ended is None:
        return None
    if task := asyncio.current_task():
        task.uncancel()
    return place.ended


async def _send_data(send: Send, data: str) -> None:
    body = f"data: {data.translate(LINE_ENDS)}\n\n".encode()
    await _send(send, {"type": "http.response.body", "body": body, "more_body": True})


async def _send(send: Send, message: Message) -> None:
    """Send a message to a client that takes it. Raises TimeoutError for one that does not."""
    async with asyncio.timeout(STALL):
        await send(message)
