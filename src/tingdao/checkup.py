"""`tingdao check`: what is there, what would run, what to do next."""

from __future__ import annotations

import os
import shutil
import sys
from dataclasses import dataclass

import tingdao
from tingdao import app
from tingdao.engines import weights
from tingdao.errors import SetupError
from tingdao.settings import MIB, Settings


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the report. `fatal`: the service cannot run like this."""

    what: str
    good: bool = True
    advice: str = ""
    fatal: bool = False


def examine(settings: Settings) -> list[Finding]:
    """Look at everything the service needs, without starting it."""
    findings = [Finding(f"Tingdao {tingdao.__version__} on Python {sys.version.split()[0]}, {os.cpu_count()} cores")]
    findings += _state(settings)
    findings += _models(settings)
    return findings


def _state(settings: Settings) -> list[Finding]:
    try:
        app.prepare_state(settings)
    except SetupError as error:
        return [Finding("The state folder cannot be used", good=False, advice=str(error), fatal=True)]
    free = shutil.disk_usage(settings.state_dir).free // MIB
    enough = free > settings.audio.reserve_mib
    return [
        Finding(
            f"State in {settings.state_dir.resolve()}, {free:,} MiB free",
            good=enough,
            advice="" if enough else f"Free some space: {settings.audio.reserve_mib} MiB are always left free.",
        )
    ]


def _models(settings: Settings) -> list[Finding]:
    try:
        default = app.offers(settings)[0].name
    except SetupError as error:
        return [Finding("The default model is unknown", good=False, advice=str(error), fatal=True)]
    try:
        folder = weights.find(weights.WHISPER_BASE, settings.models_dir, settings.embedded.path, hub=False)
    except SetupError as error:
        return [Finding(f"{weights.WHISPER_BASE.name} is missing", good=False, advice=str(error), fatal=True)]
    return [
        Finding(f"{weights.WHISPER_BASE.name} (embedded model) in {folder}: every file is the published one"),
        Finding(
            f"`tingdao serve` would serve {default}",
            advice="This is the stand-in. Qwen3-ASR as an engine comes with a later release.",
        ),
    ]
