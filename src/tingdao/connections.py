"""Connections that send nothing: uvicorn waits for the head of a request as long as it takes, so somebody has to watch.

A connection is idle while no request of it is in work: before the first, between two, and while a client goes on
sending the body of a request that was refused. Idle ones may be closed at any time; who holds them is nobody's guest.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable

from uvicorn.protocols.http.h11_impl import H11Protocol

FLUSHING = 60.0
"""Seconds that a client may take to read the rest of its answer after its connection was closed."""


class Connection(H11Protocol):
    """A client's connection, which knows since when it has been idle."""

    _idle_since = 0.0

    # uvicorn narrows the type in the same way.
    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A client has come."""
        self._idle_since = time.monotonic()
        super().connection_made(transport)

    def on_response_complete(self) -> None:
        """An answer has been given."""
        self._idle_since = time.monotonic()
        super().on_response_complete()

    @property
    def idle(self) -> float | None:
        """Seconds since it had a request in work; None while it has one."""
        at_work = self.cycle is not None and not self.cycle.response_complete
        return None if at_work else time.monotonic() - self._idle_since

    def drop(self) -> None:
        """Close it; at once when the client has not read its answer for long."""
        if not self.transport.is_closing():
            self.transport.close()
        elif (self.idle or 0.0) > FLUSHING:
            self.transport.abort()


def sweep(connections: Iterable[object], longest: float, most: int) -> int:
    """Drop what is idle for too long, and the longest idle while there are too many; how many were dropped.

    connections: those that are not a `Connection`, such as WebSockets, only count.
    longest: seconds. most: connections.
    """
    known = list(connections)
    waits = {each: wait for each in known if isinstance(each, Connection) and (wait := each.idle) is not None}
    late = [each for each, wait in waits.items() if wait > longest]
    excess = len(known) - most - len(late)
    if excess > 0:
        rest = sorted(waits.keys() - set(late), key=waits.__getitem__, reverse=True)
        late += rest[:excess]
    for each in late:
        each.drop()
    return len(late)
