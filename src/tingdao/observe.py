"""What the operator sees: JSON logs with request ids, and Prometheus metrics.

Logs carry facts about requests (sizes, seconds, status), never keys and never transcript text.
"""

from __future__ import annotations

import json
import logging
import re
import sys
import time
from contextvars import ContextVar
from typing import Any, TextIO

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

request_id: ContextVar[str | None] = ContextVar("request_id", default=None)
"""Id of the request that the running code works for."""

_SECRETS = re.compile(r"\b(td|ek)_[0-9A-Za-z_-]{16,}")
"""What looks like a key or a ticket. Nothing writes one on purpose; a path or a library's message may hold one."""

_FIELDS = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "color_message"}


class JsonFormatter(logging.Formatter):
    """One JSON object per line: time, level, logger, message, request id, and whatever `extra` carried."""

    def format(self, record: logging.LogRecord) -> str:
        """The record as one line of JSON."""
        line: dict[str, Any] = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{record.msecs:03.0f}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if identity := request_id.get():
            line["request_id"] = identity
        line |= {key: value for key, value in vars(record).items() if key not in _FIELDS}
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return _SECRETS.sub(r"\1_…", json.dumps(line, ensure_ascii=False, default=str))


def configure_logging(level: str, stream: TextIO | None = None) -> None:
    """Send all logs of the process as JSON lines to `stream`, standard error by default."""
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(JsonFormatter())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    for noisy in ("faster_whisper", "httpx2", "httpcore2", "python_multipart"):
        logging.getLogger(noisy).setLevel(logging.WARNING)


class Metrics:
    """All metrics of one service, in a registry of its own so that tests can build several."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "tingdao_requests", "Requests by route and status.", ["route", "status"], registry=self.registry
        )
        self.refusals = Counter("tingdao_refusals", "Refused requests by error code.", ["code"], registry=self.registry)
        self.key_requests = Counter(
            "tingdao_key_requests", "Requests by the name of their key.", ["key"], registry=self.registry
        )
        self.key_audio_seconds = Counter(
            "tingdao_key_audio_seconds", "Seconds of audio worked on, by key.", ["key"], registry=self.registry
        )
        self.in_flight = Gauge("tingdao_in_flight", "Transcriptions in work or waiting.", registry=self.registry)
        self.audio_seconds = Counter(
            "tingdao_audio_seconds", "Seconds of audio transcribed.", ["model"], registry=self.registry
        )
        self.real_time_factor = Histogram(
            "tingdao_real_time_factor",
            "Seconds of work per second of audio, per request.",
            ["model"],
            buckets=(0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5),
            registry=self.registry,
        )
        self.request_seconds = Histogram(
            "tingdao_request_seconds",
            "Wall clock per request.",
            ["route"],
            buckets=(0.01, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 1800),
            registry=self.registry,
        )

    def render(self) -> bytes:
        """The text format that Prometheus reads."""
        return generate_latest(self.registry)
