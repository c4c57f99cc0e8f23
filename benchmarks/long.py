"""A very long recording through a running server: its peak memory, and how right its times are at the end.

    python benchmarks/long.py [--hours 10] [--every 60] [--recording tests/recordings/jfk.flac]

Starts `tingdao serve`, sends one minute and then many hours made of the same recording, which begins anew every so
many seconds (`--every`; 12 with jfk is speech without a rest), and compares when each of its repetitions is heard.
The file is 8 kHz A-law WAV, because it is cheap to make; what is measured does not depend on the format.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import signal
import struct
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import av
import httpx2

RATE = 8_000  # Hz, one byte a sample
QUIET = b"\xd5"  # zero in A-law


@dataclass(frozen=True)
class Outcome:
    """What came of one recording. Times in seconds; memory in MiB, the server's peak."""

    hours: float
    repetitions: int
    heard: int
    first: float
    worst_drift: float
    last: float
    memory: float
    wall: float


def a_law(recording: Path) -> bytes:
    """A recording as 8 kHz A-law samples."""
    resampler = av.AudioResampler(format="s16", layout="mono", rate=RATE)
    encoder = av.CodecContext.create("pcm_alaw", "w")
    encoder.sample_rate, encoder.format, encoder.layout = RATE, "s16", "mono"
    with av.open(str(recording)) as source:
        frames = [part for frame in source.decode(audio=0) for part in resampler.resample(frame)]
    return b"".join(bytes(packet) for frame in [*frames, *resampler.resample(None)] for packet in encoder.encode(frame))


def write(path: Path, speech: bytes, seconds: float, every: float) -> int:
    """Write the WAV; return how often the recording is in it."""
    period = round(every * RATE)
    if period < len(speech):
        raise SystemExit(f"--every must be at least the recording's {len(speech) / RATE:.1f} s")
    times = int(seconds * RATE) // period
    size = times * period
    header = b"WAVEfmt " + struct.pack("<IHHIIHH", 16, 6, 1, RATE, RATE, 1, 8) + b"data" + struct.pack("<I", size)
    piece = speech + QUIET * (period - len(speech))
    with path.open("wb") as file:
        file.write(b"RIFF" + struct.pack("<I", 4 + len(header) + size) + header)
        for _ in range(times):
            file.write(piece)
    return times


def measure(url: str, pid: int, speech: bytes, hours: float, every: float, landmark: str, folder: Path) -> Outcome:
    """Send a recording of so many hours; find `landmark`, a word said once in each repetition, in the segments.

    The drift is how far a repetition's segment begins from where the first one's does, beyond whole periods.
    """
    path = folder / "long.wav"
    times = write(path, speech, hours * 3600, every)
    began = time.monotonic()
    with path.open("rb") as file:
        answer = httpx2.post(f"{url}/api/v1/transcribe", files={"file": file}, data={"segments": "true"}, timeout=None)
    answer.raise_for_status()
    path.unlink()
    starts = [part["start"] for part in answer.json()["data"]["segments"] if re.search(landmark, part["text"])]
    drifts = [abs((start - starts[0] + every / 2) % every - every / 2) for start in starts]
    memory = int(re.search(r"VmHWM:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())[1]) / 1024
    return Outcome(hours, times, len(starts), starts[0], max(drifts), starts[-1], memory, time.monotonic() - began)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--hours", type=float, default=10.0)
    parser.add_argument("--every", type=float, default=60.0)
    parser.add_argument("--recording", type=Path, default=Path(__file__).parent.parent / "tests/recordings/jfk.flac")
    parser.add_argument("--landmark", default="fellow America")
    wanted = parser.parse_args()
    speech = a_law(wanted.recording)
    with tempfile.TemporaryDirectory() as folder:
        state = Path(folder) / "state"
        log = (Path(folder) / "log").open("w+b")
        server = subprocess.Popen(
            [sys.executable, "-m", "tingdao.cli", "serve", "--port", "0"],
            env={**os.environ, "TINGDAO_STATE_DIR": str(state)},
            stderr=log,
        )
        try:
            url = None
            while url is None:
                time.sleep(0.2)
                lines = (Path(folder) / "log").read_text().rpartition("\n")[0].splitlines()
                url = next((line["url"].rstrip("/") for line in map(json.loads, lines) if "url" in line), None)
            print(f"{'hours':>6} {'said':>5} {'heard':>5} {'last at':>10} {'drift s':>8} {'peak MiB':>9} {'wall s':>7}")
            for hours in (1 / 60, wanted.hours):
                every = min(wanted.every, hours * 3600)
                print(f"working on {hours:.2f} hours …", file=sys.stderr)
                got = measure(url, server.pid, speech, hours, every, wanted.landmark, Path(folder))
                print(
                    f"{got.hours:6.2f} {got.repetitions:5} {got.heard:5} {got.last:10.2f} {got.worst_drift:8.3f} "
                    f"{got.memory:9.0f} {got.wall:7.0f}"
                )
        finally:
            server.send_signal(signal.SIGTERM)
            server.wait(40)
            log.close()


if __name__ == "__main__":
    main()
