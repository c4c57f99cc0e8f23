"""Which library computes Qwen3-ASR in this process: PyTorch on a GPU, OpenVINO on a CPU.

Nothing heavy is imported to find out.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Literal

from tingdao.engines.openvino.weights import is_converted
from tingdao.errors import SetupError
from tingdao.settings import QwenSettings

Runtime = Literal["torch", "openvino"]

PACKAGES: dict[Runtime, tuple[str, ...]] = {"torch": ("torch", "transformers"), "openvino": ("openvino",)}
INSTALL: dict[Runtime, str] = {"torch": "pip install 'tingdao[qwen]'", "openvino": "pip install 'tingdao[cpu]'"}
DRIVERS = ("/dev/nvidiactl", "/dev/kfd", "/dev/dxg")
"""What is there where a driver of a GPU is that PyTorch can use: NVIDIA, AMD, either under WSL."""
WHOLE_NUMBERS = ("int8", "int4")


def installed(runtime: Runtime) -> bool:
    """Whether a runtime's packages are there."""
    return all(importlib.util.find_spec(package) for package in PACKAGES[runtime])


def any_installed() -> bool:
    """Whether Qwen3-ASR can run in this process at all."""
    return any(installed(runtime) for runtime in PACKAGES)


def choose_runtime(folder: Path, settings: QwenSettings) -> Runtime:
    """What runs the model in a folder. Raises SetupError when that is not installed, or cannot do what is asked.

    `auto` is OpenVINO with 8 bits on a machine without a GPU, several times as fast there as PyTorch with 16.
    """
    wanted: Runtime | Literal["auto"] = settings.runtime
    if is_converted(folder):
        _only("openvino", settings, f"{folder} was converted for OpenVINO")
        wanted = "openvino"
    elif settings.dtype in WHOLE_NUMBERS:
        _only("openvino", settings, f"dtype {settings.dtype} is OpenVINO's")
        wanted = "openvino"
    elif settings.dtype in ("bfloat16", "float16"):
        _only("torch", settings, f"dtype {settings.dtype} is PyTorch's")
        wanted = "torch"
    elif wanted == "auto":
        gpu = settings.device.startswith("cuda") or (settings.device == "auto" and has_gpu() and installed("torch"))
        likely: Runtime = "torch" if gpu or settings.dtype == "float32" else "openvino"
        other: Runtime = "openvino" if likely == "torch" else "torch"
        wanted = other if not installed(likely) and installed(other) and not gpu else likely
    if wanted == "openvino" and settings.device.startswith("cuda"):
        raise SetupError(f"OpenVINO runs on the CPU here, and `[qwen] device` asks for {settings.device}.")
    if not installed(wanted):
        raise SetupError(
            f"Qwen3-ASR needs {' and '.join(PACKAGES[wanted])} here, which is not installed. Run: {INSTALL[wanted]}"
        )
    return wanted


def _only(runtime: Runtime, settings: QwenSettings, why: str) -> None:
    if settings.runtime not in ("auto", runtime):
        raise SetupError(f"{why}, and `[qwen] runtime` asks for {settings.runtime}. Take one of both away.")


def has_gpu() -> bool:
    """Whether there is a driver of a GPU; whether PyTorch can use it, only PyTorch knows."""
    return any(Path(node).exists() for node in DRIVERS)
