"""The chat dialect, with a fake engine behind the real pipeline."""

import asyncio
import base64
import json
import logging
from contextlib import asynccontextmanager

import pytest

from asgi import scope_of
from conftest import FakeEngine
from tingdao.api.chat_fields import ChatFields
from tingdao.api.chat_request import read
from tingdao.engines.base import Recognition
from tingdao.errors import EngineFailed
from tingdao.types import Options, Segment, Term, Usage

PATH = "/v1/chat/completions"
JSON = {"content-type": "application/json"}


@pytest.fixture
def client(shared):
    return shared


@pytest.fixture
def engine(shared):
    return shared.engine


@pytest.fixture
def jfk(recordings):
    return base64.b64encode((recordings / "jfk.flac").read_bytes()).decode()


def user(*parts):
    return {"role": "user", "content": list(parts)}


def audio_url(data, kind="audio/flac"):
    return {"type": "audio_url", "audio_url": {"url": f"data:{kind};base64,{data}"}}


def input_audio(data, **more):
    return {"type": "input_audio", "input_audio": {"data": data, **more}}


def text(words):
    return {"type": "text", "text": words}


class TestAnswer:
    def test_is_what_clients_of_qwen_asr_serve_parse(self, client, engine, jfk):
        # As its README sends it: without a model, with nothing but the audio.
        body = client.post(PATH, json={"messages": [user(audio_url(jfk))]}).json()
        assert body["id"].startswith("chatcmpl-")
        assert (body["object"], body["model"]) == ("chat.completion", "fake")
        assert body["choices"] == [
            {
                "index": 0,
                "message": {
                    "role": "assistant",
                    "content": "language English<asr_text>from 0.0",
                    "annotations": [{"type": "audio_info", "language": "en"}],
                },
                "logprobs": None,
                "finish_reason": "stop",
            }
        ]
        assert body["usage"] == {"prompt_tokens": 3, "completion_tokens": 5, "total_tokens": 8, "seconds": 11.0}

    @pytest.mark.parametrize(
        ("part", "content"),
        [
            (lambda data: audio_url(data), "language English<asr_text>from 0.0"),
            (lambda data: input_audio(data, format="wav"), "language English<asr_text>from 0.0"),
            (lambda data: input_audio(data), "language English<asr_text>from 0.0"),
            (lambda data: input_audio(f"data:;base64,{data}"), "from 0.0"),
            (lambda data: input_audio(f"data:audio/flac;base64,{data}", format="flac"), "from 0.0"),
        ],
        ids=["audio_url", "OpenAI", "OpenAI without format", "DashScope", "DashScope with format"],
    )
    def test_is_plain_text_for_clients_of_dashscope(self, client, jfk, part, content):
        body = client.post(PATH, json={"messages": [user(part(jfk))]}).json()
        assert body["choices"][0]["message"]["content"] == content

    @pytest.mark.parametrize(
        ("wanted", "part", "content"),
        [("text", audio_url, "from 0.0"), ("raw", lambda d: input_audio(f"data:;base64,{d}"),
                                           "language English<asr_text>from 0.0")],
    )  # fmt: skip
    def test_has_the_form_that_is_asked_for(self, client, jfk, wanted, part, content):
        body = client.post(PATH, json={"messages": [user(part(jfk))], "asr_options": {"content": wanted}}).json()
        assert body["choices"][0]["message"]["content"] == content

    def test_without_speech_is_language_none(self, client, engine, jfk):
        engine.answer = lambda clip, ask: Recognition("", None)
        request = {"messages": [user(audio_url(jfk))]}
        message = client.post(PATH, json=request).json()["choices"][0]["message"]
        assert message == {"role": "assistant", "content": "language None<asr_text>", "annotations": []}
        request["asr_options"] = {"content": "text"}
        assert client.post(PATH, json=request).json()["choices"][0]["message"]["content"] == ""
        assert streamed(client, request)[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}

    def test_names_languages_that_only_the_embedded_model_knows(self, client, engine, jfk):
        engine.answer = lambda clip, ask: Recognition("Привіт", "uk")
        body = client.post(PATH, json={"messages": [user(audio_url(jfk))]}).json()
        assert body["choices"][0]["message"]["content"] == "language Ukrainian<asr_text>Привіт"

    def test_leaves_the_language_out_when_it_is_not_wanted(self, client, jfk):
        request = {"messages": [user(audio_url(jfk))], "asr_options": {"enable_lid": False, "content": "text"}}
        assert "annotations" not in client.post(PATH, json=request).json()["choices"][0]["message"]
        assert "annotations" not in json.dumps(streamed(client, request))

    @pytest.mark.parametrize(
        ("room", "reason"),
        [
            ({"max_tokens": 5}, "stop"),
            ({"max_tokens": 4}, "length"),
            ({"max_completion_tokens": 4, "max_tokens": 9}, "length"),
        ],
    )
    def test_says_when_it_took_more_tokens_than_expected_and_is_whole(self, client, jfk, room, reason):
        choice = client.post(PATH, json={"messages": [user(audio_url(jfk))], **room}).json()["choices"][0]
        assert choice["finish_reason"] == reason
        assert choice["message"]["content"].endswith("from 0.0")

    def test_says_when_the_model_came_to_no_end(self, client, engine, recordings):
        engine.answer = lambda clip, ask: Recognition("on and on", "en", ended="length")
        data = base64.b64encode((recordings / "cards_001.flac").read_bytes()).decode()
        body = client.post(PATH, json={"messages": [user(audio_url(data))]}).json()
        assert body["choices"][0]["finish_reason"] == "length"


def asked(engine):
    (_, ask), *_ = engine.asked
    return ask


class TestRequest:
    def test_system_messages_are_context(self, client, engine, jfk):
        messages = [
            {"role": "system", "content": "Kennedy"},
            {"role": "system", "content": ""},
            {"role": "developer", "content": [text("Americans, "), text("and what they do for their country.")]},
            user(audio_url(jfk)),
        ]
        assert client.post(PATH, json={"messages": messages}).status_code == 200
        assert asked(engine).context == "Kennedy\nAmericans, and what they do for their country."

    @pytest.mark.parametrize(
        ("written", "code"), [("en", "en"), ("English", "en"), ("auto", None), ("", None), (None, None)]
    )
    def test_asr_options_force_the_language(self, client, engine, jfk, written, code):
        body = client.post(PATH, json={"messages": [user(audio_url(jfk))], "asr_options": {"language": written}})
        assert body.status_code == 200
        assert asked(engine).language == code

    @pytest.mark.parametrize("final", ["language German<asr_text>", " language German <asr_text>\n"])
    @pytest.mark.parametrize("more", [{}, {"add_generation_prompt": False}, {"asr_options": {"language": "auto"}}])
    def test_a_message_to_continue_forces_the_language_as_with_vllm(self, client, engine, jfk, final, more):
        messages = [user(audio_url(jfk)), {"role": "assistant", "content": final}]
        body = client.post(PATH, json={"messages": messages, "continue_final_message": True, **more}).json()
        # vLLM gives what comes after the message that is continued.
        assert body["choices"][0]["message"]["content"] == "from 0.0"
        assert asked(engine).language == "de"

    def test_asr_options_reach_the_pipeline(self, jfk):
        fields = {
            "messages": [user(input_audio("https://files.example/a"))],
            "asr_options": {
                "language": "zh",
                "languages": ["zh", "en"],
                "custom_vocabulary_word": [
                    {"word": "不二家", "sounds_like": ["bu er jia"]},
                    {"word": "Kubernetes", "sounds_like": ["cooper netties"], "weight": 3},
                    {"word": "Tingdao"},
                ],
                "vocabularies": ["firm"],
                "enable_itn": True,
                "script": "traditional",
            },
        }
        assert read(ChatFields.model_validate(fields, context=[])).options == Options(
            language="zh",
            languages=("zh", "en"),
            terms=(Term("不二家", ("bu er jia",)), Term("Kubernetes", ("cooper netties",), 3.0), Term("Tingdao")),
            vocabularies=("firm",),
            numbers=True,
            script="traditional",
        )

    def test_what_asks_for_what_happens_anyway_is_accepted(self, client, jfk):
        harmless = {
            "model": "whisper-1", "stream": False, "temperature": 1e-6, "n": 1, "stop": None, "presence_penalty": 0,
            "frequency_penalty": 0.0, "repetition_penalty": 1.0, "logprobs": False, "top_logprobs": 0,
            "logit_bias": {}, "tools": [], "tool_choice": "none", "functions": None, "modalities": ["text"],
            "response_format": {"type": "text"}, "store": False, "top_p": 0.1, "top_k": -1, "min_p": 0.0, "seed": 7,
            "parallel_tool_calls": True, "user": "u", "safety_identifier": "s", "prompt_cache_key": "k",
            "metadata": {"a": "b"}, "max_tokens": 4096, "asr_options": {"enable_itn": False, "enable_lid": True},
        }  # fmt: skip
        answer = client.post(PATH, json={"messages": [user(text(""), audio_url(jfk))], **harmless})
        assert answer.status_code == 200, answer.text
        assert set(ChatFields.model_fields) - set(harmless) == {
            "messages", "stream_options", "continue_final_message", "add_generation_prompt", "max_completion_tokens",
        }  # fmt: skip


AUDIO = audio_url("AAAA")
CONTINUED = {"role": "assistant", "content": "language English<asr_text>"}


@pytest.mark.parametrize(
    ("request_", "code", "param"),
    [
        ({}, "invalid_request", "messages"),
        ({"messages": []}, "invalid_request", "messages"),
        ({"messages": "hi"}, "invalid_request", "messages"),
        ({"messages": [{"role": "user", "content": "hi"}]}, "invalid_request", "messages"),
        ({"messages": [{"content": "hi"}]}, "invalid_request", "messages[0].role"),
        ({"messages": [{"role": "system", "content": [AUDIO]}]}, "invalid_request", "messages[0].content[0].type"),
        ({"messages": [user(AUDIO, AUDIO)]}, "invalid_request", "messages[0].content[1].audio_url"),
        ({"messages": [user(AUDIO), user(input_audio("AAAA"))]}, "invalid_request",
         "messages[1].content[0].input_audio"),
        ({"messages": [user(AUDIO, text("Translate it."))]}, "unsupported_option", "messages[0].content[1]"),
        ({"messages": [user(text("Before."), AUDIO)]}, "unsupported_option", "messages[0].content[0]"),
        ({"messages": [user({"type": "image_url", "image_url": {"url": "x"}})]}, "unsupported_option",
         "messages[0].content[0].type"),
        ({"messages": [user({"type": "audio_url"})]}, "invalid_request", "messages[0].content[0].audio_url"),
        ({"messages": [user({"type": "audio_url", "audio_url": "x"})]}, "invalid_request",
         "messages[0].content[0].audio_url"),
        ({"messages": [user({**AUDIO, "uuid": "1"})]}, "unknown_field", "messages[0].content[0].uuid"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "unsupported_option", "messages[0].role"),
        ({"messages": [{**user(AUDIO), "name": "x"}]}, "unknown_field", "messages[0].name"),
        ({"messages": [{"role": "system", "content": "x, " * 3_334}, user(AUDIO)]}, "context_too_long", "messages"),
        ({"messages": [user(AUDIO)] * 65}, "invalid_request", "messages"),
        ({"messages": [{"role": "assistant", "content": "Hello"}, user(AUDIO)]}, "unsupported_option",
         "messages[0].role"),
        ({"messages": [user(AUDIO), CONTINUED]}, "unsupported_option", "messages[1].role"),
        ({"messages": [user(AUDIO), {"role": "assistant", "content": "Hello"}], "continue_final_message": True},
         "unsupported_option", "messages[1].content"),
        ({"messages": [user(AUDIO), {"role": "assistant", "content": "language English<asr_text>Hel"}],
          "continue_final_message": True}, "unsupported_option", "messages[1].content"),
        ({"messages": [user(AUDIO)], "continue_final_message": True}, "invalid_request", "continue_final_message"),
        ({"messages": [user(AUDIO)], "add_generation_prompt": False}, "invalid_request", "add_generation_prompt"),
        ({"messages": [user(AUDIO), CONTINUED], "continue_final_message": True, "add_generation_prompt": True},
         "invalid_request", "add_generation_prompt"),
        ({"messages": [user(AUDIO), CONTINUED], "continue_final_message": True, "asr_options": {"language": "zh"}},
         "invalid_request", "asr_options.language"),
        ({"messages": [user(AUDIO)], "stream_options": {"include_usage": True}}, "invalid_request", "stream_options"),
        ({"messages": [user(AUDIO)], "stream": True, "stream_options": {"continuous_usage_stats": True}},
         "unknown_field", "stream_options.continuous_usage_stats"),
        ({"messages": [user(AUDIO)], "tools": [{"type": "function"}]}, "unsupported_option", "tools"),
        ({"messages": [user(AUDIO)], "tool_choice": "auto"}, "unsupported_option", "tool_choice"),
        ({"messages": [user(AUDIO)], "n": 2}, "unsupported_option", "n"),
        ({"messages": [user(AUDIO)], "logprobs": True}, "unsupported_option", "logprobs"),
        ({"messages": [user(AUDIO)], "temperature": 0.7}, "unsupported_option", "temperature"),
        ({"messages": [user(AUDIO)], "stop": ["."]}, "unsupported_option", "stop"),
        ({"messages": [user(AUDIO)], "frequency_penalty": 1}, "unsupported_option", "frequency_penalty"),
        ({"messages": [user(AUDIO)], "logit_bias": {"5": 1}}, "unsupported_option", "logit_bias"),
        ({"messages": [user(AUDIO)], "modalities": ["text", "audio"]}, "unsupported_option", "modalities"),
        ({"messages": [user(AUDIO)], "response_format": {"type": "json_object"}}, "unsupported_option",
         "response_format.type"),
        ({"messages": [user(AUDIO)], "response_format": {"type": "json_schema", "json_schema": {}}},
         "unsupported_option", "response_format.type"),
        ({"messages": [user(AUDIO)], "store": True}, "unsupported_option", "store"),
        ({"messages": [user(AUDIO)], "max_tokens": 0}, "invalid_request", "max_tokens"),
        ({"messages": [user(AUDIO)], "audio": {"voice": "x"}}, "unknown_field", "audio"),
        ({"messages": [user(AUDIO)], "asr_options": {"hot_words": []}}, "unknown_field", "asr_options.hot_words"),
        ({"messages": [user(AUDIO)], "asr_options": {"custom_vocabulary_word": [{"sounds_like": ["a"]}]}},
         "invalid_request", "asr_options.custom_vocabulary_word[0].word"),
        ({"messages": [user(AUDIO)], "asr_options": {"custom_vocabulary_word": [{"word": "a"}] * 1001}},
         "invalid_request", "asr_options.custom_vocabulary_word"),
        ({"messages": [user(AUDIO)], "asr_options": {"content": "json"}}, "invalid_request", "asr_options.content"),
        ({"messages": [user(AUDIO)], "asr_options": {"script": "latin"}}, "invalid_request", "asr_options.script"),
    ],
)  # fmt: skip
def test_what_makes_no_sense_is_refused_by_name(client, engine, request_, code, param):
    answer = client.post(PATH, json=request_)
    error = answer.json()["error"]
    assert (answer.status_code, error["code"], error["param"]) == (400, code, param)
    assert error["type"] == "invalid_request_error"
    assert len(error["message"]) > 20
    assert engine.asked == []
    assert client.leftovers() == []


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("more", "status", "code", "param"),
    [
        ({"model": "gpt-9"}, 404, "model_not_found", "model"),
        ({"asr_options": {"language": "Klingon"}}, 400, "unknown_language", "language"),
    ],
)
def test_what_only_the_service_knows_is_refused_streamed_or_not(client, engine, jfk, more, status, code, param, stream):
    answer = client.post(PATH, json={"messages": [user(audio_url(jfk))], "stream": stream, **more})
    error = answer.json()["error"]
    assert (answer.status_code, error["code"], error["param"]) == (status, code, param)
    assert engine.asked == []


class TestUrl:
    @pytest.fixture
    def fetching(self, client, recordings):
        fetched = []

        class Fetcher:
            @asynccontextmanager
            async def recording(self, url):
                fetched.append(url)
                with (recordings / "jfk.flac").open("rb") as recording:
                    yield recording

            async def close(self):
                pass

        guarded = client.service.fetcher
        object.__setattr__(client.service, "fetcher", Fetcher())
        client.fetched = fetched
        yield client
        object.__setattr__(client.service, "fetcher", guarded)

    @pytest.mark.parametrize("url", ["https://files.example/jfk.flac", "HTTP://files.example/a?b=c"])
    def test_is_fetched(self, fetching, url):
        request = {"messages": [user({"type": "audio_url", "audio_url": {"url": url}})]}
        body = fetching.post(PATH, json=request).json()
        assert body["choices"][0]["message"]["content"] == "language English<asr_text>from 0.0"
        assert contents(streamed(fetching, request)) == "language English<asr_text>from 0.0"
        assert fetching.fetched == [url, url]

    def test_in_the_form_of_dashscope(self, fetching):
        body = fetching.post(PATH, json={"messages": [user(input_audio("https://files.example/jfk.flac"))]}).json()
        assert body["choices"][0]["message"]["content"] == "from 0.0"

    def test_is_not_fetched_for_a_model_that_is_not_there(self, fetching):
        request = {"model": "gpt-9", "messages": [user(input_audio("https://files.example/jfk.flac"))]}
        assert fetching.post(PATH, json=request).status_code == 404
        assert fetching.fetched == []

    @pytest.mark.parametrize("stream", [False, True])
    def test_that_leads_inside_is_refused(self, client, engine, stream):
        request = {"messages": [user(input_audio("http://127.0.0.1:1/a"))], "stream": stream}
        answer = client.post(PATH, json=request)
        assert (answer.status_code, answer.json()["error"]["code"]) == (400, "url_not_allowed")
        assert engine.asked == []


# Streams.


def events(body: str) -> list:
    assert body.endswith("\n\n")
    lines = body.removesuffix("\n\n").split("\n\n")
    assert all(line.startswith("data: ") and "\n" not in line for line in lines)
    return [line if line == "data: [DONE]" else json.loads(line.removeprefix("data: ")) for line in lines]


def streamed(client, request) -> list:
    answer = client.post(PATH, json={**request, "stream": True})
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert answer.headers["cache-control"] == "no-cache"
    assert answer.headers["x-accel-buffering"] == "no"
    *chunks, done = events(answer.text)
    assert done == "data: [DONE]"
    return chunks


def contents(chunks) -> str:
    return "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks if chunk["choices"])


def speaking(*said: tuple[str, str | None]):
    """What an engine hears that hears just this, in segments."""
    parts = tuple(Segment(words, number, number + 1.0, code) for number, (words, code) in enumerate(said))
    return lambda clip, ask: Recognition("x", "en", segments=parts, usage=Usage(3, 5))


@pytest.mark.parametrize(
    ("said", "whole"),
    [
        ([("Hello,", "en"), ("how are you?", "en")], "language English<asr_text>Hello, how are you?"),
        ([("今天", "zh"), ("开会。", "zh")], "language Chinese<asr_text>今天开会。"),
        ([("今天", "zh"), ("meeting", "en"), ("is on.", "en")], "language Chinese<asr_text>今天meeting is on."),
        ([("Ja.", "de"), ("Yes.", "en"), ("Yes!", "en")], "language German<asr_text>Ja. Yes. Yes!"),
        ([("Hm", None), ("今天", "zh"), ("好", None)], "language None<asr_text>Hm今天好"),
    ],
)
def test_streamed_and_whole_content_are_the_same(client, engine, jfk, said, whole):
    engine.answer = speaking(*said)
    head, tag, words = whole.partition("<asr_text>")
    for content, begin in (("raw", head + tag), ("text", "")):
        request = {"messages": [user(audio_url(jfk))], "asr_options": {"content": content}}
        message = client.post(PATH, json=request).json()["choices"][0]["message"]
        assert message["content"] == begin + words
        chunks = streamed(client, request)
        assert contents(chunks) == begin + words
        assert len(chunks) >= 2 + len(said)
        deltas = [chunk["choices"][0]["delta"] for chunk in chunks]
        assert deltas[0] == {"role": "assistant", "content": begin}
        assert deltas[-1] == {"annotations": message["annotations"]}
        reasons = [chunk["choices"][0]["finish_reason"] for chunk in chunks]
        assert reasons == [None] * (len(chunks) - 1) + ["stop"]
        for chunk in chunks:
            assert (chunk["object"], chunk["model"], chunk["id"]) == ("chat.completion.chunk", "fake", chunks[0]["id"])
            assert "usage" not in chunk


def test_usage_comes_at_the_end_of_a_stream_when_asked_for(client, jfk):
    request = {"messages": [user(audio_url(jfk))], "stream_options": {"include_usage": True}}
    answer = client.post(PATH, json={**request, "stream": True})
    *chunks, usage, done = events(answer.text)
    assert all(chunk["usage"] is None for chunk in chunks)
    assert (usage["choices"], done) == ([], "data: [DONE]")
    assert usage["usage"] == {"prompt_tokens": 3, "completion_tokens": 5, "total_tokens": 8, "seconds": 11.0}


def test_line_ends_of_unicode_do_not_cut_an_event(client, engine, jfk):
    engine.answer = speaking(("One\u2028two\u2029three\x85four.", "en"))
    answer = client.post(PATH, json={"messages": [user(audio_url(jfk))], "stream": True})
    assert not set(answer.text) & {"\u2028", "\u2029", "\x85"}
    *chunks, _ = events(answer.text)
    assert contents(chunks).endswith("One\u2028two\u2029three\x85four.")


class InTurn(FakeEngine):
    """Answers the first clip at once; what comes later waits for `rest`."""

    def __init__(self):
        super().__init__(clip_limit=5.0)
        self.rest = asyncio.Event()
        self.late = 0

    async def recognise(self, clip, ask):
        if clip.start > 1:
            self.late += 1
            try:
                await self.rest.wait()
            except asyncio.CancelledError:
                self.cancelled += 1
                raise
            finally:
                self.late -= 1
        return await super().recognise(clip, ask)

    async def kept_waiting(self):
        async with asyncio.timeout(10):
            while not self.late:  # noqa: ASYNC110  what is waited for has no event
                await asyncio.sleep(0.005)


class Listening:
    """A request against the application whose answer is seen as it comes."""

    def __init__(self, client, request):
        self.body = json.dumps({**request, "stream": True}).encode()
        self.more = False  # to send
        self.client = client
        self.parts = []
        self.news = asyncio.Condition()
        self.incoming = asyncio.Queue()

    def __enter__(self):
        scope = scope_of(PATH, "application/json")
        self.incoming.put_nowait({"type": "http.request", "body": self.body, "more_body": self.more})
        self.task = asyncio.create_task(self.client.app(scope, self.incoming.get, self._send))
        return self

    def __exit__(self, *_):
        self.task.cancel()

    async def _send(self, message):
        async with self.news:
            self.parts.append(message)
            self.news.notify_all()

    def text(self):
        return b"".join(part.get("body", b"") for part in self.parts).decode()

    async def until(self, words):
        async with asyncio.timeout(10), self.news:
            await self.news.wait_for(lambda: words in self.text())

    def leave(self):
        self.incoming.put_nowait({"type": "http.disconnect"})


def test_the_first_text_comes_while_later_audio_is_still_recognised(make_client, jfk):
    engine = InTurn()
    client = make_client(engine)

    async def main():
        async with client.session():
            with Listening(client, {"messages": [user(audio_url(jfk))]}) as stream:
                await stream.until("from 0.0")
                await engine.kept_waiting()
                assert 'finish_reason":"stop' not in stream.text()
                engine.rest.set()
                await stream.until("[DONE]")
                await stream.task
            assert contents(events(stream.text())[:-1]).count("from") == len(engine.asked) > 1

    asyncio.run(main())


def test_a_client_that_leaves_a_stream_cancels_its_work(make_client, jfk):
    engine = InTurn()
    client = make_client(engine)

    async def main():
        async with client.session() as http:
            with Listening(client, {"messages": [user(audio_url(jfk))]}) as stream:
                await stream.until("from 0.0")
                await engine.kept_waiting()
                stream.leave()
                await asyncio.wait_for(asyncio.wait({stream.task}), 1)
                assert stream.task.done()
            assert (engine.late, bool(engine.cancelled)) == (0, True)
            assert "[DONE]" not in stream.text()
            assert "tingdao_in_flight 0.0" in (await http.get("/metrics")).text

    asyncio.run(main())
    assert client.leftovers() == []


def test_a_client_that_leaves_while_it_sends_is_no_error(make_client, caplog):
    client = make_client()

    async def main():
        async with client.session():
            stream = Listening(client, {})
            stream.body = b'{"messages": [{"content": "data:;base64,' + b"A" * 20_000
            stream.more = True
            with stream, caplog.at_level(logging.INFO):
                stream.leave()
                await asyncio.wait_for(stream.task, 5)

    asyncio.run(main())
    assert [record.status for record in caplog.records if record.message == "request"] == [499]
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert client.leftovers() == []


def test_an_error_after_the_first_text_is_the_last_event(make_client, jfk):
    engine = InTurn()
    client = make_client(engine)

    async def main():
        async with client.session():
            with Listening(client, {"messages": [user(audio_url(jfk))]}) as stream:
                await stream.until("from 0.0")
                engine.fail = EngineFailed("The model failed on a part of this recording. Try again.")
                engine.rest.set()
                await asyncio.wait_for(stream.task, 10)
            return stream

    stream = asyncio.run(main())
    *_, last = events(stream.text())
    assert last == {"error": {"message": "The model failed on a part of this recording. Try again.",
                              "type": "server_error", "param": None, "code": "engine_failed"}}  # fmt: skip
    assert stream.parts[-1].get("more_body", False) is False


def test_an_error_before_the_first_text_is_an_answer(client, engine, jfk):
    engine.fail = EngineFailed("The model failed.")
    answer = client.post(PATH, json={"messages": [user(audio_url(jfk))], "stream": True})
    assert (answer.status_code, answer.json()["error"]["code"]) == (500, "engine_failed")
    assert answer.headers["content-type"] == "application/json"


def test_the_openapi_document_describes_the_request(client):
    operation = client.get("/openapi.json").json()["paths"][PATH]["post"]
    schema = operation["requestBody"]["content"]["application/json"]["schema"]
    assert {"messages", "asr_options", "stream_options"} <= schema["properties"].keys()
    assert schema["additionalProperties"] is False
    assert schema["required"] == ["messages"]
    assert "$ref" not in json.dumps(schema)
    assert set(operation["responses"]["200"]["content"]) == {"application/json", "text/event-stream"}
