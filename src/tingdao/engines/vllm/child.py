"""A vLLM server of this service's own, as a child process.

    starting ─ /health answers ─► one of the fleet ─ it ends, or is silent for long ─► no longer ─ back-off ─► starting

Whatever happens to this process, vLLM and all that it started end with it (`keeper`).
"""

from __future__ import annotations

import asyncio
import logging
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections import deque
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path

from tingdao.engines.vllm.client import Address
from tingdao.engines.vllm.fleet import Fleet
from tingdao.engines.vllm.prompt import TEMPLATE
from tingdao.engines.vllm.wire import UpstreamError, Wire
from tingdao.settings import ENV_PREFIX, VllmSettings

log = logging.getLogger(__name__)

KEEPER = Path(__file__).with_name("keeper.py")
GRACE = 10.0
"""Seconds that vLLM has to end by itself."""
LOOK, LIFE_LIMIT = 0.5, 2.0
"""How often it is asked for a sign of life, and how long it may take over that, in seconds."""
HANGS = 60.0
"""Seconds without a sign of life after which a server that was ready is started anew."""
TOLD = 5.0
"""Seconds between two lines in the log about a start."""
FIRST_PAUSE, LAST_PAUSE = 1.0, 60.0
"""Seconds until it is started again: the first time, doubled each time up to the last."""
STEADY = 60.0
"""Seconds after which a server that has become ready is no longer taken for one that comes and goes."""
LINES, LONGEST = 100, 500
"""Lines that are kept of what it said last, and characters of each."""
PREFIX = re.compile(
    r"^(\([^)]* pid=\d+\) *)?((DEBUG|INFO|WARNING|ERROR|CRITICAL) +[\d-]+ [\d:.,]+ *)?(\[[^\]]*:\d+\] *)?"
)
"""What vLLM writes before what it says: the process, when, and where in its code."""
NOISE = re.compile(r'"(GET|POST) /\S* HTTP/')
CAUSE = re.compile(r"([\w.]*(Error|Exception)|.+: error): *\S")
"""The line of a traceback, or of what is said of wrong arguments, that says why."""


class Child:
    """One server, on one choice of GPUs. device: as CUDA_VISIBLE_DEVICES has it; None leaves it to vLLM."""

    def __init__(self, settings: VllmSettings, device: str | None, wire: Wire, fleet: Fleet) -> None:
        self.name = "vLLM" if device is None else f"vLLM on GPU {device}"
        self._settings, self._device, self._wire, self._fleet = settings, device, wire, fleet
        self._said: deque[str] = deque(maxlen=LINES)
        self._port = self._tries = 0
        self._ready = 0.0
        self._fleet.expect(self.name, "It is about to start", soon=True)

    async def keep(self) -> None:
        """Have it run until this is cancelled; then it is gone."""
        pause = FIRST_PAUSE
        while True:
            self._ready = 0.0
            try:
                reason = await self._run()
            except Exception as error:  # whatever it is, the server is to be looked after
                log.exception("vLLM could not be looked after", extra={"server": self.name})
                reason = f"{type(error).__name__}: {error}"
            if self._ready and time.monotonic() - self._ready > STEADY:
                pause = FIRST_PAUSE
            self._tries += 1
            self._fleet.expect(self.name, f"{reason}. It is tried again after {pause:g} s")
            log.error(
                "vLLM is not there",
                extra={"server": self.name, "reason": reason, "pause_s": pause, "said": list(self._said)},
            )
            await asyncio.sleep(pause)
            pause = min(2 * pause, LAST_PAUSE)

    async def _run(self) -> str:
        """Run it once; why it is no longer there, or never was."""
        self._said.clear()
        program = shutil.which(self._settings.command)
        if program is None:
            return (
                f"vLLM is not installed: there is no program {self._settings.command!r}; pip install vllm, or set "
                "[vllm] command to its path"
            )
        host, wanted = _place(self._settings.arguments)
        # Where it was before, if that is still free, so that it goes on under its old name.
        port = _free(host, wanted or self._port) or (0 if wanted else _free(host, 0))
        if not port:
            return f"It cannot listen: {host}, port {wanted or 'any'}, is taken, or not of this machine"
        self._port = port
        url = f"http://{f'[{host}]' if ':' in host else host}:{port}"
        async with self._running([program, *arguments(self._settings, host, port)]) as process:
            try:
                return await self._watch(process, url)
            finally:
                self._fleet.remove(url)

    async def _watch(self, process: subprocess.Popen[bytes], url: str) -> str:
        """Look after it while it runs; why that ended."""
        began = heard = told = time.monotonic()
        while process.poll() is None:
            if await self._lives(url):
                heard = time.monotonic()
                if not self._ready:
                    self._ready = heard
                    self._fleet.add(url)
                    self._fleet.expect(self.name, None)
                    log.info("vLLM ready", extra={"server": self.name, "url": url, "seconds": round(heard - began, 1)})
            now = time.monotonic()
            if self._ready and now - heard > HANGS:
                return f"It gave no sign of life for {HANGS:g} s"
            if not self._ready:
                if now - began > self._settings.start_timeout_s:
                    return f"It did not start within {self._settings.start_timeout_s:g} s{self._last()}"
                state = f"It is starting, {now - began:.0f} s so far{self._last()}"
                self._fleet.expect(self.name, state, soon=not self._tries)
                if now - told > TOLD:
                    told = now
                    log.info(
                        "vLLM is starting", extra={"server": self.name, "seconds": round(now - began), "said": state}
                    )
            await asyncio.sleep(LOOK)
        await asyncio.sleep(LOOK)  # for its last words
        return f"It ended with code {process.returncode}{self._last(CAUSE)}"

    async def _lives(self, url: str) -> bool:
        with suppress(UpstreamError, TimeoutError):
            async with asyncio.timeout(LIFE_LIMIT):
                await self._wire.lives(Address(url))
                return True
        return False

    @asynccontextmanager
    async def _running(self, command: Sequence[str]) -> AsyncIterator[subprocess.Popen[bytes]]:
        """A command under a keeper, with its output heard; after the block nothing of it is left."""
        log.info("vLLM starts", extra={"server": self.name, "program": command[0], "model": self._settings.serve})
        process = subprocess.Popen(  # noqa: ASYNC220, S603  it takes milliseconds; the operator's own command
            [sys.executable, "-I", KEEPER, str(GRACE), *command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=environment(self._settings, self._device),
            start_new_session=True,
        )
        listening = asyncio.create_task(self._listen(process))
        try:
            yield process
        finally:
            await _end(process)
            listening.cancel()
            await asyncio.wait({listening})

    async def _listen(self, process: subprocess.Popen[bytes]) -> None:
        reader, rest = asyncio.StreamReader(), b""
        output, _ = await asyncio.get_running_loop().connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(reader), process.stdout
        )
        try:
            while chunk := await reader.read(65_536):
                *lines, rest = re.split(rb"[\r\n]", rest + chunk)  # progress bars begin their line again
                for line in lines:
                    self._hear(line.decode(errors="replace"))
                rest = rest[-LONGEST:]
        finally:
            output.close()

    def _hear(self, line: str) -> None:
        said = PREFIX.sub("", line, count=1).strip()[:LONGEST]
        if said and not NOISE.search(said):
            log.debug("vLLM says", extra={"server": self.name, "line": line[:LONGEST]})
            self._said.append(said)

    def _last(self, what: re.Pattern[str] | None = None) -> str:
        """What it said last, or first of a kind, to be put behind a statement."""
        if not self._said:
            return ""
        return f": {next((line for line in self._said if what and what.match(line)), self._said[-1])}"


async def _end(process: subprocess.Popen[bytes]) -> None:
    """End a keeper, and with it all that it keeps."""
    assert process.stdin
    process.stdin.close()
    end = time.monotonic() + GRACE + LOOK
    while process.poll() is None and time.monotonic() < end:  # noqa: ASYNC110  a process has no event
        await asyncio.sleep(LOOK / 10)
    with suppress(ProcessLookupError, PermissionError):  # as it should be: nobody is left of the group
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def arguments(settings: VllmSettings, host: str, port: int) -> list[str]:
    """What follows the name of the program: those of the settings, and what they leave open."""
    given = list(settings.arguments)
    if option(given, "--host") is None:
        given += ["--host", host]
    if option(given, "--port") is None:
        given += ["--port", str(port)]
    if option(given, "--served-model-name") is None:
        given += ["--served-model-name", settings.model or settings.name]
    if option(given, "--chat-template") is None:
        given += ["--chat-template", str(TEMPLATE)]
    return ["serve", settings.serve, *given]


def environment(settings: VllmSettings, device: str | None) -> dict[str, str]:
    """That of this process without what is meant for it alone. vLLM reports its use to nobody unless it is told to."""
    kept = {name: text for name, text in os.environ.items() if not name.startswith((ENV_PREFIX, "VLLM_API_KEY"))}
    kept.setdefault("VLLM_NO_USAGE_STATS", "1")
    if settings.key:
        kept["VLLM_API_KEY"] = settings.key.get_secret_value()
    if device is not None:
        kept["CUDA_VISIBLE_DEVICES"] = device
    return kept


def option(given: Sequence[str], flag: str) -> str | None:
    """The value that a flag has among arguments, in either way to write it; None without one."""
    for place, argument in enumerate(given):
        name, equals, value = argument.partition("=")
        if name.replace("_", "-") == flag:
            return value if equals else next(iter(given[place + 1 :]), "")
    return None


def _place(given: Sequence[str]) -> tuple[str, int]:
    """Where to reach it, by the arguments: host, and port or 0."""
    host, port = option(given, "--host") or "127.0.0.1", option(given, "--port") or "0"
    everywhere = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104  what the operator may choose
    return everywhere.get(host, host), int(port) if port.isdecimal() else 0


def _free(host: str, port: int) -> int:
    """The port when it can be listened on, a free one for 0, and 0 when it is taken."""
    try:
        with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, port))
            return int(probe.getsockname()[1])
    except (OSError, OverflowError):  # the second: no port has such a number
        return 0
