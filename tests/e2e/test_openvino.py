"""Qwen3-ASR on a CPU, served: converted when it is first loaded, and exact through HTTP, with no PyTorch at all."""

from __future__ import annotations

import random
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import httpx2
import pytest

from e2e.conftest import Server
from tiny_qwen import RECORDINGS, TRAINED, spoken_files, write_original

SAID = spoken_files()


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    root = tmp_path_factory.mktemp("openvino")
    # As if they were not installed.
    (root / "sitecustomize.py").write_text("import sys; sys.modules['torch'] = sys.modules['transformers'] = None")
    running = Server(
        root / "state",
        TINGDAO_QWEN_FOLDERS=f'{{"mine": "{write_original(root / "mine")}"}}',
        TINGDAO_QWEN_RUNTIME="openvino",
        PYTHONPATH=str(root),
    )
    running.wait_until_ready(120)
    yield running
    assert running.stop() == 0, running.log.read_text()


def send(server, name, **fields):
    audio = (RECORDINGS / name).read_bytes()
    answer = httpx2.post(f"{server.url}/api/v1/transcribe", files={"file": audio}, data=fields, timeout=120)
    assert answer.status_code == 200, answer.text
    return answer.json()["data"]


def test_it_is_the_default_where_weights_are_and_is_converted_once(server):
    health = httpx2.get(f"{server.url}/health").json()
    assert (health["status"], health["model"], health["stand_in"]) == ("ok", "mine", False)
    said = [line for line in server.lines() if line["message"] == "weights loaded"]
    assert [(line["runtime"], line["precision"]) for line in said] == [("openvino", "int8")]
    assert [file.name for file in (server.state / "models").iterdir()] == ["mine-int8"]


@pytest.mark.parametrize("name", sorted(SAID))
def test_each_recording_is_exact(server, name):
    data = send(server, name)
    assert (data["text"], data["language"], data["model"]) == (*SAID[name], "mine")


@pytest.mark.parametrize("seed", range(3))
def test_batched_together_in_any_order(server, seed):
    order = random.Random(seed).sample(sorted(SAID), len(SAID))
    with ThreadPoolExecutor(len(order)) as pool:
        texts = list(pool.map(lambda name: send(server, name)["text"], order))
    assert texts == [SAID[name][0] for name in order]


def test_a_converted_folder_serves_from_the_command_line(tmp_path):
    four = tmp_path / "four"
    environment = {"PATH": "/usr/bin:/bin", "TINGDAO_STATE_DIR": str(tmp_path)}
    for arguments in (["convert", str(TRAINED), "--int4", "--to", str(four)],
                      ["transcribe", "--model", str(four), str(RECORDINGS / "jfk.flac")]):  # fmt: skip
        done = subprocess.run(
            [sys.executable, "-m", "tingdao.cli", *arguments],
            capture_output=True, check=False, timeout=120, env=environment, text=True,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == SAID["jfk.flac"][0]
