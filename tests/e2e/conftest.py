"""A real server with a real model, as an operator starts it.

The model is the embedded one, or with `ENGINE=cpu` Qwen3-ASR on OpenVINO: the tiny one, that knows its recordings.
"""

from __future__ import annotations

import itertools
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import httpx2
import pytest

from conftest import RECORDINGS
from tingdao.engines.weights import WHISPER_BASE, find
from tiny_qwen import ALIGNER, TRAINED

SECRET = re.compile(r"\b(td|ek)_[0-9A-Za-z_-]{16,}")
"""Keys and tickets."""
NOT_TESTED = "NOTHING was tested against a real vLLM"


@dataclass(frozen=True)
class Engine:
    """What the servers of the tests serve by default.

    environment: settings that make it so. at: those that have its weights elsewhere.
    file: the weights themselves, by name; without: how a server says that they are gone.
    exact: whether it writes the English and Chinese recordings to the letter.
    stand_in: whether it stands in for Qwen3-ASR.
    memory_mib: what unloading it gives back at least. quick: how often faster than the embedded model it is at least.
    """

    name: str
    environment: Mapping[str, str]
    at: Callable[[Path], dict[str, str]]
    file: str
    without: str
    exact: bool
    stand_in: bool
    memory_mib: int
    quick: int


ENGINES = {
    "embedded": Engine(
        WHISPER_BASE.name,
        {},
        at=lambda folder: {"TINGDAO_EMBEDDED_PATH": str(folder)},
        file="model.bin",
        without="model.bin is missing",
        exact=False,
        stand_in=True,
        memory_mib=60,
        quick=1,
    ),
    "cpu": Engine(
        TRAINED.name,
        {
            "TINGDAO_QWEN_FOLDERS": json.dumps({TRAINED.name: str(TRAINED)}),
            "TINGDAO_QWEN_RUNTIME": "openvino",
            "TINGDAO_QWEN_WIDTH": "4",
            "TINGDAO_ALIGNER_PATH": str(ALIGNER),
            "TINGDAO_ALIGNER_DTYPE": "float32",
        },
        at=lambda folder: {"TINGDAO_QWEN_FOLDERS": json.dumps({TRAINED.name: str(folder)})},
        file="model.safetensors",
        without="holds no weights (*.safetensors)",
        exact=True,
        stand_in=False,
        memory_mib=10,
        quick=4,
    ),
}
ENGINE = ENGINES[os.environ.get("ENGINE", "embedded")]
# Those that bring a model of their own, and the one about what the embedded model mishears.
collect_ignore = (
    ["test_openvino.py", "test_qwen.py", "test_vllm.py", "test_vocabulary.py"] if ENGINE is ENGINES["cpu"] else []
)


def pytest_collection_modifyitems(items):
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.e2e)


def pytest_terminal_summary(terminalreporter):
    """What was not tested for want of a real vLLM is said last, where it cannot be overlooked."""
    skipped = [report for report in terminalreporter.getreports("skipped") if NOT_TESTED in str(report.longrepr)]
    if skipped:
        reason = str(skipped[0].longrepr[2]).removeprefix("Skipped: ")
        terminalreporter.section(f"{len(skipped)} TESTS WERE SKIPPED", sep="!", red=True, bold=True)
        terminalreporter.line(f"{reason} ({len(skipped)} tests)", red=True, bold=True)


def free_port() -> int:
    """A port of the loopback that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


JAVASCRIPT = Path(__file__).parent / "js"
NUMBERS = itertools.count(1)


class Server:
    """`tingdao serve` on a free port of the loopback, or another program that does the same, ended by its own pid."""

    def __init__(
        self,
        state: Path,
        program: tuple[str, ...] = ("-m", "tingdao.cli", "serve", "--port", "0"),
        **environment: str,
    ) -> None:
        self.state = state
        self.log = state / f"server-{next(NUMBERS)}.log"  # several servers may share a state folder
        state.mkdir(parents=True, exist_ok=True)
        self.started = time.monotonic()
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, *program],
                env={**os.environ, **ENGINE.environment, "TINGDAO_STATE_DIR": str(state), **environment},
                stderr=log,
                stdout=log,
            )
        self.url = self.wait_for("serving")["url"].rstrip("/")

    def wait_for(self, message: str, seconds: float = 60, **fields: object) -> dict:
        """The first line of the log with a message and such fields; a request's comes after its answer."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            for line in self.lines():
                if line["message"] == message and fields.items() <= line.items():
                    return line
            if self.process.poll() is not None:
                break
            time.sleep(0.02)
        raise AssertionError(f"no {message!r} with {fields} in the log:\n{self.log.read_text()}")

    def lines(self) -> list[dict]:
        complete = self.log.read_text().rpartition("\n")[0]
        return [json.loads(line) for line in complete.split("\n") if line]

    def wait_until_ready(self, seconds: float = 60) -> dict:
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            health = httpx2.get(f"{self.url}/health").json()
            if health["status"] == "ok":
                return health
            assert health["status"] == "loading", self.log.read_text()
            time.sleep(0.05)
        raise AssertionError(self.log.read_text())

    def memory_mib(self) -> float:
        """Peak resident memory of the server process."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(status.split("VmHWM:")[1].split()[0]) / 1024

    def temporary_files(self) -> list[Path]:
        # PyTorch, where it times words, makes an empty folder for a compiler that is never used.
        return [each for each in (self.state / "tmp").rglob("*") if not each.name.startswith("torchinductor_")]

    def stop(self, how: int = signal.SIGTERM) -> int:
        if self.process.poll() is None:
            self.process.send_signal(how)
        status = self.process.wait(40)
        # Whatever a test did: the log of its server has no key, no ticket, and nothing of what was said.
        told = self.log.read_text()
        assert not SECRET.search(told), "there is a key in the log"
        assert "fellow Americans" not in told
        return status


@pytest.fixture(scope="session")
def state(tmp_path_factory):
    return tmp_path_factory.mktemp("state")


@pytest.fixture(scope="session")
def weights(state):
    """The folder with the embedded model, put together once for all servers."""
    return find(WHISPER_BASE, state / "models", hub=False)


@pytest.fixture(scope="session")
def server(state, weights):
    running = Server(state)
    running.wait_until_ready()
    yield running
    assert running.stop() == 0, running.log.read_text()


@pytest.fixture(scope="session")
def vllm(tmp_path_factory):
    """A real vLLM with the tiny model, started once for all tests."""
    from e2e.vllm_cpu import VllmServer

    running = VllmServer(tmp_path_factory.mktemp("vllm"))
    yield running
    running.stop()


@pytest.fixture(scope="session")
def files():
    """A plain file server with the recordings, beside the service: its host and port."""
    server = subprocess.Popen(
        [sys.executable, "-u", "-m", "http.server", "0", "--bind", "127.0.0.1", "--directory", str(RECORDINGS)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    yield re.search(r"http://(127\.0\.0\.1:\d+)", server.stdout.readline())[1]
    server.terminate()
    server.stdout.close()
    server.wait(10)


@pytest.fixture(scope="session")
def packages():
    """What `package.json` pins, installed beside it."""
    wanted = json.loads((JAVASCRIPT / "package.json").read_text())["dependencies"]["openai"]
    installed = JAVASCRIPT / "node_modules/openai/package.json"
    if not installed.is_file() or json.loads(installed.read_text())["version"] != wanted:
        subprocess.run(["npm", "ci", "--no-progress"], cwd=JAVASCRIPT, check=True, timeout=300)
