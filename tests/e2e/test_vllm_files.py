"""Recordings that a real vLLM gets as they came: it says of them what it says of what the pipeline made of them."""

from __future__ import annotations

import csv
import io
import json
import wave

import av
import httpx2
import numpy as np
import pytest

from conftest import RECORDINGS
from e2e.conftest import Server

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(2400)]  # the first time vLLM is installed

with (RECORDINGS / "manifest.tsv").open(encoding="utf-8", newline="") as stream:
    LANGUAGES = {row["file"]: row["language"] for row in csv.DictReader(stream, delimiter="\t")}


@pytest.fixture(scope="module")
def servers(vllm, tmp_path_factory):
    """Tingdao with the setting, and without."""
    running = [
        Server(
            tmp_path_factory.mktemp(name),
            TINGDAO_VLLM_UPSTREAMS=json.dumps([vllm.url]),
            TINGDAO_VLLM_PASS_THROUGH_S=seconds,
            TINGDAO_LOG_LEVEL="info",
        )
        for name, seconds in (("passing", "15"), ("decoding", "0"))
    ]
    for each in running:
        each.wait_until_ready(60)
    yield running
    for each in running:
        assert each.stop() == 0, each.log.read_text()


def wav(data, *, bits):
    """A FLAC of 16 bits as WAV of another depth."""
    with av.open(io.BytesIO(data)) as file:
        samples = np.concatenate([frame.to_ndarray()[0] for frame in file.decode(audio=0)])
    held = io.BytesIO()
    with wave.open(held, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(bits // 8)
        file.setframerate(16_000)
        wide = samples.astype("<i4") << (bits - 16)
        file.writeframes(wide.tobytes() if bits == 32 else wide.view(np.uint8).reshape(-1, 4)[:, : bits // 8].tobytes())
    return held.getvalue()


def heard(server, data, **fields):
    answer = httpx2.post(f"{server.url}/api/v1/transcribe", files={"file": data}, data=fields, timeout=120)
    assert answer.status_code == 200, answer.text
    return answer.json()["data"]


def requests(server):
    """What the log says of each."""
    lines = [json.loads(line) for line in server.log.read_text().splitlines() if line.startswith("{")]
    return [line for line in lines if line["message"] == "request" and line["route"] == "/api/v1/transcribe"]


@pytest.mark.parametrize("kind", ["flac", "wav 16", "wav 24", "told"])
def test_the_same_as_decoded_here(servers, kind):
    passing, decoding = servers
    before = len(requests(passing))
    for name, language in LANGUAGES.items():
        data = (RECORDINGS / name).read_bytes()
        if kind.startswith("wav"):
            data = wav(data, bits=int(kind[4:]))
        fields = {"language": language} if kind == "told" else {}
        assert heard(passing, data, **fields) == heard(decoding, data, **fields), name
    logged = requests(passing)[before:]
    assert len(logged) == len(LANGUAGES)
    passed = [line for line in logged if line["decode_ms"] == 0]
    assert len(passed) == len(LANGUAGES)
    assert all(line["clips"] == 1 for line in passed)
    assert all(line["decode_ms"] > 0 for line in requests(decoding))


def test_silence_is_answered_by_the_pipeline(servers):
    quiet = np.random.default_rng(1).normal(0, 1e-4, 48_000)
    held = io.BytesIO()
    with av.open(held, "w", format="flac") as file:
        stream = file.add_stream("flac", rate=16_000, layout="mono")
        frame = av.AudioFrame.from_ndarray((quiet * 32_768).astype(np.int16)[np.newaxis], format="s16", layout="mono")
        frame.sample_rate = 16_000
        file.mux([*stream.encode(frame), *stream.encode(None)])
    assert heard(servers[0], held.getvalue()) == heard(servers[1], held.getvalue())
