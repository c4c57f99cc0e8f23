"""OpenAI's dialect, with a fake engine behind the real pipeline."""

import asyncio
import io
import json
import wave

import httpx2
import pytest

from asgi import scope_of
from tingdao.engines.base import Recognition
from tingdao.types import Evidence, Segment, Usage, Word

PATH = "/v1/audio/transcriptions"


@pytest.fixture
def known(engine):
    """An engine that says the same of every clip."""
    segment = Segment("And so", 0.5, 1.25, "en", (Word("And", 0.5, 0.9), Word("so", 1.0, 1.2)),
                      evidence=Evidence(0, (1, 2), 0.0, -0.25, 1.5, 0.01))  # fmt: skip
    engine.answer = lambda clip, ask: Recognition("And so", "en", segments=(segment,))
    return engine


@pytest.fixture
def ask(make_client, known, recordings):
    def post(**fields):
        data = {"model": "default", **fields}
        return make_client(known).post(
            PATH, files={"file": ("jfk.flac", (recordings / "jfk.flac").read_bytes())}, data=data
        )

    return post


def test_json(ask):
    assert ask().json() == {
        "text": "And so",
        "languages": [{"code": "en"}],
        "usage": {"type": "duration", "seconds": 11.0},
    }


def test_text(ask):
    answer = ask(response_format="text")
    assert answer.text == "And so\n"
    assert answer.headers["content-type"].startswith("text/plain")


@pytest.mark.parametrize(("kind", "head"), [("srt", "1\n00:00:00,"), ("vtt", "WEBVTT\n\n")])
def test_subtitles(ask, kind, head):
    answer = ask(response_format=kind)
    assert answer.text.startswith(head)
    assert "And so" in answer.text


def test_verbose_json(ask, known):
    body = ask(response_format="verbose_json").json()
    start = known.asked[0][0].start
    assert (body["task"], body["language"], body["duration"], body["text"]) == ("transcribe", "en", 11.0, "And so")
    assert body["segments"] == [
        {
            "id": 0,
            "seek": round(start * 100),
            "start": round(start + 0.5, 3),
            "end": round(start + 1.25, 3),
            "text": "And so",
            "tokens": [1, 2],
            "temperature": 0.0,
            "avg_logprob": -0.25,
            "compression_ratio": 1.5,
            "no_speech_prob": 0.01,
        }
    ]
    assert "words" not in body
    assert not known.asked[0][1].words


@pytest.mark.parametrize("name", ["timestamp_granularities[]", "timestamp_granularities"])
@pytest.mark.parametrize(
    ("wanted", "keys"),
    [(["word"], {"words"}), (["segment"], {"segments"}), (["word", "segment"], {"words", "segments"})],
)
def test_granularities(ask, known, name, wanted, keys):
    body = ask(response_format="verbose_json", **{name: wanted}).json()
    assert body.keys() & {"words", "segments"} == keys
    assert known.asked[0][1].words is ("words" in keys)


@pytest.mark.parametrize(
    ("fields", "status", "code", "param"),
    [
        ({"response_format": "docx"}, 400, "invalid_request", "response_format"),
        ({"response_format": "diarized_json"}, 400, "unsupported_option", "response_format"),
        ({"language": "xx"}, 400, "unknown_language", "language"),
        ({"model": "gpt-9"}, 404, "model_not_found", "model"),
        ({"temperature": "0.7"}, 400, "unsupported_option", "temperature"),
        ({"temperature": "warm"}, 400, "invalid_request", "temperature"),
        ({"include[]": "logprobs"}, 400, "unsupported_option", "include[]"),
        ({"to_language": "en"}, 400, "unsupported_option", "to_language"),
        ({"chunking_strategy": "often"}, 400, "unsupported_option", "chunking_strategy"),
        ({"chunking_strategy": '{"type":"server_vad","threshold":1}'}, 400, "unsupported_option", "chunking_strategy"),
        ({"chunking_strategy[threshold]": "0.5"}, 400, "unsupported_option", "chunking_strategy[threshold]"),
        ({"known_speaker_names[]": "Ann"}, 400, "unsupported_option", "known_speaker_names[]"),
        ({"stream": "true", "response_format": "srt"}, 400, "unsupported_option", "response_format"),
        ({"languages[]": ["en", "xx"]}, 400, "unknown_language", "languages[]"),
        ({"language": "de", "languages[]": ["en", "zh"]}, 400, "invalid_request", "language"),
        ({"vocabularies[]": "nobody's"}, 400, "invalid_request", "vocabularies[]"),
        ({"script": "cursive"}, 400, "invalid_request", "script"),
        ({"url": "http://a.example/b.wav"}, 400, "invalid_request", "url"),
        ({"timestamp_granularities[]": "word"}, 400, "unsupported_option", "timestamp_granularities[]"),
        ({"timestamp_granularities[]": "phrase"}, 400, "invalid_request", "timestamp_granularities[]"),
        ({"colour": "red"}, 400, "unknown_field", "colour"),
        ({"language": ["en", "de"]}, 400, "invalid_request", "language"),
    ],
)
def test_what_cannot_be_honoured_is_refused_by_name(ask, known, fields, status, code, param):
    answer = ask(**fields)
    assert answer.status_code == status
    error = answer.json()["error"]
    assert (error["code"], error["param"], error["type"]) == (code, param, "invalid_request_error")
    assert len(error["message"]) > 20
    assert known.asked == []


def test_fields_that_ask_for_what_always_happens_are_accepted(ask):
    assert ask(temperature="0", stream="false", chunking_strategy="auto", prompt="names").status_code == 200
    assert ask(chunking_strategy='{"type":"server_vad"}').status_code == 200
    assert ask(**{"chunking_strategy[type]": "server_vad"}).status_code == 200


def events(answer):
    assert answer.headers["content-type"].startswith("text/event-stream")
    *data, done = [line.removeprefix("data: ") for line in answer.text.splitlines() if line]
    assert done == "[DONE]"
    return [json.loads(line) for line in data]


def test_stream(make_client, engine, recordings):
    engine.answer = lambda clip, ask: Recognition(f"At {clip.start:.0f}.", "en", usage=Usage(3, 5))
    upload = {"file": ("jfk.flac", (recordings / "jfk.flac").read_bytes())}
    client = make_client(engine, audio={"clip_limit_s": 5})
    whole = client.post(PATH, files=upload, data={"model": "default"}).json()
    *deltas, done = events(client.post(PATH, files=upload, data={"model": "default", "stream": "true"}))
    assert len(deltas) > 1
    assert {delta["type"] for delta in deltas} == {"transcript.text.delta"}
    assert "".join(delta["delta"] for delta in deltas) == done["text"] == whole["text"]
    clips = len(engine.asked) // 2
    assert done["type"] == "transcript.text.done"
    assert done["languages"] == [{"code": "en"}]
    usage = {"type": "tokens", "input_tokens": 3 * clips, "output_tokens": 5 * clips, "total_tokens": 8 * clips}
    assert done["usage"] == usage


def test_deltas_come_while_later_audio_is_still_being_recognised(make_client, engine, recordings):
    client = make_client(engine, audio={"clip_limit_s": 5})
    later, first = asyncio.Event(), asyncio.Event()

    async def recognise(clip, ask):
        if clip.start > 6:
            await later.wait()
        return Recognition(f"At {clip.start:.0f}.", "en")

    engine.recognise = recognise
    form = httpx2.Request(
        "POST",
        f"http://test{PATH}",
        files={"file": (recordings / "jfk.flac").read_bytes()},
        data={"model": "default", "stream": "true"},
    )
    sent = []

    async def main():
        body = [{"type": "http.request", "body": form.read(), "more_body": False}]
        forever = asyncio.Event()

        async def receive():
            if not body:
                await forever.wait()
            return body.pop()

        async def send(message):
            sent.append(message.get("body", b"").decode())
            if '"delta":"At ' in sent[-1]:
                first.set()

        scope = scope_of(PATH, form.headers["content-type"])
        async with client.session(), asyncio.timeout(30):
            answer = asyncio.create_task(client.app(scope, receive, send))
            await first.wait()
            assert not any("transcript.text.done" in part for part in sent)
            later.set()
            await answer

    asyncio.run(main())
    assert any("transcript.text.done" in part for part in sent)


def test_no_speech_streams_an_empty_text(client, recordings):
    silence = io.BytesIO()
    with wave.open(silence, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(16_000)
        file.writeframes(bytes(64_000))
    answer = client.post(PATH, files={"file": silence.getvalue()}, data={"model": "default", "stream": "true"})
    assert [(event["type"], event.get("text")) for event in events(answer)] == [("transcript.text.done", "")]


def test_expected_words_are_corrected_and_reported(ask, known, recordings):
    known.answer = lambda clip, ask: Recognition("We run cooper netties.", "en")
    fields = {"hotwords": '[{"word": "Kubernetes", "sounds_like": ["cooper netties"]}]', "keywords[]": ["Postgres"]}
    body = ask(**fields).json()
    assert body["text"] == "We run Kubernetes."
    assert body["vocabulary"] == {
        "hinted": ["Postgres", "Kubernetes"],
        "corrections": [{"heard": "cooper netties", "written": "Kubernetes", "exact": True, "segment": 0, "at": 7}],
    }
    assert "Kubernetes" in known.asked[0][1].context


def test_lists_of_the_settings(make_client, known, recordings):
    lists = {"tech": ["Postgres", {"word": "Kubernetes", "sounds_like": ["cooper netties"]}], "other": ["Zhang"]}
    client = make_client(known, vocabulary={"lists": lists, "always": ["other"]})
    upload = {"file": (recordings / "jfk.flac").read_bytes()}
    body = client.post(PATH, files=upload, data={"model": "default", "vocabularies[]": "tech"}).json()
    assert body["vocabulary"]["hinted"] == ["Postgres", "Kubernetes", "Zhang"]
    body = client.post(PATH, files=upload, data={"model": "default"}).json()
    assert body["vocabulary"]["hinted"] == ["Zhang"]


def test_one_expected_language_is_forced(ask, known):
    assert ask(**{"languages[]": ["en"]}).status_code == 200
    assert known.asked[0][1].language == "en"


def test_model_is_required(client, recordings):
    answer = client.post(PATH, files={"file": (recordings / "jfk.flac").read_bytes()})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "model")


def test_models(client):
    body = client.get("/v1/models").json()
    assert body["object"] == "list"
    assert [(model["id"], model["object"], model["default"]) for model in body["data"]] == [("fake", "model", True)]
    assert client.get("/v1/models/whisper-1").json()["id"] == "fake"
    missing = client.get("/v1/models/nope")
    assert (missing.status_code, missing.json()["error"]["code"]) == (404, "model_not_found")
