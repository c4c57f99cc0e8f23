"""What the service and its decoder must agree on: how a recording is handed over, and what samples look like."""

from __future__ import annotations

import errno
import json
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Final

from tingdao.errors import StorageFull

SAMPLE_BYTES: Final = 2
"""Samples in the spool are 16-bit integers, in the machine's own byte order."""
NO_ROOM: Final = "The service has no disk space left for this recording. Try again later, or send a shorter one."
MESSAGE: Final = 4096
"""Bytes that no job exceeds."""


@contextmanager
def full_disk_refused() -> Iterator[None]:
    """Let a disk without room for what is written in the block be the caller's answer. Raises StorageFull."""
    try:
        yield
    except OSError as error:
        if error.errno in {errno.ENOSPC, errno.EDQUOT}:
            raise StorageFull(NO_ROOM) from None
        raise


@dataclass(frozen=True, slots=True)
class Limits:
    """What the decoder of one recording may use.

    samples: that it may write. memory: bytes beyond its start. cpu: seconds. reserve: bytes of disk left to others.
    """

    samples: int
    memory: int
    cpu: int
    reserve: int


@dataclass(frozen=True, slots=True)
class Job:
    """One recording to decode.

    source: descriptor of the file. spool: of the file for the samples. reports: of a socket, where the child reports,
    one JSON object a line. leash: of a socket; the child is killed when its other end is closed.
    """

    limits: Limits
    source: int
    spool: int
    reports: int
    leash: int

    def send(self, control: socket.socket) -> None:
        """Hand the job over; the descriptors are duplicated. Raises OSError when nobody is there."""
        descriptors = [self.source, self.spool, self.reports, self.leash]
        socket.send_fds(control, [json.dumps(asdict(self.limits)).encode()], descriptors)

    @classmethod
    def receive(cls, control: socket.socket) -> Job | None:
        """The next job, or None when there will be none."""
        message, descriptors, _, _ = socket.recv_fds(control, MESSAGE, 4)
        return cls(Limits(**json.loads(message)), *descriptors) if message else None
