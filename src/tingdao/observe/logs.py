"""JSON logs: one object a line, with the id of the request.

They carry facts about requests (sizes, seconds, status), never keys, and no transcript unless the operator asks for it.
"""

from __future__ import annotations

import json
import logging
import re
import sys
import time
from logging.handlers import RotatingFileHandler
from pathlib import Path
from typing import Any

from tingdao.errors import SetupError
from tingdao.observe.request import figures, request_id
from tingdao.settings import MIB, LogSettings

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
            if span := figures.get().span:
                line["trace_id"] = span.trace_id
        line |= {key: value for key, value in vars(record).items() if key not in _FIELDS}
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return blanked(json.dumps(line, ensure_ascii=False, default=str))


def blanked(text: str) -> str:
    """A text without what looks like a key or a ticket."""
    return _SECRETS.sub(r"\1_…", text)


def configure_logging(settings: LogSettings) -> None:
    """Send all logs of the process as JSON lines to standard error, or to a file. Raises SetupError."""
    handler = _file(settings.file, settings) if settings.file else logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter())
    logging.basicConfig(level=settings.level.upper(), handlers=[handler], force=True)
    for noisy in ("faster_whisper", "httpx2", "httpcore2", "opentelemetry", "python_multipart", "urllib3"):
        logging.getLogger(noisy).setLevel(logging.WARNING)


def _file(path: Path, settings: LogSettings) -> logging.Handler:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return RotatingFileHandler(path, maxBytes=settings.max_mib * MIB, backupCount=settings.keep, encoding="utf-8")
    except OSError as error:
        raise SetupError(
            f"The log cannot be written to {path} ({error.strerror}). Set log.file (TINGDAO_LOG_FILE) to a file that "
            "can, or leave it out: logs then go to standard error."
        ) from None
