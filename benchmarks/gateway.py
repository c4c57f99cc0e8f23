"""What Tingdao adds in front of vLLM: one server asked directly, through the engine alone, and through the service.

    python benchmarks/gateway.py --seconds 6

The server is the double of the tests, with a fixed latency, in a process of its own, so that what is measured is the
gateway. Direct callers send a ready FLAC in a data URL and read the stream; those of the engine give samples; those of
the service upload a FLAC file. CPU is that of the process that does it (for the service with its children), per clip.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import httpx2
import numpy as np

from tingdao.engines.base import Ask
from tingdao.engines.canary import recording
from tingdao.engines.vllm.engine import VllmEngine
from tingdao.engines.vllm.prompt import Question, flac, wav
from tingdao.settings import VllmSettings
from tingdao.types import Clip

DOUBLE = Path(__file__).parent.parent / "tests" / "upstream.py"
WORDS = "And so my fellow Americans ask not what your country can do for you ask what you can do for your country now"
TICKS = os.sysconf("SC_CLK_TCK")

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("--latency", type=float, default=0.1, help="seconds until the server's first token")
parser.add_argument("--seconds", type=float, default=6.0, help="of each measurement")
parser.add_argument("--clip", type=float, default=10.0, help="seconds of the clip")
parser.add_argument("--concurrency", default="1,8,32,128")
arguments = parser.parse_args()
CLIP = Clip(np.resize(recording().samples, int(arguments.clip * 16_000)))


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
            total += sum(map(int, fields[11:15])) / TICKS  # with those that have ended
        elif int(fields[1]) == pid or int(fields[2]) == pid:
            total += sum(map(int, fields[11:13])) / TICKS
    return total


async def measure(ask: Callable[[], Awaitable[None]], width: int, pid: int) -> tuple[float, float, float, float]:
    """(clips a second, p50 ms, p99 ms, CPU ms a clip) of so many callers at once."""
    await asyncio.gather(*(ask() for _ in range(min(width, 8))))
    took: list[float] = []
    end = time.monotonic() + arguments.seconds

    async def line() -> None:
        while time.monotonic() < end:
            began = time.monotonic()
            await ask()
            took.append(time.monotonic() - began)

    began, cpu = time.monotonic(), cpu_of(pid)
    await asyncio.gather(*(line() for _ in range(width)))
    seconds, cpu = time.monotonic() - began, cpu_of(pid) - cpu
    took.sort()
    p99 = took[int(len(took) * 0.99)]
    return len(took) / seconds, statistics.median(took) * 1000, p99 * 1000, cpu / len(took) * 1000


def where_it_goes() -> None:
    """Print what each step of a clip's way out costs."""
    url = b"data:audio/flac;base64," + base64.b64encode(flac(CLIP))
    steps = {
        "FLAC": lambda: flac(CLIP),
        "WAV": lambda: wav(CLIP),
        "base64": lambda: base64.b64encode(url),
        "whole question, FLAC": lambda: Question.of(CLIP).body("m", "", 50),
        "whole question, WAV": lambda: Question.of(CLIP, encoding="wav").body("m", "", 50),
    }
    print(f"\n| step, clip of {arguments.clip:g} s | ms of CPU |\n|---|---|")
    for name, step in steps.items():
        costs = []
        for _ in range(9):
            began = time.thread_time()
            step()
            costs.append(time.thread_time() - began)
        print(f"| {name} | {statistics.median(costs) * 1000:.2f} |")


async def main(url: str, service: str, pid: int) -> None:
    """Print the table."""
    body = Question.of(CLIP).body("qwen3-asr", "", 300)
    engine = VllmEngine(VllmSettings(upstreams=(url,), width=256))
    await engine.open()
    limits = httpx2.Limits(max_connections=None)
    async with httpx2.AsyncClient(timeout=60, limits=limits, trust_env=False) as client:
        head = {"Content-Type": "application/json"}

        async def direct() -> None:
            answer = await client.post(f"{url}/v1/chat/completions", content=body, headers=head)
            assert answer.text.endswith("[DONE]\n\n"), answer.text

        async def inside() -> None:
            assert (await engine.recognise(CLIP, Ask())).ended == "stop"

        upload = flac(CLIP)

        async def through() -> None:
            answer = await client.post(f"{service}/api/v1/transcribe", files={"file": upload})
            assert answer.status_code == 200, answer.text

        print("| callers | way | clips/s | p50, ms | p99, ms | CPU a clip, ms | clips/s and core |")
        print("|---|---|---|---|---|---|---|")
        for width in map(int, arguments.concurrency.split(",")):
            for name, ask, process in (
                ("direct", direct, os.getpid()),
                ("engine", inside, os.getpid()),
                ("service", through, pid),
            ):
                rate, p50, p99, cpu = await measure(ask, width, process)
                print(
                    f"| {width} | {name} | {rate:.1f} | {p50:.0f} | {p99:.0f} | {cpu:.1f} | {1000 / cpu:.0f} |",
                    flush=True,
                )
    await engine.close()


with tempfile.TemporaryDirectory() as state:
    settings = {"latency": arguments.latency, "said": f"language English<asr_text>{WORDS}."}
    double = subprocess.Popen([sys.executable, "-S", DOUBLE, json.dumps(settings)], stdout=subprocess.PIPE, text=True)
    assert double.stdout
    address = f"http://127.0.0.1:{int(double.stdout.readline())}"
    environment = {
        "TINGDAO_STATE_DIR": state,
        "TINGDAO_VLLM_UPSTREAMS": json.dumps([address]),
        "TINGDAO_VLLM_WIDTH": "256",
        "TINGDAO_SERVER_MAX_IN_FLIGHT": "1000",
    }
    log = Path(state) / "log"
    with log.open("wb") as written:
        served = subprocess.Popen(
            [sys.executable, "-m", "tingdao.cli", "serve", "--port", "0"], env=os.environ | environment, stderr=written
        )
    try:
        while not (lines := [line for line in log.read_text().splitlines() if '"serving"' in line]):
            assert served.poll() is None, log.read_text()
            time.sleep(0.05)
        front = json.loads(lines[0])["url"].rstrip("/")
        while httpx2.get(f"{front}/health").json()["status"] != "ok":
            time.sleep(0.1)
        asyncio.run(main(address, front, served.pid))
        where_it_goes()
    finally:
        for process in (served, double):
            process.terminate()
            process.wait()
