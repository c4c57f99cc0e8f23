"""Qwen3-ASR in this process beside the ways that its manuals show, on this machine, in one run.

    python benchmarks/engine.py NATIVE [--official PYTHON ORIGINAL] [--device auto] [--rounds 3]

NATIVE is a checkpoint of `random_checkpoint.py`; ORIGINAL the same in the original layout, and PYTHON the interpreter
of an environment with qwen-asr 0.0.6. Every clip is 10 s long and gets exactly 40 tokens, so weights need not be real.

Each way runs in a process of its own that waits while another one runs; they take turns within every round, so that
whatever else the machine does falls on all of them. Medians over the rounds.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

SECONDS, TOKENS, RATE = 10, 40, 16_000
Run = Callable[[int], None]
"""Recognise so many clips."""


def clips(count: int) -> list[np.ndarray]:
    """Noise, another in every clip; how long a model works on a clip does not depend on what is in it."""
    return [np.random.default_rng(seed).normal(0, 0.1, SECONDS * RATE).astype(np.float32) for seed in range(count)]


def tingdao(folder: Path, device: str, width: int) -> Run:
    """All clips at once through the engine."""
    from tingdao.engines.base import Ask
    from tingdao.engines.qwen import dialogue
    from tingdao.engines.qwen.engine import QwenEngine
    from tingdao.settings import QwenSettings
    from tingdao.types import Clip

    dialogue.loops = lambda _: False  # random weights do loop
    engine = QwenEngine.load(folder, "bench", QwenSettings(device=device, width=width))

    async def all_at_once(count: int) -> None:
        ask = Ask(language="en", max_tokens=TOKENS)
        heard = await asyncio.gather(*(engine.recognise(Clip(clip), ask) for clip in clips(count)))
        assert all(each.usage.completion_tokens == TOKENS for each in heard)

    return lambda count: asyncio.run(all_at_once(count))


def transformers(folder: Path, device: str, _: int) -> Run:
    """One clip after the other, as the model's page shows."""
    import torch
    from transformers import AutoProcessor, Qwen3ASRForConditionalGeneration

    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    processor = AutoProcessor.from_pretrained(folder)
    model = Qwen3ASRForConditionalGeneration.from_pretrained(folder, dtype=torch.bfloat16).to(device)

    def one_by_one(count: int) -> None:
        for clip in clips(count):
            inputs = processor.apply_transcription_request(clip, language="en").to(model.device, model.dtype)
            with torch.inference_mode():
                answer = model.generate(**inputs, max_new_tokens=TOKENS, do_sample=False)
            assert answer.shape[1] - inputs["input_ids"].shape[1] == TOKENS
            processor.decode(answer[0], return_format="parsed")

    return one_by_one


def static(folder: Path, device: str, _: int) -> Run:
    """All clips in one batch of transformers' `generate`, which nobody can join or leave."""
    import torch
    from transformers import AutoProcessor, Qwen3ASRForConditionalGeneration

    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    processor = AutoProcessor.from_pretrained(folder)
    model = Qwen3ASRForConditionalGeneration.from_pretrained(folder, dtype=torch.bfloat16).to(device)

    def all_at_once(count: int) -> None:
        inputs = processor.apply_transcription_request(clips(count), language=["en"] * count)
        with torch.inference_mode():
            model.generate(**inputs.to(model.device, model.dtype), max_new_tokens=TOKENS, do_sample=False)

    return all_at_once


def official(folder: Path, device: str, _: int) -> Run:
    """One clip after the other through qwen-asr's `transcribe`."""
    import torch
    from qwen_asr import Qwen3ASRModel

    if device == "auto":
        device = "cuda:0" if torch.cuda.is_available() else "cpu"
    model = Qwen3ASRModel.from_pretrained(
        str(folder), dtype=torch.bfloat16, device_map=device, max_new_tokens=TOKENS, max_inference_batch_size=1
    )

    def one_by_one(count: int) -> None:
        for clip in clips(count):
            model.transcribe((clip, RATE), language="English")

    return one_by_one


def floors(_: Path, __: str, ___: int) -> Run:
    """What the hardware can do: prints bytes and operations a second instead of recognising."""
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"

    def measure(_: int) -> None:
        def best(work: Callable[[], object]) -> float:
            times = []
            for _ in range(40):
                begun = time.perf_counter()
                work()
                if device == "cuda":
                    torch.cuda.synchronize()
                times.append(time.perf_counter() - begun)
            return min(times)

        large = torch.ones(2**26, device=device)
        square = torch.randn(2048, 2048, device=device).bfloat16()
        rates = {
            "bandwidth": large.nbytes / best(large.sum),
            "bfloat16": 2 * 2048**3 / best(lambda: square @ square),
            "threads": torch.get_num_threads(),
        }
        print(json.dumps({"rates": rates}), flush=True)

    return measure


WAYS = {"tingdao": tingdao, "transformers": transformers, "static": static, "official": official, "floors": floors}


def memory() -> dict[str, float]:
    """GB that this process holds now and has held at most: of the GPU where it uses one, else of the machine."""
    torch = sys.modules["torch"]
    if torch.cuda.is_available():
        return {"now": torch.cuda.memory_reserved() / 1e9, "most": torch.cuda.max_memory_reserved() / 1e9}
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return {"now": int(lines["VmRSS"].split()[0]) / 1e6, "most": int(lines["VmHWM"].split()[0]) / 1e6}


def forget_most() -> None:
    """Let `most` count from here on."""
    torch = sys.modules["torch"]
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    else:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def work(way: str, folder: Path, device: str, width: int) -> None:
    """The side of a child: load, then for every line `count` recognise and answer with one line of JSON."""
    begun = time.perf_counter()
    run = WAYS[way](folder, device, width)
    print(json.dumps({"seconds": time.perf_counter() - begun, **memory()}), flush=True)
    for line in sys.stdin:
        forget_most()
        begun = time.perf_counter()
        run(int(line))
        print(json.dumps({"seconds": time.perf_counter() - begun, **memory()}), flush=True)


class Child:
    """One way, in its own process."""

    def __init__(self, python: str, way: str, folder: Path, given: argparse.Namespace) -> None:
        command = [python, __file__, str(folder), "--work", way, "--device", given.device, "--width", str(given.width)]
        # As Tingdao sets it for itself: on a machine that does other work too, the others would lose by it alone.
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env={**os.environ, "OMP_WAIT_POLICY": "passive"},
        )
        self.loaded = self._answer()

    def run(self, count: int) -> dict[str, Any]:
        """Recognise so many clips; what it answered."""
        assert self._process.stdin
        self._process.stdin.write(f"{count}\n")
        self._process.stdin.flush()
        return self._answer()

    def end(self) -> None:
        """Let it go."""
        assert self._process.stdin
        self._process.stdin.close()
        self._process.wait()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout
        for line in self._process.stdout:
            if line.startswith("{"):  # libraries print there too
                answer: dict[str, Any] = json.loads(line)
                return answer
        raise SystemExit(f"{self._process.args} ended early; run it by hand to see why")


def main() -> None:
    """The command line."""
    line = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    line.add_argument("native", type=Path)
    line.add_argument("--official", nargs=2, metavar=("PYTHON", "ORIGINAL"))
    line.add_argument("--device", default="auto")
    line.add_argument("--concurrency", type=int, nargs="+", default=[1, 2, 4, 8, 16])
    line.add_argument("--width", type=int, default=0)
    line.add_argument("--rounds", type=int, default=3)
    line.add_argument("--static", action="store_true", help="transformers' generate with all clips in one batch, too")
    line.add_argument("--work", choices=list(WAYS), help=argparse.SUPPRESS)
    given = line.parse_args()
    if given.work:
        work(given.work, given.native, given.device, given.width)
        return
    floor = Child(sys.executable, "floors", given.native, given)
    rates = floor.run(1)["rates"]
    floor.end()
    ways = {
        "tingdao": Child(sys.executable, "tingdao", given.native, given),
        "transformers": Child(sys.executable, "transformers", given.native, given),
    }
    if given.official:
        ways["official"] = Child(given.official[0], "official", Path(given.official[1]), given)
    if given.static:
        ways["static"] = Child(sys.executable, "static", given.native, given)
    for child in ways.values():
        child.run(1)  # what is only slow the first time
    ours: dict[int, list[dict[str, Any]]] = {count: [] for count in given.concurrency}
    theirs: dict[str, dict[int, list[float]]] = {name: {} for name in ways if name != "tingdao"}
    for number in range(given.rounds):
        for count in given.concurrency:
            ours[count].append(ways["tingdao"].run(count))
            for name, seconds in theirs.items():
                # One by one, so many clips take so many times as long as one.
                size = count if name == "static" else 1
                seconds.setdefault(size, []).append(ways[name].run(size)["seconds"])
        print(f"round {number + 1} of {given.rounds}", file=sys.stderr, flush=True)
    report(given.native, rates, ours, theirs, {name: child.loaded for name, child in ways.items()})
    for child in ways.values():
        child.end()


def report(
    folder: Path,
    rates: dict[str, float],
    ours: dict[int, list[dict[str, Any]]],
    theirs: dict[str, dict[int, list[float]]],
    loaded: dict[str, dict[str, float]],
) -> None:
    """Print the table."""
    from tingdao.engines.qwen.weights import expected, open_checkpoint

    config = open_checkpoint(folder).config
    sizes = {name: int(np.prod(shape)) for name, shape in expected(config).items()}
    decoder = sum(size for name, size in sizes.items() if "language_model.layers" in name)
    step = 2 * (decoder + sizes["model.language_model.embed_tokens.weight"])
    tower = sum(size for name, size in sizes.items() if "audio_tower.layers" in name)
    convolutions = [sizes[f"model.audio_tower.conv2d{number}.weight"] for number in (1, 2, 3)]
    positions = [64 * 50, 32 * 25, 16 * 13]  # after each convolution, of 128 bins and 100 frames
    conv = 2 * SECONDS * sum(size * count for size, count in zip(convolutions, positions, strict=True))
    first = 2 * (tower * 13 * SECONDS + decoder * (13 * SECONDS + 15)) + conv
    print(f"{SECONDS} s of audio, {TOKENS} tokens, {os.cpu_count()} cores, {rates['threads']:.0f} threads")
    print(
        f"floor: reads {rates['bandwidth'] / 1e9:.0f} GB/s, multiplies {rates['bfloat16'] / 1e9:.0f} GFLOP/s in "
        f"bfloat16: {1000 * step / rates['bandwidth']:.0f} ms a step ({step / 1e9:.2f} GB), and "
        f"{first / rates['bfloat16']:.2f} s to hear a clip ({first / 1e9:.0f} GFLOP)"
    )
    for name, answer in loaded.items():
        print(f"{name:12} loaded in {answer['seconds']:5.1f} s, {answer['now']:.2f} GB, {answer['most']:.2f} at most")
    head = "".join(f"{name + (', one batch' if name == 'static' else ', one by one'):>27}" for name in theirs)
    print(f"{'at once':>7} {'seconds':>8} {'RTF':>6} {'RTFx':>6} {'GB':>5} {'floor':>6} {head}")
    for count, runs in ours.items():
        seconds = median(run["seconds"] for run in runs)
        floor = count * first / rates["bfloat16"] + TOKENS * step / rates["bandwidth"]
        beside = ""
        for runs_by_size in theirs.values():
            size = count if count in runs_by_size and len(runs_by_size) > 1 else 1
            whole = median(runs_by_size[size]) * count / size
            beside += f"{whole:16.2f} s ({whole / seconds:4.2f} ×)"
        print(
            f"{count:7} {seconds:8.2f} {seconds / count / SECONDS:6.3f} {count * SECONDS / seconds:6.2f} "
            f"{max(run['most'] for run in runs):5.2f} {floor:6.2f}  {beside}"
        )


if __name__ == "__main__":
    main()
