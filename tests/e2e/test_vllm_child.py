"""A real vLLM that the service starts, watches and ends itself."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import httpx2
import pytest

from conftest import RECORDINGS
from e2e.conftest import Server
from e2e.test_vllm import JFK
from e2e.vllm_cpu import ENVIRONMENT, MODEL, OPTIONS, READY_SECONDS, installed

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(2400)]  # the first time vLLM is installed


def processes(marker):
    """Those with a word in their environment, their command lines by process id: vLLM's rename themselves."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if marker.encode() in (folder / "environ").read_bytes():
                found[int(folder.name)] = (folder / "cmdline").read_text().replace("\0", " ")
        except OSError:
            continue
    return found


def vllm(marker):
    """The process that was started as `vllm serve`."""
    found = processes(marker).items()
    (pid,) = [pid for pid, command in found if "vllm serve" in command and "keeper.py" not in command]
    return pid


def until_ready(server, status="ok"):
    """Wait for the service; gives what it said of itself meanwhile."""
    said, deadline = [], time.monotonic() + READY_SECONDS
    while time.monotonic() < deadline:
        health = httpx2.get(f"{server.url}/health").json()
        if health["status"] == status:
            return said
        said.append(httpx2.get(f"{server.url}/admin/status").json()["models"][0]["reason"])
        time.sleep(0.1)
    raise AssertionError(server.log.read_text()[-5000:])


def heard(server):
    """What it makes of a recording."""
    file = {"file": (RECORDINGS / "jfk.flac").read_bytes()}
    answer = httpx2.post(f"{server.url}/api/v1/transcribe", files=file, timeout=120)
    assert answer.status_code == 200, answer.text
    return answer.json()["data"]["text"]


@pytest.fixture
def marker():
    return f"test-{os.getpid()}-{time.monotonic_ns()}"


@pytest.fixture
def server(tmp_path, marker):
    command = ("-m", "tingdao.cli", "serve", "--port", "0", "--engine", "vllm", "--model", str(MODEL), "--", *OPTIONS)
    running = Server(
        tmp_path / "state",
        command,
        TINGDAO_VLLM_COMMAND=str(installed().with_name("vllm")),
        TINGDAO_VLLM_WIDTH="4",
        OF_TEST=marker,
        **ENVIRONMENT,
    )
    yield running
    running.stop(signal.SIGKILL)


def test_it_comes_up_comes_back_and_goes_with_the_service(server, marker):
    said = until_ready(server)
    assert any(re.search(r"vLLM: It is starting, \d+ s so far: \w", reason or "") for reason in said), said
    assert heard(server) == JFK
    lines = [line for line in server.lines() if line["logger"] == "tingdao.engines.vllm.child"]
    assert {"vLLM starts", "vLLM ready"} <= {line["message"] for line in lines}
    assert not [line for line in server.lines() if line["level"] == "error"]

    before = set(processes(marker))
    os.kill(vllm(marker), signal.SIGKILL)
    until_ready(server, "failed")
    until_ready(server)
    assert heard(server) == JFK
    # Nothing of the first one is left, its engine neither, which holds the memory.
    assert before & set(processes(marker)) == {server.process.pid}

    assert server.stop() == 0, server.log.read_text()
    assert processes(marker) == {}


def test_it_does_not_outlive_a_service_that_is_killed(server, marker):
    until_ready(server)
    server.process.kill()
    deadline = time.monotonic() + 20
    while processes(marker):
        assert time.monotonic() < deadline, processes(marker)
        time.sleep(0.1)


def test_a_stop_in_the_middle_of_a_start_is_not_held_up(server, marker):
    deadline = time.monotonic() + 60
    while not any("vllm" in command for command in processes(marker).values()):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    began = time.monotonic()
    assert server.stop() == 0
    assert time.monotonic() - began < 15
    assert processes(marker) == {}


def test_check_says_which_vllm(tmp_path):
    program = installed().with_name("vllm")
    check = subprocess.run(
        [sys.executable, "-m", "tingdao.cli", "check"],
        env=os.environ
        | ENVIRONMENT
        | {"TINGDAO_VLLM_COMMAND": str(program), "TINGDAO_VLLM_SERVE": str(MODEL), "TINGDAO_STATE_DIR": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert re.search(rf"✓ vLLM 0\.\d+\.\d+\S* in {program} would serve {MODEL}", check.stdout), check.stdout
