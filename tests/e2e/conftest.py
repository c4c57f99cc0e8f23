"""A real server with the real embedded model, as an operator starts it."""

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
from pathlib import Path

import httpx2
import pytest

from tingdao.engines.weights import WHISPER_BASE, find

SECRET = re.compile(r"\b(td|ek)_[0-9A-Za-z_-]{16,}")
"""Keys and tickets."""
NOT_TESTED = "NOTHING was tested against a real vLLM"


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
                env={**os.environ, "TINGDAO_STATE_DIR": str(state), **environment},
                stderr=log,
                stdout=log,
            )
        self.url = self._wait_for("serving")["url"].rstrip("/")

    def _wait_for(self, message: str, seconds: float = 60) -> dict:
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            for line in self.lines():
                if line["message"] == message:
                    return line
            if self.process.poll() is not None:
                break
            time.sleep(0.02)
        raise AssertionError(f"no {message!r} in the log:\n{self.log.read_text()}")

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
        return list((self.state / "tmp").rglob("*"))

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
def packages():
    """What `package.json` pins, installed beside it."""
    wanted = json.loads((JAVASCRIPT / "package.json").read_text())["dependencies"]["openai"]
    installed = JAVASCRIPT / "node_modules/openai/package.json"
    if not installed.is_file() or json.loads(installed.read_text())["version"] != wanted:
        subprocess.run(["npm", "ci", "--no-progress"], cwd=JAVASCRIPT, check=True, timeout=300)
