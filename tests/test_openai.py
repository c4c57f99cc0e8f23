"""OpenAI's dialect, with a fake engine behind the real pipeline."""

import pytest

from tingdao.engines.base import Recognition
from tingdao.types import Evidence, Segment, Word

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
        ({"stream": "true"}, 400, "unsupported_option", "stream"),
        ({"temperature": "0.7"}, 400, "unsupported_option", "temperature"),
        ({"temperature": "warm"}, 400, "invalid_request", "temperature"),
        ({"include[]": "logprobs"}, 400, "unsupported_option", "include[]"),
        ({"keywords[]": ["a", "b"]}, 400, "unsupported_option", "keywords[]"),
        ({"hotwords": "a"}, 400, "unsupported_option", "hotwords"),
        ({"languages[]": ["en"]}, 400, "unsupported_option", "languages[]"),
        ({"to_language": "en"}, 400, "unsupported_option", "to_language"),
        ({"chunking_strategy": '{"type":"server_vad"}'}, 400, "unsupported_option", "chunking_strategy"),
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
