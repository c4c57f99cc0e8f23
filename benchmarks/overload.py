"""What is left of the service when ten times as much is asked of it as it can do.

    python benchmarks/overload.py [--seconds 60] [--times 10] [--embedded] [--json]

Against `timed_server.py`, in a process of its own: an engine whose speed is known, so that what is measured is the
service and not the model. With --embedded, against the service as it is installed, whose model wants the same cores as
the refusals; what else this machine does then changes the result. First clients that wait for their answers saturate
it: that is its capacity. Then requests come at ten times that rate, whether or not they are answered, each on a
connection of its own. Counted are the answers per second, and how fast those who found no room were told so.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from dataclasses import asdict, dataclass
from pathlib import Path

HERE = Path(__file__).parent
RECORDING = HERE.parent / "tests" / "recordings" / "cards_001.flac"
PATH = "/api/v1/transcribe"
SATURATED = 10.0
"""Seconds for which the capacity is measured."""
RAMP = 2.0
"""Seconds of the overload before answers are counted."""


@dataclass(frozen=True, slots=True)
class Result:
    """Rates are per second, times milliseconds."""

    capacity: float
    goodput: float
    share: float
    sent: int
    admitted: int
    admitted_failed: int
    refused: int
    refused_p50_ms: float
    refused_p99_ms: float
    broken: int
    server_cpu: float


class Target:
    """A server that is asked, over bare sockets: the client must cost less than what it measures."""

    def __init__(self, host: str, port: int) -> None:
        self.host, self.port = host, port
        audio = RECORDING.read_bytes()
        head = b'--b\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n'
        body = head + audio + b"\r\n--b--\r\n"
        self._request = (
            f"POST {PATH} HTTP/1.1\r\nHost: {host}:{port}\r\nContent-Type: multipart/form-data; boundary=b\r\n"
            f"Content-Length: {len(body)}\r\n\r\n"
        ).encode() + body

    async def ask(self) -> tuple[int, float]:
        """One request on a new connection: its status (0 when the connection broke), and the seconds it took."""
        began = time.perf_counter()
        writer = None
        try:
            reader, writer = await asyncio.open_connection(self.host, self.port)
            writer.write(self._request)
            head = await reader.readuntil(b"\r\n\r\n")
            fields = dict(line.lower().split(b": ", 1) for line in head.split(b"\r\n")[1:] if line)
            await reader.readexactly(int(fields[b"content-length"]))
            return int(head.split(b" ", 2)[1]), time.perf_counter() - began
        except (OSError, asyncio.IncompleteReadError):
            return 0, time.perf_counter() - began
        finally:
            if writer is not None:
                writer.close()


async def saturate(target: Target, clients: int, seconds: float) -> float:
    """Answers per second when so many clients ask one after another."""
    answered = 0
    began = time.perf_counter()

    async def client() -> None:
        nonlocal answered
        while time.perf_counter() < began + RAMP + seconds:
            status, _ = await target.ask()
            assert status == 200, status
            if began + RAMP <= time.perf_counter() < began + RAMP + seconds:
                answered += 1

    await asyncio.gather(*(client() for _ in range(clients)))
    return answered / seconds


async def overload(target: Target, rate: float, seconds: float) -> tuple[list[tuple[int, float, float]], float]:
    """Ask at a rate whatever the answers: status, seconds and when it ended, of each; and when it began."""
    began = time.perf_counter()
    done: list[tuple[int, float, float]] = []

    async def one() -> None:
        status, took = await target.ask()
        done.append((status, took, time.perf_counter()))

    tasks = []
    for number in range(round(rate * seconds)):
        await asyncio.sleep(max(0.0, began + number / rate - time.perf_counter()))
        tasks.append(asyncio.create_task(one()))
    await asyncio.gather(*tasks)
    return done, began


async def measure(target: Target, pid: int, width: int, times: float, seconds: float) -> Result:
    """Capacity, then the overload."""
    capacity = await saturate(target, 3 * width, SATURATED)
    cpu = _cpu(pid)
    done, began = await overload(target, times * capacity, seconds)
    cpu = _cpu(pid) - cpu
    good = [ended for status, _, ended in done if status == 200]
    refused = sorted(took * 1000 for status, took, _ in done if status == 503)
    goodput = sum(began + RAMP <= ended < began + seconds for ended in good) / (seconds - RAMP)
    failed = sum(status not in (0, 200, 503) for status, _, _ in done)
    return Result(
        capacity=round(capacity, 2),
        goodput=round(goodput, 2),
        share=round(goodput / capacity, 3),
        sent=len(done),
        admitted=len(good) + failed,
        admitted_failed=failed,
        refused=len(refused),
        refused_p50_ms=round(statistics.median(refused), 1) if refused else 0.0,
        refused_p99_ms=round(refused[int(len(refused) * 0.99)], 1) if refused else 0.0,
        broken=sum(status == 0 for status, _, _ in done),
        server_cpu=round(cpu / seconds, 2),
    )


def _cpu(pid: int) -> float:
    """Seconds of processor time of a process so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _serving(log: Path) -> tuple[str, int]:
    """Where the server listens, once its model is there."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        time.sleep(0.05)
        lines = [line for line in log.read_text().splitlines() if '"serving"' in line and line.endswith("}")]
        if lines:
            url = json.loads(lines[0])["url"]
            with contextlib.suppress(urllib.error.HTTPError), urllib.request.urlopen(f"{url}ready"):
                host, port = url.split("/")[2].rsplit(":", 1)
                return host, int(port)
    raise SystemExit(f"The server does not start:\n{log.read_text()}")


def main() -> None:
    """Print one table, or one object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60.0, help="of overload")
    parser.add_argument("--times", type=float, default=10.0, help="the capacity")
    parser.add_argument("--clip", type=float, default=0.5, help="seconds that the engine takes for a clip")
    parser.add_argument("--width", type=int, default=4, help="clips that the engine takes at once")
    parser.add_argument("--embedded", action="store_true", help="measure with the real embedded model")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "server.log"
        command = [sys.executable, str(HERE / "timed_server.py")]
        command += ["--seconds", str(given.clip), "--width", str(given.width)]
        if given.embedded:
            command = [sys.executable, "-m", "tingdao.cli", "serve", "--model", "whisper-base", "--port", "0"]
        with log.open("wb") as file:
            environment = {**os.environ, "TINGDAO_STATE_DIR": folder}
            process = subprocess.Popen(command, stdout=file, stderr=file, env=environment)
        try:
            target = Target(*_serving(log))
            result = asyncio.run(measure(target, process.pid, given.width, given.times, given.seconds))
        finally:
            process.terminate()
            process.wait(40)
    if given.json:
        print(json.dumps(asdict(result)))
        return
    for name, value in asdict(result).items():
        print(f"{name:18} {value}")


if __name__ == "__main__":
    main()
