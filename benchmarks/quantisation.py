"""How far 8 and 4 bits are from float32: what the tiny model hears, and the logits of a model of full size.

    python benchmarks/quantisation.py [NATIVE] [--clips 2] [--tokens 20]

The tiny model of the tests knows its recordings: each precision must write every one of them exactly. NATIVE is a
checkpoint of any size, also one of `random_checkpoint.py`: float32 writes an answer, every precision is given the same
tokens one by one, and printed is how far its logits are from those of float32 (length of the difference to length of
the logits, both without their mean), and how often it would have chosen the same token. Random weights are the hardest
case for the last: their logits lie close together.

Exits with 1 when a transcript of the tiny model is not exact.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

from tingdao.engines.base import Ask
from tingdao.engines.openvino import engine as openvino
from tingdao.engines.openvino.decoder import Decoder
from tingdao.engines.openvino.encoder import Encoder
from tingdao.engines.openvino.weights import Weights
from tingdao.engines.qwen.dialogue import Dialogue, audio_tokens
from tingdao.engines.qwen.tokenizer import read_tokenizer
from tingdao.settings import QwenSettings
from tingdao.types import Clip
from tiny_qwen import TRAINED, spoken

PRECISIONS = ("float32", "int8", "int4")
KEPT = Path(tempfile.gettempdir()) / "tingdao-bench"


def settings(precision: str) -> QwenSettings:
    """Settings for OpenVINO in a precision."""
    return QwenSettings(runtime="openvino", dtype=precision)


async def transcripts(precision: str) -> tuple[int, int]:
    """(exact, all) transcripts of the tiny model, recognised together."""
    engine = openvino.load(TRAINED, "tiny", settings(precision), KEPT)
    known = spoken()
    heard = await asyncio.gather(*(engine.recognise(clip, Ask()) for clip, _, _ in known))
    await engine.close()
    return sum(each.text == text for each, (_, text, _) in zip(heard, known, strict=True)), len(known)


class Writer:
    """Encoder and decoder in one precision, for one clip after the other."""

    def __init__(self, weights: Weights) -> None:
        self._encoder, self._decoder = Encoder(weights, 0), Decoder(weights, 0)
        self._decoder.reserve(4096)
        self._dialogue = Dialogue(read_tokenizer(weights.folder))

    def logits(self, clip: Clip, count: int, told: list[int] | None = None) -> tuple[np.ndarray, list[int]]:
        """Logits (count, vocabulary) while it writes so many tokens, its own or those it is told, and the tokens."""
        job = self._dialogue.job(clip, Ask(language="en"), 4096)
        ((features, frames),) = [(self._encoder.features(job.samples), job.frames)]
        heard = self._encoder.encode([(features, frames)])[0]
        x = self._decoder.embed([*job.head, *[0] * audio_tokens(frames), *job.tail])
        x[len(job.head) : len(job.head) + len(heard)] = heard
        row = self._decoder.enter([], len(x), len(x) + count)
        seen, tokens = [], []
        for number in range(count):
            seen.append(self._decoder.logits(x, [(row, len(x))], [len(x) - 1])[0].copy())
            row.length += len(x)
            tokens.append(told[number] if told else int(seen[-1].argmax()))
            x = self._decoder.embed(tokens[-1:])
        self._decoder.leave(row)
        return np.stack(seen), tokens


def distances(folder: Path, clips: int, count: int) -> None:
    """Print the table of logits."""
    noise = [Clip(np.random.default_rng(seed).normal(0, 0.1, 160_000).astype(np.float32)) for seed in range(clips)]
    exact = Writer(openvino.open_weights(folder, settings("float32"), KEPT))
    wanted = [exact.logits(clip, count) for clip in noise]
    del exact
    for precision in PRECISIONS[1:]:
        writer = Writer(openvino.open_weights(folder, settings(precision), KEPT))
        off, same = [], []
        for clip, (reference, tokens) in zip(noise, wanted, strict=True):
            made, _ = writer.logits(clip, count, tokens)
            centred = [each - each.mean(axis=1, keepdims=True) for each in (made, reference)]
            off.append(np.linalg.norm(centred[0] - centred[1], axis=1) / np.linalg.norm(centred[1], axis=1))
            same.append(made.argmax(axis=1) == tokens)
        print(
            f"{precision:8} logits off by {100 * np.mean(off):.1f} % (at most {100 * np.max(off):.1f} %), "
            f"the same token {100 * np.mean(same):.0f} % of {clips * count}"
        )


def main() -> None:
    """The command line."""
    line = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    line.add_argument("native", type=Path, nargs="?")
    line.add_argument("--clips", type=int, default=2)
    line.add_argument("--tokens", type=int, default=20)
    given = line.parse_args()
    wrong = False
    for precision in PRECISIONS:
        exact, count = asyncio.run(transcripts(precision))
        wrong |= exact < count
        print(f"{precision:8} exact transcripts of the tiny model: {exact} of {count}")
    if given.native:
        distances(given.native, given.clips, given.tokens)
    sys.exit(wrong)


if __name__ == "__main__":
    main()
