"""`tingdao check`: what is there, what would run, what to do next."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import tingdao
from tingdao import app, cores, models
from tingdao.engines import hubs, weights
from tingdao.engines.openvino.weights import is_converted, open_converted
from tingdao.engines.qwen import runtime as qwen_runtime
from tingdao.engines.qwen.weights import Kind, open_checkpoint
from tingdao.errors import SetupError
from tingdao.settings import MIB, Settings, where_from

VERSION_SECONDS = 120.0
"""How long vLLM may take to say its version: it loads everything first."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the report. `fatal`: the service cannot run like this."""

    what: str
    good: bool = True
    advice: str = ""
    fatal: bool = False


def examine(settings: Settings) -> list[Finding]:
    """Look at everything the service needs, without starting it."""
    findings = [Finding(f"Tingdao {tingdao.__version__} on Python {sys.version.split()[0]}, cores: {cores.COUNT}")]
    findings += _settings()
    findings += _state(settings)
    findings += _models(settings)
    return findings


def _settings() -> list[Finding]:
    """What is not left at its default, and which source counts where several say something."""
    given = where_from()
    if not given:
        return [
            Finding(f"All settings are at their defaults: no variable is set, and there is no {Settings.config_file}")
        ]
    return [Finding(str(origin)) for origin in given]


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


def examine_folder(folder: Path) -> list[Finding]:
    """Look at one folder of Qwen3-ASR or its aligner: whether it is whole, and is what was fetched."""
    if is_converted(folder):
        try:
            precision = open_converted(folder).precision
        except SetupError as error:
            return [Finding(f"{folder} cannot be used", good=False, advice=str(error), fatal=True)]
        return [Finding(f"{folder} holds Qwen3-ASR whole, converted to {precision}")]
    findings = []
    kinds: tuple[tuple[Kind, str], ...] = (("model", "Qwen3-ASR"), ("aligner", "Qwen3-ForcedAligner"))
    for kind, what in kinds:
        try:
            found = open_checkpoint(folder, kind)
        except SetupError as error:
            findings.append(Finding(f"{folder} cannot be used", good=False, advice=str(error), fatal=True))
            continue
        findings = [Finding(f"{folder} holds {what} whole: {found.layout} layout, {found.size / 1e9:.2f} GB")]
        break
    else:
        return findings[:1]
    wrong = hubs.verify(folder)
    if wrong is None:
        findings.append(Finding("It was not fetched by `tingdao download`, so there are no hashes to compare"))
    elif wrong:
        findings.append(
            Finding(
                "It is not what was fetched", good=False, advice="; ".join(wrong) + ". Download it again.", fatal=True
            )
        )
    else:
        findings.append(Finding("Every file has the hash that the hub announced"))
    return findings


def _vllm(settings: Settings) -> list[Finding]:
    """Whether each vLLM server of the settings recognises, and what it can."""
    if not settings.vllm.upstreams:
        return []
    from tingdao.engines.vllm.engine import examine_all
    from tingdao.engines.vllm.prompt import TEMPLATE

    try:
        found = asyncio.run(examine_all(settings.vllm))
    except SetupError as error:
        return [Finding("The vLLM servers cannot be asked", good=False, advice=str(error), fatal=True)]
    findings = []
    for name, facts in found:
        if isinstance(facts, str):
            findings.append(Finding(f"vLLM at {name} cannot be used", good=False, advice=facts))
            continue
        can = ", ".join(sorted(facts.can))
        told = f"vLLM {facts.identity.version} with {facts.identity.model!r}"
        advice = ""
        if facts.limits:
            advice = (
                f"It cannot be told {facts.limits}: its chat template leaves out what the assistant says. Start it "
                f"with --chat-template and a copy of {TEMPLATE}."
            )
        what = f"vLLM at {name} recognises: {told}, {facts.identity.length} tokens, can: {can}"
        findings.append(Finding(what, advice=advice))
    return findings


def _own_vllm(settings: Settings) -> list[Finding]:
    """Whether vLLM is there for what this service is to serve with it."""
    try:
        model = models.served_by_vllm(settings)
    except SetupError:
        return []  # it is the default model that is unknown then
    if not model:
        return []
    program = shutil.which(settings.vllm.command)
    if program is None:
        advice = "Run: pip install vllm, or set [vllm] command to its path in the environment where it is."
        return [Finding(f"There is no program {settings.vllm.command!r} to serve {model}", good=False, advice=advice)]
    try:
        asked = subprocess.run(  # noqa: S603  the operator's own command
            [program, "--version"], capture_output=True, text=True, timeout=VERSION_SECONDS, check=True
        )
    except (OSError, subprocess.SubprocessError) as error:
        said = str(getattr(error, "stderr", None) or "").strip() or str(error)
        return [Finding(f"{program} cannot be run", good=False, advice=said.splitlines()[-1])]
    version = asked.stdout.split()[-1] if asked.stdout.split() else "of an unknown version"
    return [Finding(f"vLLM {version} in {program} would serve {model}")]


def _models(settings: Settings) -> list[Finding]:
    findings = []
    folders = models.qwen_folders(settings)
    for name, folder in folders.items():
        found = examine_folder(folder)
        findings += [Finding(f"{name}: {each.what}", each.good, each.advice) for each in found]
    if aligner := models.aligner_offer(settings):
        findings.append(Finding(f"{aligner.name} is set up: words get times"))
    findings += _own_vllm(settings)
    findings += _vllm(settings)
    if folders and not qwen_runtime.any_installed():
        findings.append(
            Finding(
                "Nothing is installed that runs Qwen3-ASR",
                good=False,
                advice=f"Run: {qwen_runtime.INSTALL['openvino']}, or on a machine with a GPU: "
                f"{qwen_runtime.INSTALL['torch']}",
            )
        )
    try:
        default = models.offers(settings)[0].name
    except SetupError as error:
        return [*findings, Finding("The default model is unknown", good=False, advice=str(error), fatal=True)]
    stand_in = default == weights.WHISPER_BASE.name
    try:
        folder = weights.find(weights.WHISPER_BASE, settings.models_dir, settings.embedded.path, hub=False)
        findings.append(Finding(f"{weights.WHISPER_BASE.name} (embedded) in {folder}: every file is the published one"))
    except SetupError as error:
        findings.append(
            Finding(f"{weights.WHISPER_BASE.name} is missing", good=False, advice=str(error), fatal=stand_in)
        )
    advice = ""
    if stand_in:
        advice = (
            "This is the stand-in. For Qwen3-ASR run `tingdao download 0.6b` (or 1.7b; --from modelscope in China) "
            "and `pip install 'tingdao[cpu]'` (with a GPU: `tingdao[qwen]`)."
        )
    return [*findings, Finding(f"`tingdao serve` would serve {default}", advice=advice)]
