"""Chat with audio as its clients send it: the documented requests, the official client, URLs, memory."""

from __future__ import annotations

import base64
import contextlib
import io
import json
import re
import time
import wave
from pathlib import Path

import httpx2
import numpy as np
import openai
import pytest
from faster_whisper import decode_audio

from conftest import RECORDINGS
from e2e.conftest import ENGINE, Server

JFK = RECORDINGS / "jfk.flac"
SAID = "and so my fellow americans ask not what your country can do for you ask what you can do for your country"


def plain(text: str) -> str:
    return re.sub(r"[^\w\s]", "", text.lower()).strip()


def data_url(recording: bytes, kind: str = "audio/flac") -> str:
    return f"data:{kind};base64,{base64.b64encode(recording).decode()}"


def user(part: dict) -> list[dict]:
    return [{"role": "user", "content": [part]}]


def wav(samples: np.ndarray, rate: int, channels: int) -> bytes:
    """Mono float32 samples at 16 kHz as PCM in a file of another rate, every channel the same."""
    times = rate // 16_000
    pcm = (np.repeat(samples, times * channels) * 32767).astype("<i2")
    body = io.BytesIO()
    with wave.open(body, "wb") as file:
        file.setnchannels(channels)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(pcm.tobytes())
    return body.getvalue()


@pytest.fixture(scope="module")
def beside(weights, files, tmp_path_factory):
    """A service that may fetch from the file server beside it."""
    running = Server(
        tmp_path_factory.mktemp("beside"),
        TINGDAO_EMBEDDED_PATH=str(weights),
        TINGDAO_FETCH_ALLOW=json.dumps([files]),
        TINGDAO_ALIASES=json.dumps({"qwen3-asr": "default"}),
    )
    running.wait_until_ready()
    yield running
    assert running.stop() == 0, running.log.read_text()


class TestDocumentedRequests:
    """The request with both kinds of URL, and the answer whole and in chunks."""

    @pytest.fixture(params=["http", "data"])
    def request_(self, request, files):
        url = f"http://{files}/jfk.flac" if request.param == "http" else data_url(JFK.read_bytes())
        return {
            "model": "qwen3-asr",
            "stream": False,
            "messages": user({"type": "audio_url", "audio_url": {"url": url}}),
            "asr_options": {
                "language": "auto",
                "custom_vocabulary_word": [{"word": "不二家", "sounds_like": ["bu er jia"]}],
            },
        }

    def test_whole(self, beside, request_):
        answer = httpx2.post(f"{beside.url}/v1/chat/completions", json=request_, timeout=120)
        assert answer.status_code == 200, answer.text
        body = answer.json()
        assert body["object"] == "chat.completion"
        language, tag, text = body["choices"][0]["message"]["content"].partition("<asr_text>")
        assert (language, tag, plain(text)) == ("language English", "<asr_text>", SAID)
        assert body["usage"]["total_tokens"] == body["usage"]["prompt_tokens"] + body["usage"]["completion_tokens"]
        assert body["usage"]["completion_tokens"] > 20
        assert beside.temporary_files() == []

    def test_in_chunks(self, beside, request_):
        request_["stream"] = True
        content, lines = "", []
        with httpx2.stream("POST", f"{beside.url}/v1/chat/completions", json=request_, timeout=120) as answer:
            assert answer.headers["content-type"].startswith("text/event-stream")
            lines = [line for line in answer.iter_lines() if line]
        assert lines[-1] == "data: [DONE]"
        for line in lines[:-1]:
            chunk = json.loads(line.removeprefix("data: "))
            assert chunk["object"] == "chat.completion.chunk"
            content += chunk["choices"][0]["delta"].get("content", "")
        language, _, text = content.partition("<asr_text>")
        assert (language, plain(text)) == ("language English", SAID)
        assert beside.temporary_files() == []

    def test_a_url_that_is_not_allowed(self, server, files):
        request = {"messages": user({"type": "audio_url", "audio_url": {"url": f"http://{files}/jfk.flac"}})}
        answer = httpx2.post(f"{server.url}/v1/chat/completions", json=request, timeout=60)
        assert (answer.status_code, answer.json()["error"]["code"]) == (400, "url_not_allowed")

    def test_a_url_with_nothing_behind(self, beside, files):
        for stream in (False, True):
            part = {"type": "input_audio", "input_audio": {"data": f"http://{files}/missing.wav"}}
            request = {"messages": user(part), "stream": stream}
            answer = httpx2.post(f"{beside.url}/v1/chat/completions", json=request, timeout=60)
            assert (answer.status_code, answer.json()["error"]["code"]) == (422, "fetch_failed")


class TestOpenAIClient:
    """The `openai` package, unchanged but for the address."""

    @pytest.fixture
    def chat(self, server):
        with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:
            yield client.chat.completions

    def test_audio_url(self, chat):
        part = {"type": "audio_url", "audio_url": {"url": data_url(JFK.read_bytes())}}
        answer = chat.create(model="default", messages=user(part))
        assert answer.model == ENGINE.name
        assert plain(answer.choices[0].message.content) == f"language englishasr_text{SAID}"
        assert answer.usage.completion_tokens > 20

    def test_input_audio_with_context_and_language(self, chat):
        system = {"role": "system", "content": "Kennedy, Americans"}
        part = {"type": "input_audio", "input_audio": {"data": base64.b64encode(JFK.read_bytes()).decode(),
                                                       "format": "wav"}}  # fmt: skip
        answer = chat.create(
            model="default",
            messages=[system, *user(part)],
            temperature=0,
            extra_body={"asr_options": {"language": "en", "content": "text"}},
        )
        assert plain(answer.choices[0].message.content) == SAID

    def test_the_form_of_dashscope_in_chinese(self, chat):
        recording = (RECORDINGS / "hsk_hsk1-0166.flac").read_bytes()
        part = {"type": "input_audio", "input_audio": {"data": data_url(recording, "audio/wav")}}
        answer = chat.create(
            model="default", messages=user(part), extra_body={"asr_options": {"language": "zh", "enable_itn": False}}
        )
        assert "喜欢这本课本" in answer.choices[0].message.content
        assert answer.choices[0].message.content.startswith("我")
        assert answer.choices[0].message.annotations[0].language == "zh"
        assert answer.usage.seconds == pytest.approx(2.41, abs=0.01)

    def test_stream_with_usage(self, chat):
        part = {"type": "audio_url", "audio_url": {"url": data_url(JFK.read_bytes())}}
        chunks = list(
            chat.create(model="default", messages=user(part), stream=True, stream_options={"include_usage": True})
        )
        assert chunks[0].choices[0].delta.role == "assistant"
        content = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
        assert plain(content) == f"language englishasr_text{SAID}"
        assert chunks[-2].choices[0].finish_reason == "stop"
        assert (chunks[-1].choices, chunks[-1].usage.completion_tokens > 20) == ([], True)

    def test_a_language_forced_as_with_vllm(self, chat):
        part = {"type": "audio_url", "audio_url": {"url": data_url(JFK.read_bytes())}}
        answer = chat.create(
            model="default",
            messages=[*user(part), {"role": "assistant", "content": "language English<asr_text>"}],
            extra_body={"continue_final_message": True, "add_generation_prompt": False},
        )
        assert plain(answer.choices[0].message.content) == SAID

    def test_errors(self, chat):
        with pytest.raises(openai.BadRequestError) as caught:
            chat.create(model="default", messages=[{"role": "user", "content": "Hello!"}])
        assert (caught.value.code, caught.value.param) == ("invalid_request", "messages")
        part = {"type": "audio_url", "audio_url": {"url": data_url(b"not audio at all " * 1000)}}
        for stream in (False, True):
            with pytest.raises(openai.BadRequestError) as caught:
                chat.create(model="default", messages=user(part), stream=stream)
            assert caught.value.code == "unsupported_audio"
        with pytest.raises(openai.NotFoundError):
            chat.create(model="gpt-9", messages=user({"type": "audio_url", "audio_url": {"url": "https://a.example"}}))


@pytest.fixture(scope="module")
def minutes():
    """Somewhat more than a minute of speech, with pauses; more where it is recognised in no time."""
    speech = decode_audio(str(JFK))
    pause = np.zeros(2 * 16_000, np.float32)
    return wav(np.concatenate([speech, pause] * 5 * ENGINE.quick), 16_000, 1)


def test_the_first_text_comes_long_before_the_last(server, minutes):
    part = {"type": "audio_url", "audio_url": {"url": data_url(minutes, "audio/wav")}}
    began = time.monotonic()
    with httpx2.stream(
        "POST", f"{server.url}/v1/chat/completions", json={"messages": user(part), "stream": True}, timeout=120
    ) as answer:
        times = [time.monotonic() - began for line in answer.iter_lines() if '"content"' in line]
    assert times[0] < 0.7 * times[-1]


def in_flight(server) -> float:
    return float(re.search(r"^tingdao_in_flight (.*)", httpx2.get(f"{server.url}/metrics").text, re.MULTILINE)[1])


def test_a_client_that_leaves_a_stream_frees_the_service(server, minutes):
    part = {"type": "audio_url", "audio_url": {"url": data_url(minutes, "audio/wav")}}
    with (
        contextlib.closing(httpx2.Client(timeout=120)) as client,
        client.stream(
            "POST", f"{server.url}/v1/chat/completions", json={"messages": user(part), "stream": True}
        ) as answer,
    ):
        lines = answer.iter_lines()  # kept: letting go of it is leaving
        next(lines)
        assert in_flight(server) == 1
    deadline = time.monotonic() + 5
    while in_flight(server):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    assert server.temporary_files() == []


def test_25_megabytes_cost_no_multiple_of_themselves(weights, tmp_path):
    """The peak of a request with 25 MB against that of one with the same speech and little silence."""
    speech = decode_audio(str(JFK))
    own = Server(tmp_path / "own", TINGDAO_EMBEDDED_PATH=str(weights))
    try:
        own.wait_until_ready()
        sizes, peaks = [], []
        for length in (len(speech) + 16_000, 25_000_000 // 12):  # 12 bytes: a sample as 3 frames of 48 kHz in stereo
            samples = np.zeros(length, np.float32)
            samples[: len(speech)] = speech
            recording = wav(samples, 48_000, 2)
            body = {"messages": user({"type": "audio_url", "audio_url": {"url": data_url(recording, "audio/wav")}})}
            for _ in range(2):  # what is only needed once is there the second time
                Path(f"/proc/{own.process.pid}/clear_refs").write_text("5")  # the peak begins anew
                answer = httpx2.post(f"{own.url}/v1/chat/completions", json=body, timeout=120).json()
                assert SAID in plain(answer["choices"][0]["message"]["content"])
            sizes.append(len(recording))
            peaks.append(own.memory_mib() * 1024 * 1024)
        grown = peaks[1] - peaks[0]
        assert sizes[1] >= 25_000_000 - 12
        assert grown <= 2 * sizes[1], f"{grown / 1e6:.1f} MB for {sizes[1] / 1e6:.1f} MB"
        assert own.temporary_files() == []
    finally:
        own.stop()
