"""The decoder's own side: a fork server, and children that can do nothing but decode.

    service ── job ──► fork server ── fork ──► child
    service ◄─── reports: how far it came, how it ended ─── child
    service ── end of the leash ──► fork server ── SIGKILL, wait ──► child

A child is forked from this small process, not from the service: that takes a few milliseconds, and the child shares
no memory with the service, no keys and no sockets. Each recording has a child of its own. The kernel holds it to its
limits: memory, processor time, size of the spool, and no new descriptor at all, so that neither a playlist nor a
bug in a codec can open a file or a connection. A child lives as long as its leash: when the service lets go of it,
on purpose or because it died, the child is killed. Only then is its process id freed, so it never hits another.

This module does not know about requests or asyncio. It imports little, for each child carries it, and all at the
start, for a child cannot import.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import json
import os
import resource
import selectors
import signal
import socket
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

import av
import av.subtitles.codeccontext
import av.subtitles.stream

from tingdao.audio.job import SAMPLE_BYTES, Job, Limits
from tingdao.audio.recording import Source, open_recording
from tingdao.audio.render import Output, render
from tingdao.errors import BrokenAudio, TingdaoError

PR_SET_PDEATHSIG: Final = 1
PR_SET_NO_NEW_PRIVS: Final = 38
"""Of prctl(2), on Linux."""
LIBC: Final = ctypes.CDLL(None) if sys.platform == "linux" else None


def serve(control: socket.socket) -> None:
    """Fork a child for each job until the service closes its end."""
    for number in (signal.SIGINT, signal.SIGTERM):  # meant for the service, which lets go of us when it is done
        signal.signal(number, signal.SIG_IGN)
    start = _renounce()
    gc.freeze()
    children: dict[int, int] = {}  # leash -> process id
    with selectors.DefaultSelector() as events:
        events.register(control, selectors.EVENT_READ)
        while True:
            for key, _ in events.select():
                if key.fd != control.fileno():
                    events.unregister(key.fd)
                    _end(children, key.fd)
                    continue
                job = Job.receive(control)
                if job is None:
                    for leash in list(children):
                        _end(children, leash)
                    return
                try:
                    children[job.leash] = _fork(job, start)
                    events.register(job.leash, selectors.EVENT_READ)
                except OSError:  # no process to be had: the service sees the reports end
                    os.close(job.leash)
                for descriptor in (job.source, job.spool, job.reports):
                    os.close(descriptor)


def _end(children: dict[int, int], leash: int) -> None:
    child = children.pop(leash)
    os.close(leash)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)


def _fork(job: Job, start: int) -> int:
    parent = os.getpid()
    if child := os.fork():
        return child
    code = 1
    try:
        _confine(job.limits, start, (job.source, job.spool, job.reports), parent)
        _decode(job)
        code = 0
    finally:  # whatever happens, nothing of the server's loop may run in the child
        if code:
            sys.excepthook(*sys.exc_info())
        os._exit(code)


def _renounce() -> int:
    """Give up once what no child needs; return the bytes of address space that a child begins with (0: unknown)."""
    _limit(resource.RLIMIT_CORE, 0)
    if LIBC is None:
        return 0
    LIBC.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")  # where memory runs out, decoders go first
    return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()


def _confine(limits: Limits, start: int, keep: Iterable[int], parent: int) -> None:
    """Give up whatever decoding does not need, for good. What a system does not offer is left out."""
    if LIBC is not None:
        LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != parent:
            os._exit(1)
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # a service that has let go wants no more reports
    last = 2
    for descriptor in sorted(keep):
        os.closerange(last + 1, descriptor)
        last = descriptor
    os.closerange(last + 1, resource.getrlimit(resource.RLIMIT_NOFILE)[0])
    if start:
        _limit(resource.RLIMIT_AS, start + limits.memory)
    _limit(resource.RLIMIT_CPU, limits.cpu)
    _limit(resource.RLIMIT_FSIZE, limits.samples * SAMPLE_BYTES)
    _limit(resource.RLIMIT_NPROC, 0)
    _limit(resource.RLIMIT_NOFILE, 0)


def _limit(which: int, value: int) -> None:
    _, hard = resource.getrlimit(which)
    value = value if hard == resource.RLIM_INFINITY else min(value, hard)
    resource.setrlimit(which, (value, value))


def _decode(job: Job) -> None:
    """Decode one recording and report."""

    def report(**facts: Any) -> None:  # noqa: ANN401  whatever JSON takes
        os.write(job.reports, json.dumps(facts).encode() + b"\n")

    report(ready=0)
    try:
        recording = open_recording(Source(job.source))
        render(recording, Output(job.spool, job.limits, lambda ready: report(ready=ready)))
    except TingdaoError as error:
        report(error=type(error).__name__, message=error.message)
    except (MemoryError, av.error.MemoryError):
        message = (
            "This recording needs more memory than a recording should. Convert it to WAV or MP3 and send it again."
        )
        report(error=BrokenAudio.__name__, message=message)
    else:
        report(complete=True)


if __name__ == "__main__":
    with socket.socket(fileno=int(sys.argv[1])) as inherited:
        serve(inherited)
