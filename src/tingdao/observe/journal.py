"""The requests: those in work, the last ones that failed, and a line of log for each when it ends."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tingdao.errors import Overloaded, Stopping
from tingdao.observe.metrics import Metrics
from tingdao.observe.request import Figures, figures, request_id
from tingdao.observe.traces import Traces

log = logging.getLogger("tingdao.access")

REFUSED = frozenset({Overloaded.code, Stopping.code})
"""Errors that say that there is no room: expected, and as many as there are callers."""
REMEMBERED = 20
"""Failed requests that the operator can still look at."""


@dataclass(frozen=True, slots=True)
class Trouble:
    """A request that failed through our fault. at: seconds of the epoch."""

    at: float
    request_id: str
    key: str | None
    route: str
    model: str | None
    status: int
    error: str | None


class Journal:
    """Everything about requests that somebody may want to know. Used from one event loop.

    traces: where spans go; None for nowhere. transcripts: whether what was said may be logged.
    """

    def __init__(self, metrics: Metrics, traces: Traces | None = None, *, transcripts: bool = False) -> None:
        self.metrics = metrics
        self.running: set[Figures] = set()
        self.troubles: deque[Trouble] = deque(maxlen=REMEMBERED)
        self._traces = traces
        self._transcripts = transcripts

    def open(self, identity: str, method: str, path: str, headers: Mapping[bytes, bytes]) -> Figures:
        """A request begins: from here on the running code works for it."""
        request_id.set(identity)
        mine = Figures(self.metrics)
        mine.id, mine.method, mine.path = identity, method, path
        # Looking costs nothing and tells nothing.
        if self._traces and method != "GET":
            mine.span = self._traces.request(identity, method, path, headers)
        figures.set(mine)
        self.running.add(mine)
        return mine

    def close(self, mine: Figures, route: str, status: int, error: str | None, received: int) -> None:
        """A request has ended. error: code of its answer. received: bytes of its body."""
        self.running.discard(mine)
        seconds, error, metrics = mine.elapsed, error or mine.error, self.metrics
        metrics.requests.labels(route, str(status)).inc()
        metrics.request_seconds.labels(route).observe(seconds)
        if error:
            metrics.refusals.labels(error).inc()
            if mine.key:
                metrics.key_refusals.labels(mine.key).inc()
        if mine.model:
            metrics.queue_seconds.labels(mine.model).observe(mine.seconds("queue"))
            metrics.decode_seconds.labels(mine.model).observe(mine.seconds("decode"))
        if (status >= 500 and error not in REFUSED) or mine.error:
            self.troubles.append(Trouble(time.time(), mine.id, mine.key, route, mine.model, status, error))
        facts = self._facts(mine, route, status, error, received, seconds)
        log.info("request", extra=facts)
        if mine.span:
            shown = {name: value for name, value in facts.items() if value is not None and name != "transcript"}
            mine.span.end(error, shown)

    def _facts(
        self, mine: Figures, route: str, status: int, error: str | None, received: int, seconds: float
    ) -> dict[str, Any]:
        facts: dict[str, Any] = {
            "key": mine.key,
            "client": mine.client,
            "method": mine.method,
            "route": route,
            "path": mine.path,
            "status": status,
            "error": error,
            "body_bytes": received,
            "total_ms": _ms(seconds),
        }
        if mine.model:
            facts |= {
                "model": mine.model,
                "audio_s": round(mine.audio, 3),
                "clips": mine.clips,
                "queue_ms": _ms(mine.seconds("queue")),
                "decode_ms": _ms(mine.seconds("decode")),
                "recognise_ms": _ms(mine.seconds("recognise")),
                "align_ms": _ms(mine.seconds("align")),
                "first_text_ms": None if mine.first_text is None else _ms(mine.first_text),
            }
        if self._transcripts and mine.transcript is not None:
            facts["transcript"] = mine.transcript
        return facts


def _ms(seconds: float) -> float:
    return round(seconds * 1000, 1)
