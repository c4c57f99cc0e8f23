"""Decoded audio, growing on disk.

The decoder appends 16-bit samples to a file without a name; the pipeline reads ranges of it while it grows. Reading
copies (`pread`) instead of mapping, because mapped pages that were touched count as memory of the process: a
ten-hour recording costs as little as a short one. Without a name there is nothing to clean up: the kernel frees the
space when the last descriptor is closed, even after `kill -9`.

This module does not know who writes, or how.
"""

from __future__ import annotations

import asyncio
import os
import tempfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tingdao.audio.job import SAMPLE_BYTES, full_disk_refused
from tingdao.errors import TingdaoError
from tingdao.types import SAMPLE_RATE

FULL_SCALE = 32_768


class Spool:
    """One recording: mono at `SAMPLE_RATE`, 16-bit, native byte order.

    ready: samples that can be read.
    complete: whether the whole recording is there; `ready` then no longer grows.
    """

    def __init__(self, folder: Path) -> None:
        """Create an empty spool in a folder that exists. Raises StorageFull."""
        with full_disk_refused():
            self._file = tempfile.TemporaryFile(dir=folder, buffering=0)  # noqa: SIM115  closed by `close`
        self.ready = 0
        self.complete = False
        self._failure: Exception | None = None
        self._news = asyncio.Event()

    @property
    def duration(self) -> float:
        """Seconds that can be read."""
        return self.ready / SAMPLE_RATE

    async def wait_for(self, samples: int) -> int:
        """Wait until that many samples are ready, or the recording is complete; return `ready`.

        Raises the TingdaoError that ended the decoding, as soon as it is known.
        """
        while self._failure is None and not self.complete and self.ready < samples:
            await self._news.wait()
        if self._failure is not None:
            raise self._failure
        return self.ready

    def read(self, start: int, end: int) -> NDArray[np.float32]:
        """Samples from start to end in [-1, 1), float32, shape (n,); what is not ready is left out."""
        start, end = (min(max(position, 0), self.ready) for position in (start, end))
        stored = os.pread(self._file.fileno(), max(end - start, 0) * SAMPLE_BYTES, start * SAMPLE_BYTES)
        samples = np.frombuffer(stored, np.int16).astype(np.float32)
        samples *= np.float32(1 / FULL_SCALE)
        return samples

    def close(self) -> None:
        """Free the space. Whoever still waits gets a ValueError, as does who reads."""
        self._file.close()
        if self._failure is None and not self.complete:
            self._failure = ValueError("The spool is closed.")
        self._tell()

    # For the writer.

    def fileno(self) -> int:
        """The descriptor to write samples to."""
        return self._file.fileno()

    def advance(self, ready: int) -> None:
        """So many samples are written by now."""
        self.ready = ready
        self._tell()

    def finish(self) -> None:
        """All samples are written."""
        self.complete = True
        self._tell()

    def fail(self, failure: TingdaoError) -> None:
        """There will be no whole recording."""
        self._failure = failure
        self._tell()

    def _tell(self) -> None:
        """Wake everyone who waits; who comes later waits for later news."""
        self._news.set()
        self._news = asyncio.Event()
