"""Events to clients that do not take them."""

import asyncio
from contextlib import AsyncExitStack

import pytest

from tingdao.api import sse
from tingdao.api.sse import EventStream


def test_a_client_that_takes_nothing_is_let_go_and_everything_closed(monkeypatch):
    monkeypatch.setattr(sse, "STALL", 0.05)
    closed = []

    async def numbers():
        try:
            for number in range(1000):
                yield {"number": number}
        finally:
            closed.append("events")

    async def main():
        taken = []

        async def send(message):
            taken.append(message)
            if len(taken) == 4:
                await asyncio.sleep(30)

        resources = AsyncExitStack()
        resources.callback(closed.append, "resources")
        with pytest.raises(TimeoutError):
            await EventStream(numbers(), resources)({"type": "http", "path": "/v1/x"}, None, send)
        return taken

    taken = asyncio.run(main())
    assert [part.get("body") for part in taken] == [None, *(b'data: {"number":%d}\n\n' % n for n in range(3))]
    assert closed == ["events", "resources"]


def test_no_event_at_all_is_an_empty_stream():
    async def nothing():
        return
        yield {}

    async def main():
        taken = []

        async def send(message):
            taken.append(message)

        await EventStream(nothing(), AsyncExitStack())({"type": "http", "path": "/v1/x"}, None, send)
        return taken

    assert [part.get("body") for part in asyncio.run(main())] == [None, b"data: [DONE]\n\n", None]
