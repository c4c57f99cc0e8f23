"""Qwen3-ASR in process, served: the tiny model knows its recordings, so transcripts are exact."""

from __future__ import annotations

import csv
import io
import json
import random
import subprocess
import sys
import wave
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import av
import httpx2
import numpy as np
import pytest

from conftest import RECORDINGS
from e2e.conftest import Server

FIXTURES = RECORDINGS.parent / "fixtures"
MODEL = FIXTURES / "tiny-qwen3-asr"

with (RECORDINGS / "manifest.tsv").open(encoding="utf-8", newline="") as stream:
    ROWS = [row for row in csv.DictReader(stream, delimiter="\t") if row["language"] in {"en", "zh"}]
SAID = {row["file"]: row["text"] for row in ROWS}


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    running = Server(
        tmp_path_factory.mktemp("qwen"),
        TINGDAO_MODEL=str(MODEL),
        TINGDAO_QWEN_DTYPE="float32",
    )
    running.wait_until_ready(120)
    yield running
    assert running.stop() == 0, running.log.read_text()


def send(server, recording, **fields):
    data = recording if isinstance(recording, bytes) else (RECORDINGS / recording).read_bytes()
    answer = httpx2.post(f"{server.url}/api/v1/transcribe", files={"file": data}, data=fields, timeout=120)
    assert answer.status_code == 200, answer.text
    return answer.json()["data"]


def as_wav(samples: np.ndarray) -> bytes:
    held = io.BytesIO()
    with wave.open(held, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(16_000)
        file.writeframes((samples * 32767).astype(np.int16).tobytes())
    return held.getvalue()


def samples_of(name: str) -> np.ndarray:
    with av.open(str(RECORDINGS / name)) as source:
        resampler = av.AudioResampler(format="flt", layout="mono", rate=16_000)
        frames = [part for frame in source.decode(audio=0) for part in resampler.resample(frame)]
    return np.concatenate([frame.to_ndarray()[0] for frame in [*frames, *resampler.resample(None)]])


def test_the_real_model_is_no_stand_in(server):
    health = httpx2.get(f"{server.url}/health").json()
    assert (health["status"], health["model"], health["stand_in"]) == ("ok", "tiny-qwen3-asr", False)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row["file"])
def test_each_recording_is_exact(server, row):
    data = send(server, row["file"])
    assert (data["text"], data["language"], data["model"]) == (row["text"], row["language"], "tiny-qwen3-asr")


@pytest.mark.parametrize("seed", range(3))
def test_batched_together_in_any_order(server, seed):
    order = random.Random(seed).sample(sorted(SAID), len(SAID))
    with ThreadPoolExecutor(len(order)) as pool:
        texts = list(pool.map(lambda name: send(server, name)["text"], order))
    assert texts == [SAID[name] for name in order]


def test_a_forced_language_and_a_prompt_do_not_change_what_was_said(server):
    assert send(server, "jfk.flac", language="en", prompt="Kennedy, inauguration")["text"] == SAID["jfk.flac"]
    data = send(server, "thchs30_masr_test.flac", language="zh")
    assert (data["text"], data["language"]) == (SAID["thchs30_masr_test.flac"], "zh")


def test_silence_and_noise_give_nothing(server):
    noise = 0.001 * np.random.default_rng(0).standard_normal(16_000 * 5)
    for samples in (np.zeros(16_000 * 3), noise):
        assert send(server, as_wav(samples)) == {
            "text": "",
            "language": None,
            "duration_sec": len(samples) / 16_000,
            "model": "tiny-qwen3-asr",
        }


def test_a_loop_is_stopped_and_flagged(server):
    # Played backwards, this recording makes the tiny model write "and and and …" without end.
    backwards = samples_of("librivox_ss_0880.flac")[::-1]
    data = send(server, as_wav(backwards), segments="true")
    assert len(data["text"]) < 100
    flags = {flag for segment in data["segments"] for flag in segment["flags"]}
    assert flags & {"looped", "retried"}


def test_without_an_aligner_words_say_how_to_get_one(tmp_path):
    own = Server(tmp_path / "own", TINGDAO_MODEL=str(MODEL))
    try:
        own.wait_until_ready(120)
        answer = httpx2.post(
            f"{own.url}/api/v1/transcribe",
            files={"file": (RECORDINGS / "jfk.flac").read_bytes()},
            data={"words": "true"},
            timeout=60,
        )
        assert (answer.status_code, answer.json()["error"]) == (400, "unsupported_option")
        assert "tingdao download aligner" in answer.json()["message"]
    finally:
        own.stop()


def test_command_line(tmp_path):
    names = ["jfk.flac", "thchs30_masr_test.flac", "cards_001.flac"]
    done = subprocess.run(
        [sys.executable, "-m", "tingdao.cli", "transcribe", "--model", str(MODEL), "--dtype", "float32",
         *(str(RECORDINGS / name) for name in names), "-o", str(tmp_path / "out"), "--format", "json"],
        capture_output=True, check=False, timeout=120,
        env={"PATH": "/usr/bin:/bin", "TINGDAO_STATE_DIR": str(tmp_path)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr.decode()

    for name in names:
        text = json.loads((tmp_path / "out" / f"{Path(name).stem}.json").read_text(encoding="utf-8"))["text"]
        assert text == SAID[name]


def test_memory_does_not_grow(server):
    def resident() -> float:
        status = Path(f"/proc/{server.process.pid}/status").read_text()
        return int(status.split("VmRSS:")[1].split()[0]) / 1024

    audio = (RECORDINGS / "cards_001.flac").read_bytes()

    def rounds(count):
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda _: send(server, audio), range(count)))

    rounds(200)  # buffers, pools and threads come to their size
    before = resident()
    rounds(800)
    assert resident() - before < 40
