"""What Tingdao adds in front of vLLM: one server asked directly, through the engine alone, and through the service.

    python benchmarks/gateway.py --seconds 6

The server is the double of the tests in a process of its own. It takes so long over an answer that the callers make
`--rate` clips a second of 10 s each, however many they are: what is added is then not the wait for a full machine.
"Bottleneck" is a double that hears one clip after another, at a pace that neither callers nor gateway come near.
Direct callers send a ready FLAC in a data URL and read the stream; those of the engine give samples; those of the
service upload a FLAC file, which is decoded and searched for speech, or passed on as it came. CPU is that of the
process that does it (for the service with its decoders), per clip.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np

from tingdao.audio.decode import Decoder
from tingdao.audio.speech import SpeechDetector, clips
from tingdao.engines.base import Ask
from tingdao.engines.canary import recording
from tingdao.engines.vllm.engine import VllmEngine
from tingdao.engines.vllm.prompt import Question, flac, wav
from tingdao.settings import AudioSettings, VllmSettings
from tingdao.types import Clip

DOUBLE = Path(__file__).parent.parent / "tests" / "upstream.py"
WORDS = "And so my fellow Americans ask not what your country can do for you ask what you can do for your country now"
TICKS = os.sysconf("SC_CLK_TCK")
KEPT = 2.0
"""Seconds that a connection may have been idle."""
BOUNDARY = "gateway-benchmark"

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("--rate", type=float, default=12.0, help="clips a second that the callers make")
parser.add_argument("--seconds", type=float, default=6.0, help="of each measurement, at least")
parser.add_argument("--clip", type=float, default=10.0, help="seconds of the clip")
parser.add_argument("--gap", type=float, default=0.002, help="seconds between two pieces of an answer")
parser.add_argument("--concurrency", default="1,8,32,128")
parser.add_argument("--capacity", type=float, default=12.0, help="clips a second of the double that is the bottleneck")
parser.add_argument("--encoding", default="flac", choices=["flac", "wav"])
arguments = parser.parse_args()
CLIP = Clip(np.resize(recording().samples, int(arguments.clip * 16_000)))

Way = Callable[[], Awaitable[None]]
"""Asks once."""


class Caller:
    """Sends the same request again and again, each caller on a connection of its own, and reads answers to their end.

    It knows no more of HTTP than that takes, so that what it costs is not what is measured.
    """

    def __init__(self, url: str, path: str, kind: str, body: bytes) -> None:
        self._place = urlsplit(url)
        head = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n\r\n"
        self._request = head.encode() + body
        self._idle: list[tuple[float, asyncio.StreamReader, asyncio.StreamWriter]] = []

    async def __call__(self) -> None:
        """Ask once."""
        if self._idle and time.monotonic() - self._idle[-1][0] > KEPT:
            self.close()
        if self._idle:
            _, reader, writer = self._idle.pop()
        else:
            reader, writer = await asyncio.open_connection(self._place.hostname, self._place.port, limit=1 << 22)
        writer.write(self._request)
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        assert " 200 " in head[:15], head
        if length := re.search(r"(?i)content-length: (\d+)", head):
            await reader.readexactly(int(length[1]))
        else:
            await reader.readuntil(b"\r\n0\r\n\r\n")
        self._idle.append((time.monotonic(), reader, writer))

    def close(self) -> None:
        """End all connections."""
        for _, _, writer in self._idle:
            writer.transport.abort()
        self._idle.clear()


@contextmanager
def double(**settings: object) -> Iterator[str]:
    """The URL of a double in a process of its own."""
    settings |= {"said": f"language English<asr_text>{WORDS}."}
    process = subprocess.Popen([sys.executable, "-S", DOUBLE, json.dumps(settings)], stdout=subprocess.PIPE)
    try:
        yield f"http://127.0.0.1:{int(process.stdout.readline())}"
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


@contextmanager
def service(upstream: str, **environment: str) -> Iterator[tuple[str, int]]:
    """(URL, process id) of a service in front of a double."""
    environment = {
        "TINGDAO_VLLM_UPSTREAMS": json.dumps([upstream]),
        "TINGDAO_VLLM_WIDTH": "256",
        "TINGDAO_VLLM_CANARY_TIMEOUT_S": "120",  # doubles of many callers take long
        "TINGDAO_VLLM_ENCODING": arguments.encoding,
        "TINGDAO_SERVER_MAX_IN_FLIGHT": "1000",
    } | environment
    with tempfile.TemporaryDirectory() as state:
        log = Path(state) / "log"
        with log.open("wb") as written:
            process = subprocess.Popen(
                [sys.executable, "-m", "tingdao.cli", "serve", "--port", "0"],
                env=os.environ | environment | {"TINGDAO_STATE_DIR": state},
                stderr=written,
            )
        try:
            while not (lines := [line for line in log.read_text().splitlines() if '"serving"' in line]):
                assert process.poll() is None, log.read_text()
                time.sleep(0.05)
            url = json.loads(lines[0])["url"].rstrip("/")
            while json.load(urllib.request.urlopen(f"{url}/health"))["status"] != "ok":
                time.sleep(0.1)
            yield url, process.pid
        finally:
            process.terminate()
            process.wait()


def cpu_of(pid: int) -> float:
    """CPU seconds of a process and of those that it started."""
    total = 0.0
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            text = status.read_text()
        except OSError:  # it has just ended
            continue
        fields = text.rpartition(")")[2].split()
        if int(text.split()[0]) == pid:
            total += sum(map(int, fields[11:13])) / TICKS
        elif int(fields[1]) == pid:  # the fork server, with the decoders that have ended
            total += sum(map(int, fields[11:15])) / TICKS
    return total


@dataclass
class Measured:
    """rate: clips a second. took: seconds of each, sorted. cpu: ms of a clip."""

    rate: float
    took: list[float]
    cpu: float

    @property
    def p50(self) -> float:
        """Milliseconds."""
        return statistics.median(self.took) * 1000

    @property
    def p99(self) -> float:
        """Milliseconds."""
        return self.took[int(len(self.took) * 0.99)] * 1000


async def measure(ask: Way, width: int, cpu: Callable[[], float], seconds: float, spread: float) -> Measured:
    """So many callers at once, which begin over `spread` seconds; what ends in the `seconds` after that counts."""
    took: list[float] = []
    end = time.monotonic() + spread + seconds

    async def line(number: int) -> None:
        await asyncio.sleep(spread * number / width)
        while (began := time.monotonic()) < end:
            await ask()
            took.append(time.monotonic() - began)

    await ask()
    lines = [asyncio.create_task(line(number)) for number in range(width)]
    await asyncio.sleep(spread)
    took.clear()
    began, before = time.monotonic(), cpu()
    await asyncio.sleep(seconds)
    counted, spent, lasted = sorted(took), cpu() - before, time.monotonic() - began
    await asyncio.gather(*lines)
    return Measured(len(counted) / lasted, counted, spent / len(counted) * 1000)


class Ways:
    """The ways to one double: name -> (how to ask, CPU seconds so far of who does the work)."""

    def __init__(self, upstream: str, *services: tuple[str, int]) -> None:
        self.engine = VllmEngine(
            VllmSettings(upstreams=(upstream,), width=256, encoding=arguments.encoding, canary_timeout_s=120)
        )
        self._direct = Caller(
            upstream,
            "/v1/chat/completions",
            "application/json",
            Question.of(CLIP, encoding=arguments.encoding).chat("qwen3-asr", "", 300).body,
        )
        form = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="file"; filename="clip.flac"\r\n\r\n'.encode()
        form += flac(CLIP) + f"\r\n--{BOUNDARY}--\r\n".encode()
        self._uploads = [
            Caller(url, "/api/v1/transcribe", f"multipart/form-data; boundary={BOUNDARY}", form) for url, _ in services
        ]
        self.all: dict[str, tuple[Way, Callable[[], float]]] = {
            "direct": (self._direct, time.process_time),
            "engine": (self._recognise, time.process_time),
        }
        for name, upload, (_, pid) in zip(("service", "as it came"), self._uploads, services, strict=True):
            self.all[name] = upload, partial(cpu_of, pid)

    async def _recognise(self) -> None:
        assert (await self.engine.recognise(CLIP, Ask())).ended == "stop"

    async def close(self) -> None:
        """End all connections."""
        await self.engine.close()
        for caller in (self._direct, *self._uploads):
            caller.close()

    @classmethod
    @asynccontextmanager
    async def to(cls, **settings: float) -> AsyncIterator[Ways]:
        """All ways to a double with these settings; the last service passes recordings on as they came."""
        passes = {"TINGDAO_VLLM_PASS_THROUGH_S": "15"}
        with double(**settings) as upstream, service(upstream) as plain, service(upstream, **passes) as passing:
            ways = cls(upstream, plain, passing)
            await ways.engine.open()
            try:
                yield ways
            finally:
                await ways.close()


async def added(width: int) -> None:
    """Print what comes to the time of an answer, with so many callers."""
    latency = max(0.05, width / arguments.rate - 28 * arguments.gap)
    async with Ways.to(latency=latency, gap=arguments.gap) as ways:
        direct: Measured | None = None
        for name, (ask, cpu) in ways.all.items():
            found = await measure(ask, width, cpu, max(arguments.seconds, 1.5 * latency), latency)
            direct = direct or found
            print(
                f"| {width} | {name} | {found.rate:.1f} | {found.p50:.0f} | {found.p50 - direct.p50:.0f} "
                f"| {found.p99 - direct.p99:.0f} | {found.cpu:.1f} | {1000 / found.cpu:.0f} |",
                flush=True,
            )


async def bottleneck(width: int = 32) -> None:
    """Print how much of what one server can do comes through."""
    print(
        f"\n| way, {width} callers, {arguments.capacity:g} clips/s at the server | clips/s | of direct |\n|---|---|---|"
    )
    async with Ways.to(speed=arguments.capacity * arguments.clip) as ways:
        rates: dict[str, list[float]] = {name: [] for name in ways.all}
        for _ in range(2):  # in turns
            for name, (ask, cpu) in ways.all.items():
                rates[name].append((await measure(ask, width, cpu, arguments.seconds, 2.0)).rate)
        for name, found in rates.items():
            print(f"| {name} | {sum(found) / 2:.2f} | {sum(found) / sum(rates['direct']):.3f} |", flush=True)


def middle(step: Callable[[], object], clock: Callable[[], float] = time.thread_time) -> float:
    """What a step costs, in ms of CPU."""
    costs = []
    for _ in range(15):
        began = clock()
        step()
        costs.append(clock() - began)
    return statistics.median(costs) * 1000


async def where_it_goes() -> None:
    """Print what each step of a clip's way costs."""
    steps = {
        "FLAC": middle(lambda: flac(CLIP)),
        "WAV": middle(lambda: wav(CLIP)),
        "question with FLAC: FLAC, base64, JSON": middle(lambda: Question.of(CLIP).chat("m", "", 50).body),
        "question with WAV": middle(lambda: Question.of(CLIP, encoding="wav").chat("m", "", 50).body),
    }
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryFile() as upload:
        upload.write(flac(CLIP))
        upload.flush()
        decoder, detector = Decoder(AudioSettings(), Path(folder)), SpeechDetector(AudioSettings())
        decoder.start()

        async def decoded(times: int) -> None:
            for _ in range(times):
                async with decoder.open(upload) as spool:
                    await spool.wait_for(1 << 40)

        await decoded(5)
        both, here = cpu_of(os.getpid()), time.process_time()
        await decoded(50)
        here = time.process_time() - here
        steps["decoding: the decoder's process"] = (cpu_of(os.getpid()) - both - here) / 50 * 1000
        steps["decoding: the service's side"] = here / 50 * 1000
        async with decoder.open(upload) as spool:
            await spool.wait_for(1 << 40)
            costs = []
            for _ in range(15):
                began = time.process_time()
                async for _ in clips(spool, detector, 30.0):
                    pass
                costs.append(time.process_time() - began)
            steps["speech detection"] = statistics.median(costs) * 1000
        await decoder.close()
    print(f"\n| step, clip of {arguments.clip:g} s | ms of CPU |\n|---|---|")
    for name, cost in steps.items():
        print(f"| {name} | {cost:.1f} |")


async def main() -> None:
    """Print the tables."""
    print("| callers | way | clips/s | p50, ms | added at p50 | at p99 | CPU a clip, ms | clips/s and core |")
    print("|---|---|---|---|---|---|---|---|")
    for width in map(int, arguments.concurrency.split(",")):
        await added(width)
    await bottleneck()
    await where_it_goes()


asyncio.run(main())
