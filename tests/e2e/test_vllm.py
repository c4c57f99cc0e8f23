"""Tingdao in front of a real vLLM with the tiny model, which says the same there as in this process."""

from __future__ import annotations

import asyncio
import base64
import csv
import json
import subprocess
import sys
import time
from contextlib import asynccontextmanager

import httpx2
import numpy as np
import pytest

from conftest import RECORDINGS
from e2e.conftest import Server
from e2e.vllm_cpu import MODEL
from tingdao.engines.base import Ask
from tingdao.engines.qwen.engine import QwenEngine
from tingdao.engines.vllm.engine import VllmEngine
from tingdao.settings import QwenSettings, VllmSettings
from tingdao.types import Clip
from tiny_qwen import spoken, spoken_files

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(2400)]  # the first time vLLM is installed

with (RECORDINGS / "manifest.tsv").open(encoding="utf-8", newline="") as stream:
    ROWS = [row for row in csv.DictReader(stream, delimiter="\t") if row["language"] in {"en", "zh"}]
SAID = {row["file"]: row["text"] for row in ROWS}
JFK = SAID["jfk.flac"]


@pytest.fixture(scope="module")
def server(vllm, tmp_path_factory):
    running = Server(
        tmp_path_factory.mktemp("gateway"),
        TINGDAO_VLLM_UPSTREAMS=json.dumps([vllm.url]),
        TINGDAO_VLLM_WIDTH="4",
        TINGDAO_LOG_LEVEL="info",
    )
    running.wait_until_ready(60)
    yield running
    assert running.stop() == 0, running.log.read_text()


@asynccontextmanager
async def both(url):
    """The model on the server, and in this process."""
    there = VllmEngine(VllmSettings(upstreams=[url], width=4))
    here = QwenEngine.load(MODEL, "tiny", QwenSettings(device="cpu", dtype="float32"))
    try:
        await there.open()
        assert there.trouble is None
        yield there, here
    finally:
        await there.close()
        await here.close()


def test_the_same_as_in_this_process(vllm):
    clips = spoken()
    clip, text, language = next(each for each in clips if each[1] == JFK)
    # Played backwards, this recording makes the tiny model write "and and and …" without end.
    backwards = Clip(clips[list(spoken_files()).index("librivox_ss_0880.flac")][0].samples[::-1].copy())
    asks = [(each, Ask()) for each, _, _ in clips]
    asks += [(each, Ask(language=code)) for each, _, code in clips]
    asks += [
        (clip, Ask(context="Kennedy, inauguration")),
        (clip, Ask(language=language, prefix=text[:9])),
        (clip, Ask(prefix=text[:9])),
        (clip, Ask(max_tokens=20)),
        (Clip(np.zeros(16_000 * 3, np.float32)), Ask()),
        (backwards, Ask()),
        (backwards, Ask(language="en")),
    ]

    async def main():
        async with both(vllm.url) as (there, here):
            heard = await asyncio.gather(*(there.recognise(*each) for each in asks))
            expected = await asyncio.gather(*(here.recognise(*each) for each in asks))
            for each, got, wanted in zip(asks, heard, expected, strict=True):
                if each[1].context:  # its template leaves out the empty line's tokens; the text is what counts
                    assert got.text == wanted.text
                else:
                    assert got == wanted, each[1]
            parts = [part async for part in there.recognise_stream(clip, Ask())]
            assert "".join(part.delta for part in parts) == parts[-1].final.text == text
            assert len(parts) > 10

    asyncio.run(main())


def post(server, path, name, **fields):
    answer = httpx2.post(
        f"{server.url}{path}", files={"file": (RECORDINGS / name).read_bytes()}, data=fields, timeout=120
    )
    assert answer.status_code == 200, answer.text
    return answer


def test_every_dialect(server):
    for row in ROWS[:4]:
        data = post(server, "/api/v1/transcribe", row["file"]).json()["data"]
        assert (data["text"], data["language"], data["model"]) == (row["text"], row["language"], "qwen3-asr")
    path = "/v1/audio/transcriptions"
    assert post(server, path, "jfk.flac", model="whisper-1", language="en").json()["text"] == JFK
    assert JFK[:20] in post(server, path, "jfk.flac", model="qwen3-asr", response_format="srt").text
    events = post(server, path, "jfk.flac", model="qwen3-asr", stream="true").text
    assert "transcript.text.delta" in events
    done = [json.loads(line[6:]) for line in events.splitlines() if line.startswith("data: {")][-1]
    assert (done["type"], done["text"]) == ("transcript.text.done", JFK)

    url = f"data:audio/flac;base64,{base64.b64encode((RECORDINGS / 'jfk.flac').read_bytes()).decode()}"
    message = {"role": "user", "content": [{"type": "audio_url", "audio_url": {"url": url}}]}
    chat = httpx2.post(
        f"{server.url}/v1/chat/completions", json={"model": "qwen3-asr", "messages": [message]}, timeout=120
    ).json()
    assert chat["choices"][0]["message"]["content"] == f"language English<asr_text>{JFK}"
    assert chat["usage"]["completion_tokens"] > 20


def test_what_it_can_is_shown(server, vllm):
    (card,) = [each for each in httpx2.get(f"{server.url}/v1/models").json()["data"] if each["id"] == "qwen3-asr"]
    assert card["can"] == ["context", "force_language", "stream"]
    check = subprocess.run(
        [sys.executable, "-m", "tingdao.cli", "check"],
        env={"PATH": "", "TINGDAO_VLLM_UPSTREAMS": json.dumps([vllm.url]), "TINGDAO_STATE_DIR": str(server.state)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert f"vLLM at {vllm.url} recognises: vLLM 0." in check.stdout


def test_who_leaves_frees_vllm_within_a_second(server, vllm):
    async def main():
        body = (RECORDINGS / "jfk.flac").read_bytes()
        async with httpx2.AsyncClient(timeout=120) as client:
            for _ in range(5):
                calls = [
                    asyncio.create_task(client.post(f"{server.url}/api/v1/transcribe", files={"file": body}))
                    for _ in range(12)
                ]
                end = time.monotonic() + 20
                while not await asyncio.to_thread(vllm.running):
                    assert time.monotonic() < end
                for call in calls:
                    call.cancel()
                left = time.monotonic()
                ended = await asyncio.gather(*calls, return_exceptions=True)
                if sum(isinstance(each, asyncio.CancelledError) for each in ended) < 6:
                    continue  # most were answered before
                while await asyncio.to_thread(vllm.running):
                    assert time.monotonic() - left < 1
                    await asyncio.sleep(0.02)
                return
        raise AssertionError("vLLM was too fast to be left")

    asyncio.run(main())
    assert post(server, "/api/v1/transcribe", "jfk.flac").json()["data"]["text"] == JFK
