"""The native dialect, with a fake engine behind the real pipeline."""

import pytest

from tingdao.engines.base import Recognition
from tingdao.types import Segment, Word

PATH = "/api/v1/transcribe"


def upload(recordings, name="jfk.flac", **fields):
    return {"files": {"file": ("some.name", (recordings / name).read_bytes())}, "data": fields}


def test_a_recording_in_a_transcript_out(client, recordings):
    answer = client.post(PATH, **upload(recordings))
    assert answer.status_code == 200
    assert answer.json() == {
        "code": 0,
        "message": "success",
        "data": {"text": answer.json()["data"]["text"], "language": "en", "duration_sec": 11.0, "model": "fake"},
    }
    assert answer.json()["data"]["text"].startswith("from 0.")
    assert client.leftovers() == []


def test_language_prompt_and_model_reach_the_engine(client, recordings):
    answer = client.post(PATH, **upload(recordings, language="zh-CN", prompt="Tingdao", model="whisper-1"))
    assert answer.json()["data"]["language"] == "zh"
    assert {(ask.language, ask.context) for _, ask in client.engine.asked} == {("zh", "Tingdao")}


def test_segments_and_words_on_request(make_client, engine, recordings):
    words = (Word("And", 0.5, 0.9), Word("so", 1.0, 1.2))
    engine.answer = lambda clip, ask: Recognition(
        "And so", "en", segments=(Segment("And so", 0.5, 1.25, "en", words if ask.words else None),)
    )
    data = make_client(engine).post(PATH, **upload(recordings, words="true")).json()["data"]
    start = engine.asked[0][0].start
    assert data["segments"] == [
        {
            "start": round(start + 0.5, 3),
            "end": round(start + 1.25, 3),
            "text": "And so",
            "language": "en",
            "flags": [],
            "words": [
                {"word": "And", "start": round(start + 0.5, 3), "end": round(start + 0.9, 3)},
                {"word": "so", "start": round(start + 1.0, 3), "end": round(start + 1.2, 3)},
            ],
        }
    ]
    plain = make_client(engine).post(PATH, **upload(recordings, segments="true")).json()["data"]["segments"]
    assert "words" not in plain[0]


def test_loops_are_flagged(make_client, engine, recordings):
    engine.answer = lambda clip, ask: Recognition("thank you " * 30, "en")
    data = make_client(engine).post(PATH, **upload(recordings, segments="true")).json()["data"]
    assert data["text"] == "thank you"
    assert data["segments"][0]["flags"] == ["looped"]


@pytest.mark.parametrize(
    ("fields", "status", "code", "param"),
    [
        ({"language": "xx"}, 400, 40005, "language"),
        ({"model": "gpt-9"}, 404, 40401, "model"),
        ({"colour": "red"}, 400, 40001, "colour"),
        ({"words": "perhaps"}, 400, 40000, "words"),
        ({"prompt": "x" * 10_001}, 400, 40000, "prompt"),
    ],
)
def test_wrong_fields_are_named(client, recordings, fields, status, code, param):
    answer = client.post(PATH, **upload(recordings, **fields))
    assert answer.status_code == status
    body = answer.json()
    assert (body["code"], body["param"], body["data"]) == (code, param, None)
    assert client.engine.asked == []


def test_what_the_engine_cannot_do_is_refused(make_client, recordings):
    from conftest import FakeEngine

    plain = make_client(FakeEngine(can=()))
    for field, value in (("language", "en"), ("prompt", "names"), ("words", "true")):
        answer = plain.post(PATH, **upload(recordings, **{field: value}))
        assert (answer.status_code, answer.json()["code"], answer.json()["param"]) == (400, 40006, field)


@pytest.mark.parametrize("path", ["/health", "/api/health"])
def test_health(client, path):
    async def loaded():
        async with client.session() as http:
            await client.service.registry.engine()
            return (await http.get(path)).json()

    import asyncio

    health = asyncio.run(loaded())
    assert (health["status"], health["model"], health["api_root"]) == ("ok", "fake", PATH)


def test_failure_of_the_engine_is_a_clear_500(make_client, engine, recordings):
    from tingdao.errors import EngineFailed

    engine.fail = EngineFailed("The model failed.")
    answer = make_client(engine).post(PATH, **upload(recordings))
    assert (answer.status_code, answer.json()["code"]) == (500, 50001)


def test_what_is_unexpected_shows_nothing_of_the_inside(make_client, engine, recordings):
    engine.fail = KeyError("/secret/path")
    answer = make_client(engine).post(PATH, **upload(recordings))
    assert (answer.status_code, answer.json()["code"]) == (500, 50000)
    assert "secret" not in answer.text
    assert answer.headers["x-request-id"]
