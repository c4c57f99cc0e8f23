"""`tingdao bench`: how a running service does under growing load, and what to make of it.

    for each concurrency: GET /health for a moment (what the measuring itself costs)
                          → so many clients, each sending one recording after the other as a stream
                          → RTFx, times, errors, memory

Clients wait for their answers before they send again, so the concurrency is the number of requests in flight. What was
begun when the time is up is finished and counted. A refusal is an error; its client waits a moment, as a polite one
does, before it tries again.
"""

from __future__ import annotations

import asyncio
import io
import json
import math
import time
import wave
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib import resources
from itertools import count
from pathlib import Path
from statistics import mean

import httpx2
from prometheus_client.parser import text_string_to_metric_families

from tingdao.columns import columns
from tingdao.errors import SetupError

STREAM_PATH = "/v1/audio/transcriptions"
NULL_PATH = "/health"
NULL_SECONDS = 1.0
"""How long what the measuring costs is measured, for each concurrency."""
TIMEOUT = 300.0
"""Seconds after which a request counts as failed."""
MOST_PATIENCE = 1.0
"""Longest that a refused client waits before it tries again, in seconds."""
REPEATS, PAUSE = 5, 0.5
"""The recording that is sent by default: the canary so many times, with so many seconds of silence between."""
GROWTH = 1.1
"""Throughput grows while twice the clients bring at least this factor more."""
MEMORY_METRIC, GPU_METRIC = "process_resident_memory_bytes", "tingdao_gpu_memory_used_bytes"


@dataclass(frozen=True, slots=True)
class Sample:
    """A recording to send. seconds: of audio, as the service counts it."""

    name: str
    data: bytes
    seconds: float


@dataclass(slots=True)
class Level:
    """What came of one concurrency. Times in seconds; first_text: until the first words of a stream.

    null_mean, null_p99: of a request that does nothing, with as many clients. busy: share of one core that the bench
    itself took. memory, gpu: the most that the service took, in bytes; None where it does not say.
    """

    concurrency: int
    wall: float = 0.0
    audio: float = 0.0
    times: list[float] = field(default_factory=list)
    first_texts: list[float] = field(default_factory=list)
    errors: Counter[str] = field(default_factory=Counter)
    null_mean: float = 0.0
    null_p99: float = 0.0
    busy: float = 0.0
    memory: float | None = None
    gpu: float | None = None

    @property
    def rtfx(self) -> float:
        """Seconds of audio transcribed per second."""
        return self.audio / self.wall if self.wall else 0.0

    @property
    def failed(self) -> int:
        """Requests that were refused or failed."""
        return self.errors.total()

    def report(self) -> dict[str, object]:
        """Everything as data; times in milliseconds."""
        return {
            "concurrency": self.concurrency,
            "requests": len(self.times) + self.failed,
            "errors": dict(self.errors),
            "mean_ms": _ms(mean(self.times)) if self.times else None,
            **{f"p{share}_ms": _ms(percentile(self.times, share)) for share in (50, 95, 99)},
            "first_text_p50_ms": _ms(percentile(self.first_texts, 50)),
            "rtfx": round(self.rtfx, 2),
            "memory_bytes": self.memory,
            "gpu_memory_bytes": self.gpu,
            "null_mean_ms": _ms(self.null_mean),
            "null_p99_ms": _ms(self.null_p99),
            "bench_cpu": round(self.busy, 3),
        }


def percentile(values: Sequence[float], share: float) -> float | None:
    """The smallest value that `share` percent of all do not exceed; None of nothing."""
    return sorted(values)[max(0, math.ceil(share / 100 * len(values)) - 1)] if values else None


def default_recording() -> tuple[str, bytes]:
    """A recording that is always there: its name, and WAV of about ten seconds."""
    with wave.open(io.BytesIO(resources.files("tingdao.engines").joinpath("canary.wav").read_bytes())) as canary:
        shape, rate, said = canary.getparams(), canary.getframerate(), canary.readframes(canary.getnframes())
    pause = bytes(round(PAUSE * rate) * shape.sampwidth * shape.nchannels)
    made = io.BytesIO()
    with wave.open(made, "wb") as file:
        file.setparams(shape)
        file.writeframes((said + pause) * REPEATS)
    return "the canary, five times", made.getvalue()


class Bench:
    """Measures one service.

    model: name of the model asked for. seconds: how long each concurrency is measured.
    progress: told what goes on and how many seconds of it are over. transport: another way to the service.
    """

    def __init__(
        self,
        url: str,
        key: str | None,
        model: str,
        seconds: float,
        progress: Callable[[str, float], None],
        transport: httpx2.AsyncBaseTransport | None = None,
    ) -> None:
        self._client = httpx2.AsyncClient(
            base_url=url,
            headers={"authorization": f"Bearer {key}"} if key else {},
            timeout=TIMEOUT,
            limits=httpx2.Limits(max_connections=None, max_keepalive_connections=None),
            transport=transport,
            trust_env=False,  # a proxy would be measured too, and the key is for nobody else
        )
        self.url = url
        self._model = model
        self._seconds = seconds
        self._progress = progress
        self.shows_memory = True

    async def run(self, recordings: Sequence[tuple[str, bytes]], concurrencies: Sequence[int]) -> list[Level]:
        """Measure every concurrency. Raises SetupError when the service is not there, or refuses the first request."""
        async with self._client:
            samples = [await self._sample(name, data) for name, data in recordings]
            return [await self._level(concurrency, samples) for concurrency in concurrencies]

    async def _sample(self, name: str, data: bytes) -> Sample:
        """A recording with its length, by having it transcribed once, which warms the service up too."""
        self._progress("warming up", 0)
        fields = {"model": self._model, "response_format": "verbose_json"}
        try:
            answer = await self._client.post(STREAM_PATH, files={"file": (Path(name).name, data)}, data=fields)
        except httpx2.TransportError as error:
            why = str(error) or type(error).__name__
            raise SetupError(f"{self.url} does not answer ({why}). Is it serving there?") from None
        if not answer.is_success:
            raise SetupError(f"{self.url} refuses {name}: {_reason(answer)}")
        try:
            seconds = float(answer.json()["duration"])
        except (ValueError, KeyError, TypeError):
            raise SetupError(f"{self.url} answers, and not as Tingdao does. Is that its address?") from None
        if seconds <= 0:
            raise SetupError(f"{name} has no sound.")
        return Sample(name, data, seconds)

    async def _level(self, concurrency: int, samples: Sequence[Sample]) -> Level:
        level = Level(concurrency)
        await self._null(level)
        watch = asyncio.create_task(self._watch(level))
        numbers, began, worked = count(), time.monotonic(), time.process_time()

        async def client() -> None:
            while True:
                sample = samples[next(numbers) % len(samples)]
                patience = await self._send(sample, level)
                if patience:
                    await asyncio.sleep(patience)
                if time.monotonic() - began >= self._seconds:
                    return

        try:
            await asyncio.gather(*(client() for _ in range(concurrency)))
        finally:
            watch.cancel()
            await asyncio.gather(watch, return_exceptions=True)
        level.wall = time.monotonic() - began
        level.busy = (time.process_time() - worked) / level.wall
        await self._read_memory(level)
        return level

    async def _send(self, sample: Sample, level: Level) -> float:
        """Send one recording; seconds to wait before the next, after an error."""
        fields = {"model": self._model, "stream": "true"}
        began, first, done = time.monotonic(), None, False
        request = self._client.build_request(
            "POST", STREAM_PATH, files={"file": (Path(sample.name).name, sample.data)}, data=fields
        )
        try:
            answer = await self._client.send(request, stream=True)
            try:
                if not answer.is_success:
                    await answer.aread()
                    level.errors[_code(answer)] += 1
                    return _patience(answer)
                async for line in answer.aiter_lines():
                    if first is None and '"transcript.text.delta"' in line:
                        first = time.monotonic() - began
                    done = done or line == "data: [DONE]"
            finally:
                await answer.aclose()
        except httpx2.HTTPError as error:
            level.errors[type(error).__name__] += 1
            return MOST_PATIENCE
        if not done:
            level.errors["cut_stream"] += 1
            return MOST_PATIENCE
        level.times.append(time.monotonic() - began)
        level.audio += sample.seconds
        if first is not None:
            level.first_texts.append(first)
        return 0.0

    async def _null(self, level: Level) -> None:
        """Measure what the bench, the network and the door cost by themselves."""
        times: list[float] = []
        end = time.monotonic() + NULL_SECONDS

        async def client() -> None:
            while time.monotonic() < end:
                began = time.monotonic()
                (await self._client.get(NULL_PATH)).raise_for_status()
                times.append(time.monotonic() - began)

        try:
            await asyncio.gather(*(client() for _ in range(level.concurrency)))
        except httpx2.HTTPError as error:
            raise SetupError(f"{self.url}{NULL_PATH} fails ({error}).") from None
        level.null_mean, level.null_p99 = mean(times), percentile(times, 99) or 0.0

    async def _watch(self, level: Level) -> None:
        """Read the memory and tell of the progress every second."""
        for second in count():
            self._progress(f"{level.concurrency} at once", min(second, self._seconds))
            await self._read_memory(level)
            await asyncio.sleep(1)

    async def _read_memory(self, level: Level) -> None:
        if not self.shows_memory:
            return
        try:
            answer = await self._client.get("/metrics")
        except httpx2.HTTPError:
            return  # too busy to say
        if not answer.is_success:
            self.shows_memory = False
            return
        found = {MEMORY_METRIC: 0.0, GPU_METRIC: 0.0}
        for family in text_string_to_metric_families(answer.text):
            if family.name in found:
                found[family.name] = sum(sample.value for sample in family.samples)
        level.memory = max(level.memory or 0.0, found[MEMORY_METRIC]) or None
        level.gpu = max(level.gpu or 0.0, found[GPU_METRIC]) or None


def advice(levels: Sequence[Level]) -> str:
    """What the figures say, in words: where throughput stops growing, where errors begin."""
    clean = [level for level in levels if not level.failed and level.times]
    broken = next((level for level in levels if level.failed), None)
    words = []
    if clean:
        best = clean[0]
        for level in clean[1:]:
            if level.rtfx >= best.rtfx * GROWTH ** math.log2(level.concurrency / best.concurrency):
                best = level
        words.append(
            f"Keep about {best.concurrency} in flight: {best.rtfx:.1f} seconds of audio per second, half of "
            f"the answers within {_seconds(percentile(best.times, 50))} and 99 of 100 within "
            f"{_seconds(percentile(best.times, 99))}."
        )
        more = [level for level in clean if level.concurrency > best.concurrency]
        if more:
            last = more[-1]
            words.append(
                f"With {last.concurrency} it does {last.rtfx:.1f}, and half of the answers take up to "
                f"{_seconds(percentile(last.times, 50))}: more clients only wait longer."
            )
        elif not broken:
            words.append("Throughput still grew at the end: measure with more at once.")
    if broken:
        kinds = ", ".join(f"{number} × {kind}" for kind, number in broken.errors.most_common())
        words.append(f"Errors begin with {broken.concurrency} at once ({kinds}).")
    return " ".join(words)


def table(levels: Sequence[Level]) -> str:
    """The figures in columns."""
    rows: list[tuple[str, ...]] = [
        ("at once", "requests", "errors", "mean", "p50", "p95", "p99", "first text", "RTFx", "memory", "GPU", "null")
    ]
    for level in levels:
        times = [mean(level.times) if level.times else None, *(percentile(level.times, p) for p in (50, 95, 99))]
        rows.append(
            (
                str(level.concurrency),
                str(len(level.times) + level.failed),
                str(level.failed),
                *(_seconds(each) for each in times),
                _seconds(percentile(level.first_texts, 50)),
                f"{level.rtfx:.1f}",
                _mib(level.memory),
                _mib(level.gpu),
                f"{level.null_mean * 1000:.1f} ms",
            )
        )
    return "\n".join(columns(rows, left=0))


def overhead(levels: Sequence[Level]) -> str:
    """What of the figures is the measuring itself, in words."""
    worst = max(levels, key=lambda level: level.null_mean)
    busiest = max(levels, key=lambda level: level.busy)
    return (
        f"The column null is a request that does nothing (GET {NULL_PATH}), with as many clients and no other work: "
        f"the network, the door and this bench take {worst.null_mean * 1000:.1f} ms on average at most, 99 of 100 "
        f"within {worst.null_p99 * 1000:.1f} ms ({worst.concurrency} at once). The bench itself used up to "
        f"{busiest.busy * 100:.0f} % of one core."
    )


def as_json(url: str, recordings: Sequence[str], levels: Sequence[Level]) -> str:
    """Everything as JSON."""
    said = {
        "url": url,
        "recordings": list(recordings),
        "levels": [level.report() for level in levels],
        "recommendation": advice(levels),
        "overhead": overhead(levels),
    }
    return json.dumps(said, ensure_ascii=False, indent=2)


def _code(answer: httpx2.Response) -> str:
    return answer.headers.get("x-error-code") or f"status {answer.status_code}"


def _reason(answer: httpx2.Response) -> str:
    try:
        return str(answer.json()["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return f"status {answer.status_code}"


def _patience(answer: httpx2.Response) -> float:
    after = answer.headers.get("retry-after", "")
    return min(float(after), MOST_PATIENCE) if after.isdigit() else MOST_PATIENCE


def _ms(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds * 1000, 1)


def _seconds(seconds: float | None) -> str:
    return "–" if seconds is None else f"{seconds:.2f} s" if seconds >= 1 else f"{seconds * 1000:.0f} ms"


def _mib(number: float | None) -> str:
    return "–" if number is None else f"{number / 2**20:,.0f} MiB"
