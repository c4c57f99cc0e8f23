"""Runs the application under uvicorn: address, greeting, graceful stop."""

from __future__ import annotations

import logging
import signal
import socket

import uvicorn

from tingdao import app, observe
from tingdao.api.native import STAND_IN_NOTICE
from tingdao.engines.weights import WHISPER_BASE
from tingdao.errors import SetupError
from tingdao.observe import traces
from tingdao.settings import Settings

BACKLOG = 2048
"""Connections that may wait to be accepted."""

log = logging.getLogger(__name__)


def serve(settings: Settings) -> None:
    """Serve until SIGTERM or SIGINT; running requests may finish within `drain_timeout_s`. Raises SetupError."""
    observe.configure_logging(settings.log)
    service = app.build(settings)
    server = uvicorn.Server(
        uvicorn.Config(
            app.create_app(settings, service, traces.from_environment()),
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,  # server.trusted_proxies decides whose are believed
            timeout_graceful_shutdown=round(settings.server.drain_timeout_s),
            lifespan="on",
            backlog=BACKLOG,
        )
    )
    listener = _listen(settings.server.host, settings.server.port)
    host, port = listener.getsockname()[:2]
    log.info(
        "serving",
        extra={
            "url": f"http://{f'[{host}]' if ':' in host else host}:{port}/",
            "model": service.registry.default,
        },
    )
    if service.registry.default == WHISPER_BASE.name:
        log.warning(STAND_IN_NOTICE)
    for number in (signal.SIGTERM, signal.SIGINT):
        # uvicorn stops cleanly and then raises the signal again; a clean stop is to end with exit code 0.
        signal.signal(number, lambda *_: None)
    server.run(sockets=[listener])


def _listen(host: str, port: int) -> socket.socket:
    """A listening socket; with port 0 on a free one. Raises SetupError when the address is taken or not ours."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        listener.listen(BACKLOG)  # from here on clients wait for the application instead of being refused
    except OSError as error:
        listener.close()
        raise SetupError(
            f"Cannot listen on {host}:{port} ({error.strerror}). Choose another with --host and --port."
        ) from None
    return listener
