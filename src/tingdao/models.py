"""Which models can be served: what the settings name and what is on this machine, as offers.

Nothing is loaded here, and no library that loads is imported before it is wanted.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, cast

from tingdao.engines import memory, weights
from tingdao.engines.base import Engine
from tingdao.engines.offer import Offer
from tingdao.engines.qwen import runtime as qwen_runtime
from tingdao.errors import SetupError
from tingdao.settings import Settings, VllmSettings

if TYPE_CHECKING:
    from tingdao.engines.aligner.engine import Aligner

EMBEDDED_BYTES = 500_000_000
"""What the embedded model takes at work (459 MB measured)."""


def offers(settings: Settings) -> list[Offer[Engine]]:
    """The models that can be served, the default one first. Raises SetupError when the default is none of them.

    `auto` is Qwen3-ASR on the servers of the settings, or the first that is there and can run, else the embedded model.
    """
    folders = qwen_folders(settings)
    ours = served_by_vllm(settings)
    known = [_qwen_offer(name, folder, settings) for name, folder in folders.items() if str(folder.resolve()) != ours]
    vllm = settings.vllm.upstreams or ours
    if vllm:
        known.append(_vllm_offer(settings.vllm.model_copy(update={"serve": ours})))
    known.append(
        Offer(
            weights.WHISPER_BASE.name,
            partial(_load_embedded, settings),
            recipe=(settings.embedded, settings.models_dir),
            memory=EMBEDDED_BYTES,
            free=memory.free_memory,
        )
    )
    wanted = settings.model
    if wanted == "auto" and vllm:
        wanted = settings.vllm.name
    elif wanted == "auto":
        wanted = next(iter(folders)) if folders and qwen_runtime.any_installed() else weights.WHISPER_BASE.name
    if wanted in weights.QWEN:
        wanted = weights.QWEN[wanted].name
    elif (path := Path(wanted)).is_dir():
        wanted = path.resolve().name
    if ours and wanted in folders and str(folders[wanted].resolve()) == ours:
        wanted = settings.vllm.name
    chosen = [offer for offer in known if offer.name == wanted]
    if not chosen:
        fetch = f" `tingdao download {settings.model}` fetches it." if settings.model in weights.QWEN else ""
        raise SetupError(
            f"There is no model {settings.model!r} on this machine.{fetch} "
            f"Models: auto, {', '.join(offer.name for offer in known)}, or a folder of Qwen3-ASR."
        )
    return chosen + [offer for offer in known if offer not in chosen]


def aliases(settings: Settings) -> dict[str, str]:
    """Other names of the models: the short ones of the command line, and those of the settings."""
    there = qwen_folders(settings)
    short = {short: release.name for short, release in weights.QWEN.items() if release.name in there}
    ours = served_by_vllm(settings)
    by_vllm = {name: settings.vllm.name for name, folder in there.items() if str(folder.resolve()) == ours}
    return by_vllm | short | settings.aliases


def qwen_folders(settings: Settings) -> dict[str, Path]:
    """Qwen3-ASR on this machine by name: the folder given as the model, those of the settings, those downloaded."""
    folders = {}
    if (given := Path(settings.model)).is_dir():
        folders[given.resolve().name] = given
    folders |= settings.qwen.folders
    for release in weights.QWEN.values():
        if release.name not in folders and (folder := weights.fetched(release, settings.models_dir)):
            folders[release.name] = folder
    return folders


def served_by_vllm(settings: Settings) -> str:
    """The model that vLLM servers of this service's own serve: a folder, a repository, or empty for none.

    Raises SetupError when it is not there.
    """
    wanted, folders = settings.vllm.serve, qwen_folders(settings)
    name = weights.QWEN[wanted].name if wanted in weights.QWEN else wanted
    if folder := folders.get(name, Path(wanted) if wanted and Path(wanted).is_dir() else None):
        return str(folder.resolve())
    if wanted in weights.QWEN:
        raise SetupError(f"There is no model {wanted!r} on this machine. `tingdao download {wanted}` fetches it.")
    if wanted and "/" not in wanted:
        raise SetupError(
            f"[vllm] serve: there is no model {wanted!r} on this machine. It may be {', '.join(weights.QWEN)}, "
            "a folder, or the id of a repository on a hub, such as Qwen/Qwen3-ASR-1.7B."
        )
    return wanted


def aligner_offer(settings: Settings) -> Offer[Aligner] | None:
    """The forced aligner, where there is one."""
    folder = settings.aligner.path or weights.fetched(weights.ALIGNER, settings.models_dir)
    if folder is None:
        return None
    return Offer(
        weights.ALIGNER.name,
        partial(_load_aligner, folder, settings),
        recipe=(folder, settings.aligner),
        memory=memory.estimate(folder),
        free=partial(_free, settings.aligner.device),
    )


def _qwen_offer(name: str, folder: Path, settings: Settings) -> Offer[Engine]:
    return Offer(
        name,
        partial(_load_qwen, folder, name, settings),
        recipe=(folder, settings.qwen),
        memory=memory.estimate(folder),
        free=partial(_free, settings.qwen.device),
    )


def _vllm_offer(settings: VllmSettings) -> Offer[Engine]:
    from tingdao.engines.vllm.engine import AT_ONCE, VllmEngine

    offer = Offer(
        settings.name,
        partial(VllmEngine, settings),
        recipe=settings.model_copy(update=dict.fromkeys(AT_ONCE)),
        alone=bool(settings.serve),
        open=VllmEngine.open,
        trouble=lambda engine: engine.trouble,
        servers=lambda engine: engine.fleet,
        adopt=lambda engine: engine.adopt(settings),
    )
    return cast("Offer[Engine]", offer)


def _free(device: str) -> int:
    """Bytes free where a model of Qwen3-ASR runs. Raises SetupError for a device that is not there."""
    if not qwen_runtime.installed("torch") or not (device.startswith("cuda") or qwen_runtime.has_gpu()):
        return memory.free_memory()
    from tingdao.engines.hardware import choose_device, free_memory

    return free_memory(choose_device(device))


def _load_embedded(settings: Settings) -> Engine:
    from tingdao.engines.whisper import WhisperEngine

    folder = weights.find(weights.WHISPER_BASE, settings.models_dir, settings.embedded.path)
    return WhisperEngine.load(folder, weights.WHISPER_BASE.name, settings.embedded)


def _load_qwen(folder: Path, name: str, settings: Settings) -> Engine:
    from tingdao.engines.openvino import engine as openvino
    from tingdao.engines.qwen.engine import QwenEngine

    if qwen_runtime.choose_runtime(folder, settings.qwen) == "openvino":
        return openvino.load(folder, name, settings.qwen, settings.models_dir)
    return QwenEngine.load(folder, name, settings.qwen)


def _load_aligner(folder: Path, settings: Settings) -> Aligner:
    from tingdao.engines.aligner.engine import Aligner

    return Aligner.load(folder, settings.aligner)
