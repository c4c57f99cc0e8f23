"""Runs the application under uvicorn: address, greeting, signals.

    SIGTERM, SIGINT ─► nobody is let in, /ready says so ─► what is in work ends ─► the socket is closed ─► exit 0
    SIGHUP ─► the settings are read again

While the last requests are finished the service goes on listening, so that newcomers and load balancers are told,
instead of seeing connections break. A second signal ends it at once.
"""

from __future__ import annotations

import asyncio
import logging
import resource
import signal
import socket
import time
from collections.abc import Callable
from types import FrameType

import uvicorn

from tingdao import app, observe
from tingdao.api.native import STAND_IN_NOTICE
from tingdao.connections import Connection, sweep
from tingdao.engines.weights import WHISPER_BASE
from tingdao.errors import Conflict, SetupError
from tingdao.observe import traces
from tingdao.pipeline.service import Service
from tingdao.settings import Settings

BACKLOG = 2048
"""Connections that may wait to be accepted."""
FILES = 65_536
"""Files and connections that are enough for anybody."""
PARTING = 3
"""Seconds that connections may take to be closed after the last request."""
BUSY = 5.0
"""Seconds until settings are applied that came while the models were being changed."""

log = logging.getLogger(__name__)


def serve(settings: Settings, read: Callable[[], Settings]) -> None:
    """Serve until SIGTERM or SIGINT; running requests may finish within `drain_timeout_s`. Raises SetupError.

    read: reads the settings again, for SIGHUP.
    """
    observe.configure_logging(settings.log)
    _allow_files()
    service = app.build(settings)
    door = app.door(settings, service)
    server = _Server(
        uvicorn.Config(
            app.create_app(settings, service, traces.from_environment(), door),
            http=Connection,
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,  # server.trusted_proxies decides whose are believed
            timeout_graceful_shutdown=PARTING,
            lifespan="on",
            backlog=BACKLOG,
        ),
        door,
        _Rereading(settings, read, service, door),
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
    signal.signal(signal.SIGHUP, server.handle_hangup)
    server.run(sockets=[listener])


class _Server(uvicorn.Server):
    """uvicorn, with an end that clients can see coming, and an eye on idle connections.

    Signals only set flags here; `on_tick`, ten times a second in the event loop, acts on them.
    """

    def __init__(self, config: uvicorn.Config, door: app.Door, rereading: _Rereading) -> None:
        super().__init__(config)
        self._admission = door.admission
        self._rereading = rereading
        self._until: float | None = None

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """SIGTERM or SIGINT; the second one is uvicorn's."""
        if self._admission.stopping:
            super().handle_exit(sig, frame)
        else:
            self._admission.stop()

    def handle_hangup(self, _sig: int, _frame: FrameType | None) -> None:
        """SIGHUP."""
        self._rereading.wanted = True

    async def on_tick(self, counter: int) -> bool:
        """Ten times a second: whether to stop listening now."""
        settings = self._admission.settings
        if self._admission.stopping:
            self._drain(settings.drain_timeout_s)
        else:
            self._rereading.look()
        dropped = sweep(self.server_state.connections, settings.header_timeout_s, settings.max_connections)
        if dropped:
            log.debug("idle connections closed", extra={"count": dropped})
        return await super().on_tick(counter)

    def _drain(self, seconds: float) -> None:
        """Stop when nothing is in work any more, or it has had its time."""
        now = time.monotonic()
        if self._until is None:
            self._until = now + seconds
            log.info("stopping", extra={"in_flight": self._admission.in_flight, "drain_s": seconds})
        if self._admission.in_flight and now >= self._until:
            log.warning("requests are ended unfinished", extra={"in_flight": self._admission.in_flight})
            self._admission.end_all()
            self.should_exit = True
        if not self._admission.in_flight:
            self.should_exit = True


class _Rereading:
    """Settings that are read again while the service runs. wanted: whether they are to be."""

    def __init__(self, started: Settings, read: Callable[[], Settings], service: Service, door: app.Door) -> None:
        self.wanted = False
        self._started = started
        self._read, self._service, self._door = read, service, door
        self._task: asyncio.Task[None] | None = None

    def look(self) -> None:
        """Begin when it is wanted and not under way."""
        if self.wanted and (self._task is None or self._task.done()):
            self.wanted = False
            self._task = asyncio.create_task(self._reread())

    async def _reread(self) -> None:
        try:
            settings = await asyncio.to_thread(self._read)
            for problem in await self._applied(settings):
                log.error("not applied", extra={"reason": problem})
            observe.configure_logging(settings.log)
        except SetupError as error:
            log.error("the settings stay as they are", extra={"reason": str(error)})
            return
        except Exception:
            log.exception("the settings stay as they are")
            return
        log.info("settings applied", extra={"needs_restart": app.needs_restart(self._started, settings)})

    async def _applied(self, settings: Settings) -> list[str]:
        while True:
            try:
                return await app.apply(settings, self._service, self._door)
            except Conflict:  # somebody changes the models just now
                await asyncio.sleep(BUSY)


def _allow_files() -> None:
    """Let this process have more files and connections open than the usual 1024: a request needs about six."""
    least, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    enough = FILES if most == resource.RLIM_INFINITY else min(FILES, most)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(least, enough), most))


def _listen(host: str, port: int) -> socket.socket:
    """A listening socket; with port 0 on a free one. Raises SetupError when the address is taken or not ours."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # The protocol by name: only then does asyncio switch off Nagle's algorithm, which holds an answer's second packet
    # back for 40 ms.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
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
