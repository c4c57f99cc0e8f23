"""Decoding, from the service's side: any recording in, a spool that grows out.

    open(source) ─► fork server ─► child: libav ─► spool
                 ◄── reports: samples so far, the end, or what is wrong with the recording

The child (`audio.confined`) does the work and can be killed at any moment; its death is an error of that recording
alone. Everything here happens in the event loop: the reports are watched, nothing is polled, no thread runs.
"""

from __future__ import annotations

import asyncio
import json
import logging
import math
import os
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, BinaryIO, Final

from tingdao.audio.job import Job, Limits
from tingdao.audio.spool import Spool
from tingdao.caller import caller
from tingdao.errors import BrokenAudio, EmptyAudio, NotAudio, StorageFull, TingdaoError, TooLong, Unavailable
from tingdao.observe import during
from tingdao.settings import MIB, AudioSettings
from tingdao.turns import Lane, Turns
from tingdao.types import SAMPLE_RATE

log = logging.getLogger(__name__)

ENVIRONMENT: Final = ("PATH", "LANG", "LC_ALL", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "PYTHONPATH", "PYTHONHOME")
"""What the fork server inherits; keys and passwords are in other variables."""
ERRORS: Final = {error.__name__: error for error in (NotAudio, EmptyAudio, BrokenAudio, TooLong, StorageFull)}
"""What a child may report."""
CLOSING: Final = 5.0
"""Seconds that the fork server has to end."""
STARTING: Final = 30.0
"""Seconds that a child has to come to life; on a busy machine the fork server may just be starting."""
LONG: Final = 3.0
"""Seconds after which a decoder leaves its place to others, where it can, and works on beside them."""
LINE: Final = 65_536
"""Bytes that no report has."""


class Decoder:
    """Decodes recordings, some at once, each in a process of its own; one per service.

    spool_dir: folder for the decoded audio, which has no names there. It must exist.
    """

    def __init__(self, settings: AudioSettings, spool_dir: Path) -> None:
        self._settings = settings
        self._spool_dir = spool_dir
        self._limits = Limits(
            samples=math.ceil(settings.max_duration_s * SAMPLE_RATE),
            memory=settings.decode_memory_mib * MIB,
            cpu=math.ceil(settings.decode_timeout_s) + 1,
            reserve=settings.reserve_mib * MIB,
        )
        self._places = _Places(settings.decoders)
        self._server: _ForkServer | None = None

    def start(self) -> None:
        """Start the fork server, so that the first recording does not wait for it; returns at once."""
        self._places = _Places(self._settings.decoders)
        self._server = _ForkServer()

    async def close(self) -> None:
        """End the fork server, and with it every child."""
        server, self._server = self._server, None
        if server is not None:
            await server.close()

    @asynccontextmanager
    async def open(self, source: BinaryIO) -> AsyncIterator[Spool]:
        """Decode a regular file; within the block its samples can be read while they come.

        Others wait here for their turn while `settings.decoders` recordings are being decoded. It is fair between
        callers, and long recordings do not keep out short ones; see `_Places`.
        Raises StorageFull, Unavailable. What is wrong with the recording comes out of `Spool.wait_for`.
        """
        place = await self._places.take(os.fstat(source.fileno()).st_size)
        try:
            work = await self._begin(source, place.leave)
        except BaseException:
            place.leave()
            raise
        try:
            yield work.spool
        finally:
            work.end()
            work.spool.close()

    async def _begin(self, source: BinaryIO, ended: Callable[[], None]) -> _Work:
        try:
            if self._server is not None and not self._server.alive():
                log.error("The decoder's fork server has died; a new one is started.")
                await self.close()
            if self._server is None:
                self._server = _ForkServer()
            with ExitStack() as undo:
                spool = Spool(self._spool_dir)
                undo.callback(spool.close)
                reports, childs_reports = socket.socketpair()
                undo.enter_context(reports)
                with childs_reports:
                    leash, servers_leash = socket.socketpair()
                    undo.enter_context(leash)
                    with servers_leash:
                        descriptors = (each.fileno() for each in (source, spool, childs_reports, servers_leash))
                        self._server.send(Job(self._limits, *descriptors))
                undo.pop_all()
        except OSError as error:  # no descriptor, no process
            log.error("A decoder cannot be started: %s", error)
            raise Unavailable("No decoder can be started right now. Try again.", retry_after=1) from None
        return _Work(spool, reports, leash, self._server, self._settings, ended)


class _Places:
    """How many decoders run at once, and who is next.

    A long recording takes minutes. So after a few seconds its decoder leaves its place to the next one and works on
    beside them, where fewer than `count` do so already: there are 2 `count` decoders at most.
    """

    def __init__(self, count: int) -> None:
        self._turns = Turns(count)
        self._beside = asyncio.Semaphore(count)

    async def take(self, size: int) -> _Place:
        """Wait for a place. size: of the recording, in bytes."""
        lane = self._turns.lane(caller.get().party)
        await lane.take(1 + size / MIB)
        return _Place(lane, self._beside)


class _Place:
    """One decoder's place, until it ends."""

    def __init__(self, lane: Lane, beside: asyncio.Semaphore) -> None:
        self._leave = lane.give_back
        self._beside = beside
        self._moving = asyncio.create_task(self._move())

    def leave(self) -> None:
        """Give it to the next."""
        self._moving.cancel()
        self._leave()

    async def _move(self) -> None:
        await asyncio.sleep(LONG)
        await self._beside.acquire()
        self._leave()
        self._leave = self._beside.release


class _ForkServer:
    """The process that children are forked from."""

    def __init__(self) -> None:
        self._control, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(  # noqa: S603  our own program
                [sys.executable, "-P", "-m", "tingdao.audio.confined", str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                env={name: os.environ[name] for name in ENVIRONMENT if name in os.environ},
                start_new_session=True,  # the terminal's Ctrl-C is for the service
            )

    def alive(self) -> bool:
        """Whether it runs."""
        return self._process.poll() is None

    def send(self, job: Job) -> None:
        """Have a child decode. Raises OSError."""
        job.send(self._control)

    async def close(self) -> None:
        """End it; it ends its children first."""
        self._control.close()
        try:
            await asyncio.to_thread(self._process.wait, CLOSING)
        except subprocess.TimeoutExpired:
            log.error("The decoder's fork server does not end; it is killed.")
            self._process.kill()
            self._process.wait()


class _Work:
    """One recording in work, until its child has ended.

    ended: is called once, then.
    """

    def __init__(
        self,
        spool: Spool,
        reports: socket.socket,
        leash: socket.socket,
        server: _ForkServer,
        settings: AudioSettings,
        ended: Callable[[], None],
    ) -> None:
        self.spool = spool
        self._reports = reports
        self._leash = leash
        self._server = server
        self._settings = settings
        self._ended = ended
        self._heard = b""
        self._started = False
        self._decided = False
        self._over = False
        self._decoding = during("decode")
        self._loop = asyncio.get_running_loop()
        self._progress = self._loop.time()
        self._deadline = math.inf
        reports.setblocking(False)  # noqa: FBT003  the socket's own signature
        self._loop.add_reader(reports, self._listen)
        self._timer = self._loop.call_at(self._next_look(), self._look)

    def end(self) -> None:
        """Kill the child if it still runs."""
        if self._over:
            return
        self._over = True
        self._decoding.end()
        self._timer.cancel()
        self._loop.remove_reader(self._reports)
        self._reports.close()
        self._leash.close()
        self._ended()

    def _listen(self) -> None:
        """Read reports; their end is the child's end."""
        received = self._reports.recv(LINE)
        *lines, self._heard = (self._heard + received).split(b"\n")
        for line in lines:
            self._hear(line)
        if not received or len(self._heard) > LINE:
            if not self._decided:
                self._fail(self._cause_of_death())
            self.end()

    def _hear(self, line: bytes) -> None:
        try:
            report: dict[str, Any] = json.loads(line)
        except ValueError:
            report = {}
        self._progress = self._loop.time()
        if not self._started:
            self._started = True
            self._deadline = self._progress + self._settings.decode_timeout_s
            self._timer.cancel()
            self._timer = self._loop.call_at(self._next_look(), self._look)
        match report:
            case {"ready": int(ready)}:
                self.spool.advance(ready)
            case {"complete": True}:
                self._decided = True
                self.spool.finish()
            case {"error": str(name), "message": str(message)}:
                self._fail(ERRORS.get(name, BrokenAudio)(message))
            case _:
                self._fail(BrokenAudio("The decoder gives no sense for this recording. Convert it to WAV or MP3."))

    def _cause_of_death(self) -> TingdaoError:
        if not self._started or not self._server.alive():
            return Unavailable("The decoder could not start on this recording. Try again.", retry_after=1)
        return BrokenAudio(
            "This recording makes the decoder fail: it is damaged, or far too complex. Convert it to WAV or MP3, "
            "and send it again."
        )

    def _look(self) -> None:
        """Whether the child is still getting on, in the time it has."""
        now = self._loop.time()
        if now < self._next_look():
            self._timer = self._loop.call_at(self._next_look(), self._look)
            return
        if not self._started:
            self._fail(self._cause_of_death())
        elif now >= self._deadline:
            self._fail(
                BrokenAudio(
                    f"Decoding this recording takes more than {self._settings.decode_timeout_s:g} s. Send it in parts."
                )
            )
        else:
            self._fail(
                BrokenAudio(
                    f"The decoder has found no more sound in this recording for {self._settings.decode_stall_s:g} s. "
                    "It is damaged: convert it to WAV or MP3, and send it again."
                )
            )
        self.end()

    def _next_look(self) -> float:
        if not self._started:
            return self._progress + STARTING
        return min(self._deadline, self._progress + self._settings.decode_stall_s)

    def _fail(self, failure: TingdaoError) -> None:
        self._decided = True
        self.spool.fail(failure)
