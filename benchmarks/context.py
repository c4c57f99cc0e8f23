"""What a list of expected words costs: clips with a context of their own each, beside clips that share one.

    python benchmarks/context.py NATIVE [--runtime openvino|torch] [--rounds 3] [--names 0,20,80,320]

NATIVE is a checkpoint of `random_checkpoint.py` (0.6b). Clips are 10 s with exactly 40 tokens, so weights need not be
real. The two ways take turns; medians over the rounds. A context of one's own is what every clip would cost if nothing
of it were kept. "First text" is the mean time to the first token.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import tempfile
import time
from pathlib import Path
from statistics import mean, median

import numpy as np

from tingdao.engines.base import Ask
from tingdao.engines.qwen import dialogue
from tingdao.engines.qwen.engine import QwenEngine
from tingdao.settings import QwenSettings
from tingdao.types import Clip

TOKENS = 40
parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("folder", type=Path)
parser.add_argument("--runtime", default="openvino", choices=["openvino", "torch"])
parser.add_argument("--rounds", type=int, default=3)
parser.add_argument("--names", default="0,20,80,320", help="expected words, each of some nine tokens")
arguments = parser.parse_args()
CLIPS = [Clip(np.random.default_rng(seed).normal(0, 0.1, 160_000).astype(np.float32)) for seed in range(8)]
NUMBERS = itertools.count(1000)


def load() -> QwenEngine:
    """The engine."""
    dialogue.loops = lambda _: False  # random weights do loop
    settings = QwenSettings(runtime=arguments.runtime)
    if arguments.runtime == "torch":
        return QwenEngine.load(arguments.folder, "bench", settings)
    from tingdao.engines.openvino import engine

    return engine.load(arguments.folder, "bench", settings, Path(tempfile.gettempdir()) / "tingdao-bench")


async def measure(engine: QwenEngine, count: int, contexts: list[str]) -> tuple[float, float]:
    """So many clips at once: seconds until all are through, and mean seconds to the first token."""

    async def one(clip: Clip, context: str) -> float:
        begun, first = time.perf_counter(), 0.0
        job = engine._job(clip, Ask(language="en", max_tokens=TOKENS, context=context))  # noqa: SLF001  to see tokens
        async for _ in engine._batcher.watch(job):  # noqa: SLF001  to see tokens
            first = first or time.perf_counter() - begun
        return first

    begun = time.perf_counter()
    firsts = await asyncio.gather(*(one(clip, context) for clip, context in zip(CLIPS[:count], contexts, strict=True)))
    return time.perf_counter() - begun, mean(firsts)


async def main() -> None:
    """Print the table."""
    engine = load()
    print("| context, tokens | clips at once | own, s | shared, s | ratio | first text, own | shared | ratio |")
    print("|---|---|---|---|---|---|---|---|")
    await measure(engine, 8, [""] * 8)
    for names, count in itertools.product(map(int, arguments.names.split(",")), (1, 8)):
        text = ", ".join(f"Zhongguancun {number}" for number in range(names))
        tokens = len(engine._dialogue._encode(text))  # noqa: SLF001  to count tokens
        own, shared = [], []
        await measure(engine, 1, [text])  # it is known from now on
        for _ in range(arguments.rounds):
            contexts = [f"{next(NUMBERS)} {text}" if text else "" for _ in range(count)]
            own.append(await measure(engine, count, contexts))
            await measure(engine, 1, [text])  # others have come and gone
            shared.append(await measure(engine, count, [text] * count))
        (alone, late), (together, soon) = (
            [median(each) for each in zip(*times, strict=True)] for times in (own, shared)
        )
        print(
            f"| {tokens} | {count} | {alone:.2f} | {together:.2f} | {alone / together:.2f} "
            f"| {late:.2f} | {soon:.2f} | {late / soon:.2f} |",
            flush=True,
        )
    await engine.close()


asyncio.run(main())
