"""Qwen3-ASR on a CPU: a local folder becomes an engine that computes in 8 bits, batched, without PyTorch.

    folder ─ converted? else convert once, and keep it ─ graphs ─ compiled ─ QwenModel ─ the same engine as `qwen`

Why OpenVINO, and why these graphs: benchmarks/README.md, "Qwen3-ASR on a CPU".
"""

from __future__ import annotations

import logging
import time
from pathlib import Path
from typing import Any

import numpy as np

from tingdao.engines.base import Ask
from tingdao.engines.memory import free_memory
from tingdao.engines.openvino.weights import (
    Precision,
    Published,
    Weights,
    convert,
    converted_from,
    converted_name,
    is_converted,
    open_converted,
)
from tingdao.engines.qwen.dialogue import SHORTEST, Dialogue, Job
from tingdao.engines.qwen.engine import MEMORY_SHARE, WIDTH, QwenEngine
from tingdao.engines.qwen.model import GRAIN, QwenModel
from tingdao.engines.qwen.runtime import INSTALL
from tingdao.engines.qwen.tokenizer import read_tokenizer
from tingdao.engines.qwen.weights import open_checkpoint
from tingdao.errors import SetupError
from tingdao.settings import QwenSettings
from tingdao.types import Clip

log = logging.getLogger(__name__)

LOG_SECONDS = 2.0


def load(folder: Path, name: str, settings: QwenSettings, models_dir: Path) -> QwenEngine:
    """Load a folder of either published layout or a converted one; blocks for seconds. Raises SetupError.

    models_dir: where weights that had to be converted are kept for the next time.
    """
    try:
        from tingdao.engines.openvino.decoder import Decoder
        from tingdao.engines.openvino.encoder import Encoder
        from tingdao.engines.openvino.runtime import computing, slow_reason
    except ImportError as error:
        raise SetupError(
            f"Qwen3-ASR on a CPU needs OpenVINO, and {error.name} is not installed. Run: {INSTALL['openvino']}"
        ) from error
    weights = open_weights(folder, settings, models_dir)
    if weights.precision != "float32" and (reason := slow_reason()):
        log.warning("slower than on other processors", extra={"model": name, "reason": reason})
    dialogue = Dialogue(read_tokenizer(weights.folder))
    silence = dialogue.job(Clip(np.zeros(SHORTEST, np.float32)), Ask(max_tokens=2), context_limit=0x7FFF)
    try:
        # OpenVINO puts weights into its own order when they are first used. One half after the other, and what was
        # read is let go of at once, so that loading takes little more memory than serving.
        with computing():
            encoder = Encoder(weights, settings.threads)
            encoder.encode([(encoder.features(silence.samples), silence.frames)])
            weights.release()
            decoder = Decoder(weights, settings.threads)
            decoder.reserve(GRAIN)
            model = QwenModel(encoder, decoder)
            _recognise(model, silence)
            weights.release()
    except MemoryError as error:
        raise SetupError(
            f"The weights of {name} do not fit into the memory of this machine. Take the smaller model."
        ) from error
    except RuntimeError as error:
        raise SetupError(
            f"OpenVINO cannot run {name} on this machine ({error}). Let PyTorch run it, several times as slow: "
            f'{INSTALL["torch"]} and `[qwen] runtime = "torch"`.'
        ) from error
    tokens = settings.memory_tokens or int(free_memory() * MEMORY_SHARE["cpu"] / decoder.token_bytes)
    budget = max(tokens // GRAIN, 1) * GRAIN
    decoder.reserve(budget)
    width = settings.width or WIDTH["cpu"]
    log.info(
        "weights loaded",
        extra={"model": name, "runtime": "openvino", "precision": weights.precision}
        | {"width": width, "memory_tokens": budget},
    )
    return QwenEngine(model, dialogue, name, width=width, budget=budget, settings=settings)


def open_weights(folder: Path, settings: QwenSettings, models_dir: Path) -> Weights:
    """The weights in the precision that the settings ask for, converted if need be. Raises SetupError."""
    if is_converted(folder):
        weights = open_converted(folder)
        if settings.dtype not in ("auto", weights.precision):
            raise SetupError(
                f"{folder} was converted to {weights.precision}, and `[qwen] dtype` asks for {settings.dtype}. "
                "Take that away, or give the folder of the original weights."
            )
        return weights
    checkpoint = open_checkpoint(folder)
    if settings.dtype == "float32":
        return Published(checkpoint)
    precision: Precision = "int4" if settings.dtype == "int4" else "int8"
    kept = models_dir / converted_name(folder, precision)
    try:
        if converted_from(kept, checkpoint):
            return open_converted(kept)
    except SetupError as error:
        log.warning("converted weights are damaged", extra={"reason": str(error)})
    log.info("converting weights", extra={"from": str(folder), "to": str(kept), "precision": precision})
    convert(checkpoint, kept, precision, _Log())
    return open_converted(kept)


class _Log:
    """Says every few seconds how far converting is."""

    def __init__(self) -> None:
        self._next = time.monotonic() + LOG_SECONDS

    def __call__(self, done: int, whole: int) -> None:
        if time.monotonic() >= self._next:
            self._next += LOG_SECONDS
            log.info("converting weights", extra={"percent": 100 * done // whole})


def _recognise(model: QwenModel[Any], job: Job) -> None:
    model.enter(job)
    while not job.ended:
        model.step()
    model.leave(job)
