"""Tingdao in front of real vLLM servers with the tiny model, which says the same there as in this process."""

from __future__ import annotations

import asyncio
import base64
import json
import re
import signal
import subprocess
import sys
import time
from contextlib import asynccontextmanager

import httpx2
import numpy as np
import openai
import pytest

from conftest import RECORDINGS
from e2e.conftest import Server
from e2e.vllm_cpu import MODEL, VllmServer
from media import wav
from tingdao.engines.base import Ask
from tingdao.engines.qwen.engine import QwenEngine
from tingdao.engines.vllm.engine import VllmEngine
from tingdao.settings import QwenSettings, VllmSettings
from tingdao.types import Clip
from tiny_qwen import spoken, spoken_files

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(1200)]  # the first time vLLM is installed

SAID = spoken_files()
JFK, _ = SAID["jfk.flac"]
KEY = "k3y-of-the-second"
FORCED = {"continue_final_message": True, "add_generation_prompt": False}


@pytest.fixture(scope="module")
def server(vllm, files, tmp_path_factory):
    """The service in front of vLLM."""
    running = Server(
        tmp_path_factory.mktemp("gateway"),
        TINGDAO_VLLM_UPSTREAMS=json.dumps([vllm.url]),
        TINGDAO_VLLM_WIDTH="4",
        TINGDAO_FETCH_ALLOW=json.dumps([files]),
        TINGDAO_LOG_LEVEL="info",
    )
    running.wait_until_ready(60)
    yield running
    assert running.stop() == 0, running.log.read_text()


@pytest.fixture(scope="module")
def alone(files, tmp_path_factory):
    """The service with the same model in its own process."""
    running = Server(
        tmp_path_factory.mktemp("alone"),
        TINGDAO_QWEN_FOLDERS=json.dumps({"qwen3-asr": str(MODEL)}),
        TINGDAO_QWEN_RUNTIME="torch",
        TINGDAO_QWEN_DEVICE="cpu",
        TINGDAO_QWEN_DTYPE="float32",
        TINGDAO_FETCH_ALLOW=json.dumps([files]),
    )
    running.wait_until_ready(120)
    yield running
    assert running.stop() == 0, running.log.read_text()


@pytest.fixture(scope="module")
def second(tmp_path_factory):
    """One that asks for a key, and whose template leaves out the assistant, as that of `Qwen/Qwen3-ASR-*` does."""
    folder = tmp_path_factory.mktemp("second")
    whole = (MODEL / "chat_template.jinja").read_text()
    template, count = re.subn(
        r"(?s)\{%- for message in messages if message.role == 'assistant'.*?endfor -%\}\n", "", whole
    )
    assert count == 1
    (folder / "template.jinja").write_text(template)
    running = VllmServer(folder, "--api-key", KEY, "--chat-template", str(folder / "template.jinja"))
    yield running
    running.stop()


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
    backwards = Clip(clips[list(SAID).index("librivox_ss_0880.flac")][0].samples[::-1].copy())
    asks = [(each, Ask()) for each, _, _ in clips]
    asks += [(each, Ask(language=code)) for each, _, code in clips]
    asks += [(each, Ask(prefix=said[:9])) for each, said, _ in clips]
    asks += [
        (clip, Ask(context="Kennedy, inauguration")),
        (clip, Ask(language=language, prefix=text[:9])),
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
                if wanted.ended == "loop":  # a busy server sends several words at once
                    assert got.ended == "loop"
                    assert got.text.startswith(wanted.text)
                elif each[1].context:  # its template leaves out the empty line's tokens; the text is what counts
                    assert got.text == wanted.text
                else:
                    assert got == wanted, each[1]
            for (_, said, _), got in zip(clips, heard, strict=False):
                assert got.text == said
            for _ in range(10):  # what came while this process had to wait is one part
                parts = [part async for part in there.recognise_stream(clip, Ask())]
                assert "".join(part.delta for part in parts) == parts[-1].final.text == text
                if len(parts) > 10:
                    return
            raise AssertionError("the text does not come piece by piece")

    asyncio.run(main())


def user(part):
    return {"role": "user", "content": [part]}


def audio_url(url):
    return {"type": "audio_url", "audio_url": {"url": url}}


def inline(name="jfk.flac"):
    return base64.b64encode((RECORDINGS / name).read_bytes()).decode()


def chunks(stream):
    """What a chat stream comes to: its whole content, how it ended, and its usage."""
    got = list(stream)
    assert len(got) > 3
    content = "".join(chunk.choices[0].delta.content or "" for chunk in got if chunk.choices)
    return content, got[-2].choices[0].finish_reason, got[-1].usage.model_dump()


def minute():
    """Some 65 s of speech with pauses: several clips."""
    (clip,) = [each for each, text, _ in spoken() if text == JFK]
    samples = np.concatenate([clip.samples, np.zeros(2 * 16_000, np.float32)] * 5)
    return wav((samples * 32_767).astype("<i2").tobytes())


def answers(url, files):
    """What each dialect of a service says, without what differs between two requests."""
    recording = ("jfk.flac", (RECORDINGS / "jfk.flac").read_bytes())
    user_data = audio_url(f"data:audio/flac;base64,{inline()}")
    lead = {"role": "assistant", "content": "language English<asr_text>"}
    context = {"role": "system", "content": "Kennedy, inauguration"}

    def native(**parts):
        answer = httpx2.post(f"{url}/api/v1/transcribe", files=parts, timeout=120)
        assert answer.status_code == 200, answer.text
        return answer.json()

    with openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0, timeout=120) as client:

        def transcribe(**fields):
            answer = client.audio.transcriptions.create(**{"model": "default", "file": recording} | fields)
            return answer if isinstance(answer, str) else answer.model_dump()

        def chat(*messages, **fields):
            answer = client.chat.completions.create(model="default", messages=messages, **fields)
            if fields.get("stream"):
                return chunks(answer)
            return answer.choices[0].model_dump(), answer.usage.model_dump()

        yield "json", transcribe()
        yield "json, language", transcribe(language="en")
        yield "json, prompt", transcribe(prompt="Kennedy, inauguration")
        for kind in ("verbose_json", "text", "srt", "vtt"):
            yield kind, transcribe(response_format=kind)
        events = list(client.audio.transcriptions.create(model="default", file=minute(), stream=True))
        deltas = [event.delta for event in events if event.type == "transcript.text.delta"]
        assert len(deltas) > 2
        yield "json, stream", ("".join(deltas), events[-1].model_dump())
        yield "chat", chat(user(user_data))
        stream = {"stream": True, "stream_options": {"include_usage": True}}
        several = audio_url(f"data:audio/wav;base64,{base64.b64encode(minute()).decode()}")
        yield "chat, stream", chat(user(several), **stream)
        yield "chat, base64", chat(user({"type": "input_audio", "input_audio": {"data": inline(), "format": "flac"}}))
        yield "chat, URL", chat(user(audio_url(f"http://{files}/jfk.flac")))
        yield "chat, language", chat(user(user_data), lead, extra_body=FORCED)
        yield "chat, language, stream", chat(user(user_data), lead, extra_body=FORCED, **stream)
        yield "chat, context", chat(context, user(user_data))[0]  # its prompt has two tokens less there
    for name in SAID:
        yield name, native(file=(RECORDINGS / name).read_bytes(), segments=(None, "true"))
    yield "native, URL", native(url=(None, f"http://{files}/jfk.flac"))
    yield "several clips", native(file=minute(), segments=(None, "true"))


def test_every_dialect_says_the_same_as_with_the_model_in_process(server, alone, files):
    got, wanted = dict(answers(server.url, files)), dict(answers(alone.url, files))
    assert list(got) == list(wanted)
    for name, said in wanted.items():
        assert got[name] == said, name
    for name, (text, language) in SAID.items():
        assert (got[name]["data"]["text"], got[name]["data"]["language"]) == (text, language)
    assert got["several clips"]["data"]["text"].count("ask not what your country") == 5
    assert got["chat"][0]["message"]["content"] == f"language English<asr_text>{JFK}"
    assert got["chat, language"][0]["message"]["content"] == got["json"]["text"] == JFK
    assert got["json, stream"][0] == got["several clips"]["data"]["text"]
    assert got["chat, stream"][2]["completion_tokens"] > 20


def check(*upstreams, **environment):
    """What `tingdao check` prints."""
    return subprocess.run(
        [sys.executable, "-m", "tingdao.cli", "check"],
        env={"PATH": "", "TINGDAO_STATE_DIR": "/nowhere", "TINGDAO_VLLM_UPSTREAMS": json.dumps(upstreams)}
        | environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    ).stdout


def test_what_it_can_is_shown(server, vllm):
    (card,) = [each for each in httpx2.get(f"{server.url}/v1/models").json()["data"] if each["id"] == "qwen3-asr"]
    assert card["can"] == ["context", "force_language", "stream"]
    assert f"vLLM at {vllm.url} recognises: vLLM 0." in check(vllm.url, TINGDAO_STATE_DIR=str(server.state))


FORMS = {
    "native": ("/api/v1/transcribe", {}),
    "native, several clips": ("/api/v1/transcribe", {}),
    "stream": ("/v1/audio/transcriptions", {"model": "default", "stream": "true"}),
    "chat": ("/v1/chat/completions", {"stream": False}),
    "chat stream": ("/v1/chat/completions", {"stream": True}),
}


def leave(service, vllm, path, request):
    """Callers ask the service and leave: within a second vLLM has nothing to do."""

    async def main():
        async with httpx2.AsyncClient(timeout=120) as client:

            async def listen():
                async with client.stream("POST", service.url + path, **request) as answer:
                    async for _ in answer.aiter_bytes():
                        pass

            for _ in range(5):
                calls = [asyncio.create_task(listen()) for _ in range(12)]
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
    answer = httpx2.post(service.url + "/api/v1/transcribe", files={"file": (RECORDINGS / "jfk.flac").read_bytes()})
    assert answer.json()["data"]["text"] == JFK


@pytest.mark.parametrize("kind", FORMS)
def test_who_leaves_frees_vllm_within_a_second(server, vllm, kind):
    path, fields = FORMS[kind]
    if path.endswith("completions"):
        request = {"json": fields | {"messages": [user(audio_url(f"data:audio/flac;base64,{inline()}"))]}}
    else:
        body = minute() if "several" in kind else (RECORDINGS / "jfk.flac").read_bytes()
        request = {"files": {"file": body}, "data": fields}
    leave(server, vllm, path, request)


@pytest.fixture(scope="module")
def wrong(vllm, second, files):
    """URL and settings that do not fit, and what is said of each."""
    return {
        "key": (second.url, {}, "It refuses the key (401)"),
        "model": (vllm.url, {"TINGDAO_VLLM_MODEL": "7b"}, "It does not serve the model '7b'"),
        "nobody": ("http://127.0.0.1:9", {}, "It cannot be reached"),
        "no vLLM": (f"http://{files}", {}, "It has no /version: it is not a vLLM server"),
    }


@pytest.mark.parametrize("what", ["key", "model", "nobody", "no vLLM"])
def test_what_is_wrong_is_said_by_health_log_and_check(wrong, tmp_path, what):
    url, settings, reason = wrong[what]
    assert re.search(f"vLLM at {url} cannot be used.*{re.escape(reason)}",
                     check(url, TINGDAO_STATE_DIR=str(tmp_path), **settings), re.DOTALL)  # fmt: skip
    running = Server(tmp_path / "state", TINGDAO_VLLM_UPSTREAMS=json.dumps([url]), **settings)
    try:
        end = time.monotonic() + 20
        while httpx2.get(f"{running.url}/health").json()["status"] == "loading":
            assert time.monotonic() < end
            time.sleep(0.1)
        kind, _, _ = reason.partition(": ")
        assert f"No server of the model can be used. {kind}." in httpx2.get(f"{running.url}/health").json()["notice"]
        ready = httpx2.get(f"{running.url}/ready")
        assert (ready.status_code, kind in ready.json()["reason"]) == (503, True)
        assert any(reason in line.get("reason", "") for line in running.lines())
        file = {"file": (RECORDINGS / "jfk.flac").read_bytes()}
        assert httpx2.post(f"{running.url}/api/v1/transcribe", files=file, timeout=60).status_code == 503
    finally:
        assert running.stop() == 0


@pytest.fixture(scope="module")
def told_by_upload(second, tmp_path_factory):
    """The service in front of the second server."""
    settings = {"TINGDAO_VLLM_UPSTREAMS": json.dumps([second.url]), "TINGDAO_VLLM_KEY": KEY}
    running = Server(tmp_path_factory.mktemp("told"), **settings)
    running.wait_until_ready()
    yield running
    assert running.stop() == 0, running.log.read_text()


def test_a_template_that_leaves_the_assistant_out(second, told_by_upload, tmp_path):
    """A language is forced all the same, by an upload; what that cannot do is refused."""
    told = check(second.url, TINGDAO_STATE_DIR=str(tmp_path), TINGDAO_VLLM_KEY=KEY)
    assert "can: context, force_language, stream\n" in told
    assert "It cannot be told Cantonese and Filipino, nor the language of clips of more than 30 s: its chat" in told
    file = {"file": (RECORDINGS / "jfk.flac").read_bytes()}
    post = f"{told_by_upload.url}/api/v1/transcribe"
    assert httpx2.post(post, files=file, timeout=60).json()["data"]["text"] == JFK
    forced = httpx2.post(post, files=file, data={"language": "en", "prompt": "Kennedy"}, timeout=60)
    assert forced.json()["data"]["text"] == JFK
    with openai.OpenAI(base_url=f"{told_by_upload.url}/v1", api_key="none", max_retries=0) as client:
        fields = {"model": "default", "file": minute(), "language": "en", "stream": True}
        got = list(client.audio.transcriptions.create(**fields))
    assert got[-1].text.count("ask not what your country") == 5
    assert "".join(event.delta for event in got[:-1]) == got[-1].text
    assert got[-1].usage.total_tokens > 5 * 150
    refused = httpx2.post(post, files=file, data={"language": "yue"}, timeout=60)
    assert (refused.status_code, refused.json()["param"]) == (400, "language")


def test_who_leaves_frees_a_vllm_that_is_told_by_an_upload(second, told_by_upload):
    request = {"files": {"file": (RECORDINGS / "jfk.flac").read_bytes()}, "data": {"language": "en"}}
    leave(told_by_upload, second, "/api/v1/transcribe", request)


class Load:
    """Six clients that send one recording after another to a service, and what is known of its servers meanwhile."""

    def __init__(self, service):
        self.service = service
        self.calls = []  # (began, ended, status, text)

    async def line(self, client):
        file = {"file": (RECORDINGS / "sr_english.flac").read_bytes()}
        while True:
            began = time.monotonic()
            answer = await client.post(f"{self.service.url}/api/v1/transcribe", files=file)
            self.calls.append((began, time.monotonic(), answer.status_code, answer.json()["data"]))

    @asynccontextmanager
    async def running(self):
        async with httpx2.AsyncClient(timeout=60) as client:
            lines = [asyncio.create_task(self.line(client)) for _ in range(6)]
            try:
                yield
            finally:
                for each in lines:
                    each.cancel()
                await asyncio.gather(*lines, return_exceptions=True)

    def _metrics(self, name):
        text = httpx2.get(f"{self.service.url}/metrics").text
        found = re.findall(rf'^tingdao_server_{name}\{{.*server="(.*)"\}} (\S+)$', text, re.MULTILINE)
        return {url: float(value) for url, value in found}

    async def up(self, server):
        """Whether a server is up."""
        return (await asyncio.to_thread(self._metrics, "up"))[server.url] == 1

    async def audio(self, server):
        """How many seconds of audio it has answered."""
        return (await asyncio.to_thread(self._metrics, "audio_seconds_total"))[server.url]

    async def until_it_serves(self, server):
        """Wait until a server has answered some more."""
        before, end = await self.audio(server), time.monotonic() + 60
        while await self.audio(server) < before + 10:
            assert time.monotonic() < end, f"{server.url} gets nothing"
            await asyncio.sleep(0.1)

    async def without(self, server, how):
        """A server is lost: within 5 s it is known, and every call answered."""
        began = time.monotonic()
        server.signal(how)
        while await self.up(server):
            assert time.monotonic() < began + 5, "nobody noticed"
            await asyncio.sleep(0.05)
        await asyncio.sleep(began + 8 - time.monotonic())
        held = [end - began for start, end, *_ in self.calls if start < began < end]
        after = [end - start for start, end, *_ in self.calls if start > began]
        assert len(held) == 6
        assert len(after) > 6
        assert max(held + after) < 5


def test_one_is_frozen_then_the_other_killed_and_no_client_notices(vllm, second, tmp_path):
    running = Server(
        tmp_path / "state",
        TINGDAO_VLLM_UPSTREAMS=json.dumps([vllm.url, second.url]),
        TINGDAO_VLLM_KEY=KEY,
        TINGDAO_VLLM_WIDTH="4",
    )
    load = Load(running)

    async def main():
        async with load.running():
            await load.until_it_serves(vllm)
            await load.until_it_serves(second)
            try:
                await load.without(vllm, signal.SIGSTOP)
            finally:
                vllm.signal(signal.SIGCONT)
            await load.until_it_serves(vllm)
            await load.without(second, signal.SIGKILL)

    try:
        running.wait_until_ready()
        asyncio.run(main())
        for *_, status, data in load.calls:
            assert (status, data["text"]) == (200, SAID["sr_english.flac"][0])
    finally:
        assert running.stop() == 0
