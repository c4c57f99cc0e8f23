"""The canary: a short recording that a newly loaded model must cope with before requests reach it.

`canary.wav` is LJ002-0020 of the LJ Speech dataset (public domain, read by Linda Johnson): "In eighteen thirteen."
"""

from __future__ import annotations

import wave
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from tingdao.engines.base import Ask, Engine
from tingdao.types import SAMPLE_RATE, Clip

if TYPE_CHECKING:
    from tingdao.engines.aligner.engine import Aligner

SAID = "In eighteen thirteen."
LANGUAGE = "en"
FULL_SCALE = 32_768


@cache
def recording() -> Clip:
    """The recording, 1.5 s."""
    with wave.open(str(Path(__file__).with_name("canary.wav"))) as file:
        assert (file.getnchannels(), file.getsampwidth(), file.getframerate()) == (1, 2, SAMPLE_RATE)
        samples = np.frombuffer(file.readframes(file.getnframes()), "<i2")
    return Clip(samples.astype(np.float32) / np.float32(FULL_SCALE))


async def hears(engine: Engine) -> bool:
    """Whether an engine writes anything at all for the recording, and comes to an end. Raises what the engine does.

    What it writes is not compared: models differ in how they write a year.
    """
    recognition = await engine.recognise(recording(), Ask())
    return bool(recognition.text.strip()) and recognition.ended == "stop"


async def times(aligner: Aligner) -> bool:
    """Whether an aligner finds a moment for every word of the recording. Raises what the aligner does."""
    alignment = await aligner.align(recording(), SAID, LANGUAGE)
    return len(alignment.words) == len(SAID.split()) and not any(flag == "untimed" for flag in alignment.flags)
