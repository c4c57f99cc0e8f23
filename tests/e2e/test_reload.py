"""Models are reloaded under load: nobody notices, and the memory comes back."""

from __future__ import annotations

import itertools
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import httpx2
import pytest

from conftest import RECORDINGS
from e2e.conftest import ENGINE, Server
from tiny_qwen import TRAINED

TINY = "tiny-qwen3-asr"
CROWDS = {"whisper-base": (4, 4), TINY: (50, 10)}
"""Clients, and reloads while they send; the embedded model takes a third of a second for a recording."""
MARGIN_MIB = {"whisper-base": 250, TINY: 60}
"""What the process may grow by in a round of reloads. Four copies of the embedded model's weights are 560 MiB, ten of
the tiny one's 115. The first round takes 40 MiB and more, as buffers, pools and the heap come to their size; after it
an idle process goes up and down by 130 and by 15 from one to the next, and in six of them it did not grow."""
MODELS = {
    TINY: {"TINGDAO_MODEL": str(TRAINED), "TINGDAO_QWEN_DTYPE": "float32"},
    ENGINE.name: {"TINGDAO_EMBEDDED_BEAM_SIZE": "1"},
}
SAID = {
    "librivox_ss_0880.flac": "young man",
    "ljspeech_LJ002-0020.flac": "in",
    "azure_whatstheweatherlike.flac": "weather",
}


class Crowd:
    """Clients that send one short recording after the other, each on a connection of its own, until told to stop."""

    def __init__(self, url: str, clients: int) -> None:
        self._url = url
        self._stop = threading.Event()
        self.answered = 0
        self.failures: list[str] = []
        self._pool = ThreadPoolExecutor(clients)
        self._clients = [self._pool.submit(self._loop, number) for number in range(clients)]

    def _loop(self, number: int) -> None:
        audio = {name: (RECORDINGS / name).read_bytes() for name in SAID}
        with httpx2.Client(base_url=self._url, timeout=240) as http:
            for name in itertools.islice(itertools.cycle(SAID), number, None):
                if self._stop.is_set():
                    return
                try:
                    answer = http.post("/api/v1/transcribe", files={"file": audio[name]})
                    good = answer.status_code == 200 and SAID[name] in answer.json()["data"]["text"].lower()
                    if not good:
                        self.failures.append(f"{name}: {answer.status_code} {answer.text[:200]}")
                except httpx2.HTTPError as error:
                    self.failures.append(f"{name}: {error!r}")
                self.answered += 1

    def wait_for(self, answers: int, seconds: float = 180) -> None:
        deadline = time.monotonic() + seconds
        until = self.answered + answers
        while self.answered < until:
            assert time.monotonic() < deadline, "the service stands still"
            time.sleep(0.05)

    def __enter__(self) -> Crowd:
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._pool.shutdown()
        for client in self._clients:
            client.result()


def status(server) -> dict:
    return httpx2.get(f"{server.url}/admin/status").json()


def resident_mib(server) -> float:
    """Memory of the idle process: the lowest of a moment, since what was freed goes back a little later."""
    deadline = time.monotonic() + 3
    lowest = float("inf")
    while time.monotonic() < deadline:
        lowest = min(lowest, status(server)["memory_bytes"] / 2**20)
        time.sleep(0.1)
    return lowest


@pytest.mark.timeout(300)  # far less than a minute each where nothing else runs
@pytest.mark.parametrize("model", [pytest.param(name, marks=[pytest.mark.qwen] * (name == TINY)) for name in MODELS])
def test_reloads_under_load(tmp_path, weights, model):
    clients, reloads = CROWDS[model]
    server = Server(tmp_path / "state", TINGDAO_EMBEDDED_PATH=str(weights), **MODELS[model])
    try:
        server.wait_until_ready()
        name = status(server)["models"][0]["name"]
        since = [status(server)["models"][0]["loaded_since"]]
        sizes = []
        for _ in range(2):  # the same twice: what the process still grows by the second time, it would each time
            with Crowd(server.url, clients) as crowd:
                crowd.wait_for(10)
                for _ in range(reloads):
                    answer = httpx2.post(f"{server.url}/admin/reload-model", timeout=180)
                    assert answer.status_code == 200, answer.text
                    assert (answer.json()["status"], answer.json()["model"]) == ("reloaded", name)
                    since.append(status(server)["models"][0]["loaded_since"])
                crowd.wait_for(10)
            assert crowd.failures == []
            sizes.append(resident_mib(server))
        assert since == sorted(set(since)), "each reload brings a new version"
        loaded = status(server)["models"][0]
        assert (loaded["state"], loaded["retiring"], loaded["calls"]) == ("ready", 0, 0)
        before, after = sizes
        assert after < before + MARGIN_MIB[model]
    finally:
        assert server.stop() == 0, server.log.read_text()


def test_the_command_reloads_and_weights_that_are_gone_leave_the_old_ones(tmp_path, request):
    """Also: an unloaded model gives its memory back, and comes back with the next request."""
    weights = TRAINED if ENGINE.name == TINY else request.getfixturevalue("weights")
    folder = tmp_path / "weights"
    folder.mkdir()
    for file in weights.iterdir():
        (folder / file.name).symlink_to(file)
    server = Server(tmp_path / "state", **ENGINE.at(folder))

    def reload():
        return subprocess.run(
            [sys.executable, "-m", "tingdao.cli", "reload", "--url", server.url],
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )

    def transcribe():
        audio = (RECORDINGS / "librivox_ss_0880.flac").read_bytes()
        return httpx2.post(f"{server.url}/api/v1/transcribe", files={"file": audio}, timeout=60).json()["data"]["text"]

    try:
        server.wait_until_ready()
        done = reload()
        assert done.returncode == 0, done.stderr
        assert done.stdout.startswith(f"{ENGINE.name} was loaded anew in ")

        (folder / ENGINE.file).unlink()
        done = reload()
        assert done.returncode == 2
        assert ENGINE.without in done.stderr
        assert "serves on" in done.stderr
        assert "young man" in transcribe().lower()

        (folder / ENGINE.file).symlink_to(weights / ENGINE.file)
        before = resident_mib(server)
        assert httpx2.post(f"{server.url}/admin/unload-model", timeout=30).json()["status"] == "unloaded"
        assert before - resident_mib(server) > ENGINE.memory_mib
        assert "young man" in transcribe().lower()
    finally:
        assert server.stop() == 0, server.log.read_text()
