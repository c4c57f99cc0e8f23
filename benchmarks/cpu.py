"""Qwen3-ASR on a CPU beside its peers, on this machine, in one run.

    python benchmarks/cpu.py NATIVE [--genai PYTHON FOLDER] [--official PYTHON ORIGINAL] [--rounds 3]

NATIVE is a checkpoint of `random_checkpoint.py` (0.6b). FOLDER is ORIGINAL exported for OpenVINO GenAI:

    optimum-cli export openvino -m ORIGINAL --task automatic-speech-recognition-with-past --weight-format int8 FOLDER

and each PYTHON the interpreter of an environment that has the peer (openvino-genai; qwen-asr 0.0.6). Clips are 10 s
with exactly 40 tokens and 30 s with exactly 120, so weights need not be real.

Each way runs in a process of its own that waits while another one runs; they take turns within every round, so that
whatever else the machine does falls on all of them. Medians over the rounds; ratios are medians of the rounds' ratios.
The peers take one request after the other, so their time for many clips is that for one, as many times.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from statistics import mean, median
from typing import Any

import numpy as np

RATE = 16_000
LENGTHS = {10: 40, 30: 120}
"""Seconds of a clip → tokens of its answer."""
PROMPT = 145
"""Tokens of the prompt for a clip of 10 s."""
Answer = dict[str, Any]
Run = Callable[[int, int, bool], Answer]
"""(clips at once, seconds of each, whether they come one after the other) → what was measured."""


def clips(count: int, seconds: int) -> list[np.ndarray]:
    """Noise, another in every clip; how long a model works on a clip does not depend on what is in it."""
    return [np.random.default_rng(seed).normal(0, 0.1, seconds * RATE).astype(np.float32) for seed in range(count)]


def tingdao(folder: Path, precision: str) -> Run:
    """All clips at once through the engine."""
    from tingdao.engines.base import Ask
    from tingdao.engines.openvino import engine as openvino
    from tingdao.engines.qwen import dialogue
    from tingdao.settings import QwenSettings
    from tingdao.types import Clip

    dialogue.loops = lambda _: False  # random weights do loop
    settings = QwenSettings(runtime="openvino", dtype=precision)
    engine = openvino.load(folder, "bench", settings, Path(tempfile.gettempdir()) / "tingdao-bench")

    async def one(clip: np.ndarray, tokens: int) -> float:
        """Recognise a clip; seconds to its first token."""
        begun, first = time.perf_counter(), 0.0
        job = engine._job(Clip(clip), Ask(language="en", max_tokens=tokens))  # noqa: SLF001  to see single tokens
        async for _ in engine._batcher.watch(job):  # noqa: SLF001
            first = first or time.perf_counter() - begun
        assert job.completion_tokens == tokens
        return first

    async def at_once(count: int, seconds: int) -> Answer:
        firsts = await asyncio.gather(*(one(clip, LENGTHS[seconds]) for clip in clips(count, seconds)))
        return {"firsts": firsts}

    async def flowing(count: int, seconds: int) -> Answer:
        """As many callers as `count`, each with one clip after the other, begun apart: how a service is used."""

        async def caller(number: int) -> list[float]:
            await asyncio.sleep(number * 0.4)
            return [await one(clip, LENGTHS[seconds]) for clip in clips(3, seconds)]

        firsts = await asyncio.gather(*(caller(number) for number in range(count)))
        return {"firsts": [first for of_caller in firsts for first in of_caller[1:]]}

    def run(count: int, seconds: int, flow: bool) -> Answer:  # noqa: FBT001  as all ways
        if not count:
            return {"parts": parts(engine)}
        return asyncio.run((flowing if flow else at_once)(count, seconds))

    return run


def parts(engine: Any) -> dict[str, float]:  # noqa: ANN401  imported only where it runs
    """Seconds that each part of the work takes, at best: nothing else may run on the engine."""
    model = engine._batcher._model  # noqa: SLF001  to see the parts
    encoder, decoder = model._encoder, model._decoder  # noqa: SLF001
    features = encoder.features(clips(1, 10)[0])
    x = decoder.embed([*range(PROMPT)])
    took: dict[str, list[float]] = {}

    def timed(name: str, call: Callable[[], object]) -> None:
        begun = time.perf_counter()
        call()
        took.setdefault(name, []).append(time.perf_counter() - begun)

    for _ in range(3):
        timed("encoder", lambda: encoder.encode([(features, 1000)]))
        for count in (1, 8):
            rows = [decoder.enter([], PROMPT, 0) for _ in range(count)]
            for row in rows:
                timed("prefill", lambda row=row: decoder.next(x, [(row, PROMPT)], [PROMPT - 1]))
            for row in rows:
                decoder.settle(row)
            for _ in range(5):
                timed(f"step of {count}", lambda count=count: decoder.next(x[:count], [], [*range(count)]))
            for row in rows:
                decoder.leave(row)
    return {name: min(times) for name, times in took.items()}


def genai(folder: Path, _: str) -> Run:
    """One clip after the other through OpenVINO GenAI's pipeline for speech."""
    import openvino_genai

    pipeline = openvino_genai.ASRPipeline(str(folder), "CPU")

    def one_by_one(count: int, seconds: int, _: bool) -> Answer:  # noqa: FBT001  as all ways
        for clip in clips(count, seconds):
            pipeline.generate(clip.tolist(), language="English", max_new_tokens=LENGTHS[seconds])
        return {}

    return one_by_one


def transformers(folder: Path, _: str) -> Run:
    """One clip after the other in bfloat16, as the model's page shows."""
    import torch
    from transformers import AutoProcessor, Qwen3ASRForConditionalGeneration

    processor = AutoProcessor.from_pretrained(folder)
    model = Qwen3ASRForConditionalGeneration.from_pretrained(folder, dtype=torch.bfloat16)

    def one_by_one(count: int, seconds: int, _: bool) -> Answer:  # noqa: FBT001  as all ways
        for clip in clips(count, seconds):
            inputs = processor.apply_transcription_request(clip, language="en").to(model.device, model.dtype)
            with torch.inference_mode():
                answer = model.generate(**inputs, max_new_tokens=LENGTHS[seconds], do_sample=False)
            assert answer.shape[1] - inputs["input_ids"].shape[1] == LENGTHS[seconds]
        return {}

    return one_by_one


def official(folder: Path, _: str) -> Run:
    """One clip after the other through qwen-asr's `transcribe`."""
    import torch
    from qwen_asr import Qwen3ASRModel

    model = Qwen3ASRModel.from_pretrained(
        str(folder), dtype=torch.bfloat16, device_map="cpu", max_new_tokens=1, max_inference_batch_size=1
    )

    def one_by_one(count: int, seconds: int, _: bool) -> Answer:  # noqa: FBT001  as all ways
        model.max_new_tokens = LENGTHS[seconds]
        for clip in clips(count, seconds):
            model.transcribe((clip, RATE), language="English")
        return {}

    return one_by_one


def floors(_: Path, __: str) -> Run:
    """What the hardware can do: bytes a second from memory, and operations a second of large products."""
    import openvino
    from openvino import Type
    from openvino import opset13 as op

    from tingdao.cores import COUNT
    from tingdao.engines.openvino.runtime import compile_graph, fast, half

    def rate(kind: Type, options: dict[str, Any]) -> float:
        """Operations a second of x (512, 4096) @ (4096, 4096)."""
        x = op.parameter(openvino.PartialShape([512, 4096]), kind)
        stored = op.constant(np.ones((4096, 4096), np.int8 if kind == Type.f32 else np.float32))
        weight = op.convert(stored, kind)
        if kind == Type.f32:
            weight = op.multiply(weight, op.constant(np.ones((4096, 1), np.float32)))
        graph = openvino.Model([op.matmul(x, weight, transpose_a=False, transpose_b=True)], [x], "product")
        request = compile_graph(graph, 0, **options).create_infer_request()
        return 2 * 512 * 4096**2 / best(request.infer, 12)

    def best(work: Callable[[], object], times: int) -> float:
        taken = []
        for _ in range(times):
            begun = time.perf_counter()
            work()
            taken.append(time.perf_counter() - begun)
        return min(taken)

    parts = np.array_split(np.ones(2**27, np.float32), COUNT)

    def read() -> None:
        # `max`, not `sum`: adding up pairwise takes a core longer than reading does.
        threads = [threading.Thread(target=part.max) for part in parts]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def measure(_: int, __: int, ___: bool) -> Answer:  # noqa: FBT001  as all ways
        bandwidth = sum(part.nbytes for part in parts) / best(read, 20)
        return {"bandwidth": bandwidth, "int8": rate(Type.f32, fast()), "bfloat16": rate(Type.bf16, half())}

    return measure


WAYS: dict[str, Callable[[Path, str], Run]] = {
    "tingdao": tingdao,
    "genai": genai,
    "transformers": transformers,
    "official": official,
    "floors": floors,
}


def memory() -> dict[str, float]:
    """GB that this process holds now, and has held at most."""
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return {"now": int(lines["VmRSS"].split()[0]) / 1e6, "most": int(lines["VmHWM"].split()[0]) / 1e6}


def work(way: str, folder: Path, precision: str) -> None:
    """The side of a child: load, then for every line of JSON recognise and answer with one line of JSON."""
    begun = time.perf_counter()
    run = WAYS[way](folder, precision)
    print(json.dumps({"seconds": time.perf_counter() - begun, **memory()}), flush=True)
    for line in sys.stdin:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # `most` counts from here on
        begun = time.perf_counter()
        answer = run(*json.loads(line))
        print(json.dumps({"seconds": time.perf_counter() - begun, **memory(), **answer}), flush=True)


class Child:
    """One way, in its own process."""

    def __init__(self, python: str, way: str, folder: Path, precision: str = "") -> None:
        self._process = subprocess.Popen(
            [python, __file__, str(folder), "--work", way, "--precision", precision],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env={**os.environ, "OMP_WAIT_POLICY": "passive"},
        )
        self.loaded = self._answer()

    def run(self, count: int, seconds: int, *, flow: bool = False) -> Answer:
        """Recognise so many clips; what it answered."""
        assert self._process.stdin
        self._process.stdin.write(json.dumps([count, seconds, flow]) + "\n")
        self._process.stdin.flush()
        return self._answer()

    def end(self) -> None:
        """Let it go."""
        assert self._process.stdin
        self._process.stdin.close()
        self._process.wait()

    def _answer(self) -> Answer:
        assert self._process.stdout
        for line in self._process.stdout:
            if line.startswith("{"):  # libraries print there too
                answer: Answer = json.loads(line)
                return answer
        raise SystemExit(f"{self._process.args} ended early; run it by hand to see why")


def main() -> None:
    """The command line."""
    line = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    line.add_argument("native", type=Path)
    line.add_argument("--genai", nargs=2, metavar=("PYTHON", "FOLDER"))
    line.add_argument("--official", nargs=2, metavar=("PYTHON", "ORIGINAL"))
    line.add_argument("--no-transformers", action="store_true")
    line.add_argument("--precision", default="int8", choices=["int8", "int4", ""])
    line.add_argument("--seconds", type=int, nargs="+", default=list(LENGTHS), choices=list(LENGTHS))
    line.add_argument("--concurrency", type=int, nargs="+", default=[1, 4, 8, 16])
    line.add_argument("--rounds", type=int, default=3)
    line.add_argument("--work", choices=list(WAYS), help=argparse.SUPPRESS)
    given = line.parse_args()
    if given.work:
        work(given.work, given.native, given.precision)
        return
    floor = Child(sys.executable, "floors", given.native)
    Child(sys.executable, "tingdao", given.native, given.precision).end()  # converted, if it was not before
    ours = Child(sys.executable, "tingdao", given.native, given.precision)
    theirs = peers(given)
    for child in (ours, *theirs.values()):
        child.run(1, 10)  # what is only slow the first time
    rates = [floor.run(0, 0)]
    parts = [ours.run(0, 0)]
    for seconds in given.seconds:
        tables = own, flowing, beside = {}, {1: [], 8: []}, {}
        for number in range(given.rounds):
            rates.append(floor.run(0, 0))
            parts.append(ours.run(0, 0))
            for name, child in theirs.items():
                beside.setdefault(name, []).append(child.run(1, seconds)["seconds"])
            for count in given.concurrency:
                own.setdefault(count, []).append(ours.run(count, seconds))
            for count, answers in flowing.items():
                answers.append(ours.run(count, seconds, flow=True))
            print(f"{seconds} s: round {number + 1} of {given.rounds}", file=sys.stderr, flush=True)
        report(seconds, *tables)
    print(f"loaded: {ours.loaded['seconds']:.1f} s, {ours.loaded['now']:.2f} GB, {ours.loaded['most']:.2f} at most")
    for name, child in theirs.items():
        print(f"{name}: loaded in {child.loaded['seconds']:.1f} s, {child.loaded['most']:.2f} GB at most")
    report_floors(given.native, rates, parts)
    for child in (floor, ours, *theirs.values()):
        child.end()


def peers(given: argparse.Namespace) -> dict[str, Child]:
    """The peers that were named, loaded."""
    named = {}
    if given.genai:
        named["genai"] = Child(given.genai[0], "genai", Path(given.genai[1]))
    if not given.no_transformers:
        named["transformers"] = Child(sys.executable, "transformers", given.native)
    if given.official:
        named["official"] = Child(given.official[0], "official", Path(given.official[1]))
    return named


def report(
    seconds: int, own: dict[int, list[Answer]], flowing: dict[int, list[Answer]], theirs: dict[str, list[float]]
) -> None:
    """Print the table for one length of clips."""
    print(f"\nclips of {seconds} s with {LENGTHS[seconds]} tokens")
    head = "".join(f"{name:>24}" for name in theirs)
    print(f"{'at once':>7} {'seconds':>8} {'RTFx':>6} {'first token, s':>15} {'GB':>5} {head}")
    for count, answers in own.items():
        taken = [answer["seconds"] for answer in answers]
        beside = ""
        for runs in theirs.values():
            ratio = median(count * other / mine for other, mine in zip(runs, taken, strict=True))
            beside += f"{count * median(runs):14.2f} s ({ratio:5.2f} ×)"
        first = median(mean(answer["firsts"]) for answer in answers)
        most = max(answer["most"] for answer in answers)
        print(
            f"{count:7} {median(taken):8.2f} {count * seconds / median(taken):6.2f} {first:15.2f} {most:5.2f} {beside}"
        )
    alone, busy = (median(_all(answers)) for answers in flowing.values())
    print(f"first token, callers one after the other: {alone:.2f} s with 1, {busy:.2f} s with 8 ({busy / alone:.2f} ×)")


def _all(answers: Iterable[Answer]) -> list[float]:
    return [first for answer in answers for first in answer["firsts"]]


def report_floors(folder: Path, rates: list[Answer], parts: list[Answer]) -> None:
    """Print what each part of the work took at best, beside what the hardware allows at the best rates measured."""
    from tingdao.engines.qwen.weights import expected, open_checkpoint

    sizes = {name: int(np.prod(shape)) for name, shape in expected(open_checkpoint(folder).config).items()}
    decoder = sum(size for name, size in sizes.items() if "language_model.layers" in name)
    step = decoder + sizes["model.language_model.embed_tokens.weight"]
    tower = sum(size for name, size in sizes.items() if "audio_tower.layers" in name)
    convolutions = [sizes[f"model.audio_tower.conv2d{number}.weight"] for number in (1, 2, 3)]
    positions = [64 * 50, 32 * 25, 16 * 13]  # after each convolution, of 128 bins and 100 frames
    conv = 2 * 10 * sum(size * count for size, count in zip(convolutions, positions, strict=True))
    best = {name: max(rate[name] for rate in rates) for name in ("bandwidth", "int8", "bfloat16")}
    took = {name: min(part["parts"][name] for part in parts) for name in parts[0]["parts"]}
    encoder, prefill = 2 * tower * 130 + conv, 2 * decoder * PROMPT
    print(
        f"this machine: {best['bandwidth'] / 1e9:.0f} GB/s, {best['int8'] / 1e9:.0f} GFLOP/s in int8, "
        f"{best['bfloat16'] / 1e9:.0f} in bfloat16"
    )
    for name, least, what in (
        ("encoder", encoder / best["bfloat16"], f"10 s, {encoder / 1e9:.0f} GFLOP"),
        ("prefill", prefill / best["int8"], f"{PROMPT} tokens, {prefill / 1e9:.0f} GFLOP"),
        ("step of 1", step / best["bandwidth"], f"{step / 1e9:.2f} GB"),
        ("step of 8", step / best["bandwidth"], f"{step / 1e9:.2f} GB"),
    ):
        print(f"{name:10} {1000 * took[name]:5.0f} ms, floor {1000 * least:4.0f} ms ({what})")


if __name__ == "__main__":
    main()
