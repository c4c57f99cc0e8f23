"""Short recordings that go to the engine as they were sent, and everything that keeps them from it."""

from __future__ import annotations

import asyncio
import base64
import json
import re
from contextlib import ExitStack, asynccontextmanager
from dataclasses import replace

import httpx2
import pytest

import media
from conftest import RECORDINGS, FakeEngine
from serving import SAID, until
from tingdao import app
from tingdao.database import Database
from tingdao.engines.base import Ask, NotTaken, Recognition
from tingdao.engines.canary import recording
from tingdao.engines.vllm.engine import VllmEngine
from tingdao.errors import EngineFailed, ModelUnavailable
from tingdao.keys import KeyStore
from tingdao.rates import Rate
from tingdao.settings import Settings, VllmSettings
from tingdao.types import SAMPLE_RATE, Clip, Sent, Usage
from upstream import Double

JFK = (RECORDINGS / "jfk.flac").read_bytes()
NATIVE, OPENAI, CHAT = "/api/v1/transcribe", "/v1/audio/transcriptions", "/v1/chat/completions"


def passing_engine(limit=30.0, **more):
    """An engine that takes recordings as they were sent, and says which way they came."""
    engine = FakeEngine(can=("context", "force_language"), **more)
    engine.card = replace(engine.card, sent_limit=limit)
    engine.answer = lambda clip, ask: Recognition(
        "As it was sent." if clip.sent else "Decoded.", ask.language or "en", usage=Usage(3, 5)
    )
    return engine


def ways(engine):
    """How each clip came to the engine."""
    return ["sent" if clip.sent else "decoded" for clip, _ in engine.asked]


@pytest.fixture
def serve(make_client):
    """A started client with these engines loaded."""
    with ExitStack() as held:

        def start(*engines, **sections):
            models = {"preload": [engine.card.name for engine in engines]}
            client = held.enter_context(make_client(*engines, models=models, **sections).kept())
            for engine in engines:
                client._kept[0].run(client.service.registry.engine(engine.card.name))
            return client

        yield start


def post(client, data=JFK, path=NATIVE, **fields):
    return client.post(path, files={"file": data}, data=fields)


class TestPassing:
    def test_the_bytes_arrive_unchanged(self, serve):
        engine = passing_engine()
        answer = post(serve(engine), segments="true").json()["data"]
        assert answer == {
            "text": "As it was sent.",
            "language": "en",
            "duration_sec": 11.0,
            "model": "fake",
            "segments": [{"start": 0, "end": 11.0, "text": "As it was sent.", "language": "en", "flags": []}],
        }
        ((clip, _),) = engine.asked
        assert clip.sent == Sent(JFK, "flac", 11.0)
        assert clip.duration == 11.0

    def test_language_context_and_terms_reach_the_engine(self, serve):
        engine = passing_engine()
        client = serve(engine, vocabulary={"lists": {"team": ["Tingdao"]}})
        data = post(client, language="zh", prompt="names", vocabularies="team").json()["data"]
        ((clip, ask),) = engine.asked
        assert clip.sent
        assert ask == Ask(language="zh", context="names\nTingdao")
        assert data["vocabulary"]["hinted"] == ["Tingdao"]

    def test_text_is_finished_as_any_other(self, serve):
        engine = passing_engine()
        engine.answer = lambda clip, ask: Recognition("她喜欢布尔家,真的", "zh")
        term = json.dumps([{"word": "不二家", "sounds_like": ["bu er jia"]}])
        data = post(serve(engine), hotwords=term).json()["data"]
        assert ways(engine) == ["sent"]
        assert data["text"] == "她喜欢不二家，真的"

    def test_openai(self, serve):
        engine = passing_engine()
        client = serve(engine)
        answer = post(client, path=OPENAI, model="whisper-1", response_format="verbose_json").json()
        assert (answer["text"], answer["duration"]) == ("As it was sent.", 11.0)
        assert [(each["start"], each["end"]) for each in answer["segments"]] == [(0, 11.0)]
        events = post(client, path=OPENAI, model="whisper-1", stream="true").text
        events = [json.loads(line[6:]) for line in events.splitlines() if line.startswith("data: {")]
        assert [event["type"] for event in events] == ["transcript.text.delta", "transcript.text.done"]
        assert events[-1]["text"] == "As it was sent."
        assert events[-1]["usage"] == {"type": "tokens", "input_tokens": 3, "output_tokens": 5, "total_tokens": 8}
        assert ways(engine) == ["sent", "sent"]

    @pytest.mark.parametrize("stream", [False, True])
    def test_chat(self, serve, stream):
        engine = passing_engine()
        part = {"type": "input_audio", "input_audio": {"data": base64.b64encode(JFK).decode(), "format": "flac"}}
        body = {"model": "fake", "messages": [{"role": "user", "content": [part]}], "stream": stream}
        answer = serve(engine).post(CHAT, json=body)
        assert answer.status_code == 200
        assert "As it was sent." in answer.text
        if not stream:
            used = {"prompt_tokens": 3, "completion_tokens": 5, "total_tokens": 8, "seconds": 11.0}
            assert answer.json()["usage"] == used
        assert ways(engine) == ["sent"]

    def test_figures_and_metrics_are_those_of_any_recording(self, serve, caplog):
        client = serve(passing_engine())
        with caplog.at_level("INFO", "tingdao.access"):
            assert post(client).status_code == 200
        (line,) = [record for record in caplog.records if record.message == "request"]
        assert (line.model, line.audio_s, line.clips, line.decode_ms) == ("fake", 11.0, 1, 0.0)
        assert line.first_text_ms > 0
        metrics = client.get("/metrics").text
        assert 'tingdao_audio_seconds_total{model="fake"} 11.0' in metrics
        assert 'tingdao_recognise_seconds_count{model="fake"} 1.0' in metrics
        assert client.service.load.seconds == 0

    def test_recordings_wait_for_their_turn(self, serve):
        engine = passing_engine(width=1)
        engine.hold = asyncio.Event()
        client = serve(engine)
        runner, http = client._kept

        async def main():
            posts = [asyncio.create_task(http.post(NATIVE, files={"file": JFK})) for _ in range(5)]
            await until(lambda: engine.running == 2)
            await asyncio.sleep(0.1)
            assert client.service.load.seconds == 55
            engine.hold.set()
            assert {(await each).status_code for each in posts} == {200}

        runner.run(main())
        assert engine.most_running == 2  # the width, and one more that is ready
        assert ways(engine) == ["sent"] * 5

    def test_who_leaves_frees_the_engine(self, serve):
        engine = passing_engine()
        engine.hold = asyncio.Event()
        runner, http = serve(engine)._kept

        async def main():
            call = asyncio.create_task(http.post(NATIVE, files={"file": JFK}))
            await until(lambda: engine.running)
            call.cancel()
            await until(lambda: not engine.running)

        runner.run(main())
        assert (engine.cancelled, ways(engine)) == (1, ["sent"])

    def test_routes_choose_by_the_length(self, serve):
        short, long = passing_engine(name="short"), passing_engine(name="long")
        routes = {"auto": [{"model": "short", "max_duration_s": 5}, {"model": "long"}]}
        client = serve(short, long, routing=routes)
        assert post(client).json()["data"]["model"] == "long"
        assert post(client, media.wav(media.pcm(2))).json()["data"]["model"] == "short"
        assert ways(short) == ways(long) == ["sent"]

    def test_a_quota_is_held_to_before_any_work(self, serve, tmp_path):
        database = Database(None, tmp_path / "state")
        key = KeyStore(database).add("web", quota=Rate.quota("20s/day"))
        engine = passing_engine()
        client = serve(engine)
        head = {"Authorization": f"Bearer {key}"}
        assert client.post(NATIVE, files={"file": JFK}, headers=head).status_code == 200
        assert client.get("/api/v1/usage", headers=head).json()["data"]["seconds"] == 11.0
        assert client.post(NATIVE, files={"file": JFK}, headers=head).json()["error"] == "quota_exceeded"
        assert client.get("/api/v1/usage", headers=head).json()["data"]["seconds"] == 11.0
        assert ways(engine) == ["sent"]
        database.close()


class TestGoingThroughThePipeline:
    @pytest.mark.parametrize(
        "recognition",
        [
            Recognition("", None),
            Recognition("", "en"),
            Recognition("In eighteen", "en", ended="length"),
            Recognition("and " * 30, "en", ended="loop"),
            Recognition("thank you " * 30, "en"),
        ],
    )
    def test_an_answer_that_asks_for_a_second_look(self, serve, recognition):
        engine = passing_engine()
        whole = engine.answer
        recognition = replace(recognition, usage=Usage(7, 11))
        engine.answer = lambda clip, ask: recognition if clip.sent else whole(clip, ask)
        client = serve(engine)
        answer = post(client, segments="true").json()["data"]
        assert (answer["text"], answer["segments"][0]["flags"]) == ("Decoded.", [])
        assert answer["segments"][0]["start"] > 0
        assert ways(engine) == ["sent", "decoded"]
        part = {"type": "input_audio", "input_audio": {"data": base64.b64encode(JFK).decode(), "format": "flac"}}
        body = {"model": "fake", "messages": [{"role": "user", "content": [part]}]}
        assert client.post(CHAT, json=body).json()["usage"]["total_tokens"] == 26  # of both

    def test_a_context_that_comes_back(self, serve):
        engine = passing_engine()
        whole = engine.answer
        engine.answer = lambda clip, ask: Recognition("Tingdao", "en") if clip.sent else whole(clip, ask)
        assert post(serve(engine), prompt="Tingdao Qwen").json()["data"]["text"] == "Tingdao"
        engine.answer = lambda clip, ask: Recognition("Tingdao Qwen", "en") if clip.sent else whole(clip, ask)
        assert post(serve(engine), prompt="Tingdao Qwen").json()["data"]["text"] == "Decoded."

    def test_a_language_that_is_not_expected(self, serve):
        engine = passing_engine()
        engine.answer = lambda clip, ask: Recognition("Text.", ask.language or "en")
        client = serve(engine)
        fields = {"languages[]": ["zh", "de"], "segments": "true"}
        assert client.post(NATIVE, files={"file": JFK}, data=fields).json()["data"]["segments"][0]["flags"] == [
            "language_forced"
        ]
        assert ways(engine) == ["sent", "decoded", "decoded"]
        fields["languages[]"] = ["zh", "en"]
        assert client.post(NATIVE, files={"file": JFK}, data=fields).json()["data"]["language"] == "en"
        assert ways(engine)[3:] == ["sent"]

    @pytest.mark.parametrize("failure", [NotTaken("400"), EngineFailed("No."), ModelUnavailable("No.")])
    def test_an_engine_that_does_not_take_it(self, serve, failure):
        engine = passing_engine()

        async def recognise(clip, ask):
            if clip.sent:
                engine.asked.append((clip, ask))
                raise failure
            return await FakeEngine.recognise(engine, clip, ask)

        engine.recognise = recognise
        assert post(serve(engine)).json()["data"]["text"] == "Decoded."
        assert ways(engine) == ["sent", "decoded"]

    @pytest.mark.parametrize(
        ("path", "fields"),
        [
            (OPENAI, {"model": "fake", "response_format": "srt"}),
            (OPENAI, {"model": "fake", "response_format": "vtt"}),
        ],
    )
    def test_what_needs_the_samples(self, serve, path, fields):
        engine = passing_engine()
        assert post(serve(engine), path=path, **fields).status_code == 200
        assert ways(engine) == ["decoded"]

    def test_words(self, serve):
        engine = passing_engine()
        engine.card = replace(engine.card, can=engine.card.can | {"words"})
        assert post(serve(engine), words="true").status_code == 200
        assert ways(engine) == ["decoded"]

    def test_recordings_that_are_not_certain(self, serve):
        engine = passing_engine()
        client = serve(engine)
        files = [
            media.recording("mp3"),
            media.recording("wav 44.1 kHz stereo"),
            media.wav(media.pcm(2), size=0xFFFF_FFFF),
            JFK + bytes(100),
        ]
        for data in files:
            assert post(client, data).json()["data"]["text"] == "Decoded."
        assert ways(engine) == ["decoded"] * len(files)
        assert post(client, JFK[: len(JFK) // 2]).json()["error"] == "broken_audio"
        assert post(client, b"").status_code == 400

    @pytest.mark.parametrize(("limit", "sections"), [(0.0, {}), (10.9, {}), (30.0, {"audio": {"clip_limit_s": 10}})])
    def test_recordings_that_are_too_long(self, serve, limit, sections):
        engine = passing_engine(limit)
        assert post(serve(engine, **sections)).json()["data"]["text"].startswith("Decoded.")
        assert set(ways(engine)) == {"decoded"}

    def test_another_model_than_the_one_that_takes_them(self, serve):
        plain, passing = FakeEngine(name="plain"), passing_engine(name="passing")
        client = serve(plain, passing)
        assert post(client).json()["data"]["model"] == "plain"
        assert post(client, model="passing").json()["data"]["text"] == "As it was sent."
        assert (ways(plain), ways(passing)) == (["decoded"], ["sent"])

    def test_wrong_options_are_refused_as_ever(self, serve):
        engine = passing_engine()
        client = serve(engine)
        assert post(client, language="xx").json()["param"] == "language"
        assert post(client, model="gpt-9").status_code == 404
        assert post(client, vocabularies="none").status_code == 400
        assert engine.asked == []


@asynccontextmanager
async def engine_on(*doubles, **settings):
    engine = VllmEngine(VllmSettings(upstreams=[double.url for double in doubles], **settings))
    await engine.open()
    try:
        yield engine
    finally:
        await engine.close()


def as_sent(data=JFK, form="flac", duration=11.0):
    return Clip(recording().samples[:0], sent=Sent(data, form, duration))


def audio_of(body):
    (url,) = re.findall(r"data:audio/(\w+);base64,([^\"]*)", json.dumps(body))
    return url[0], base64.b64decode(url[1])


class TestVllm:
    def test_the_server_gets_the_file(self):
        wav = media.wav(media.pcm(3))

        async def main():
            async with Double() as double, engine_on(double, pass_through_s=20) as engine:
                assert engine.card.sent_limit == 20
                double.asked.clear()
                heard = await engine.recognise(as_sent(), Ask(context="Names", language="en"))
                assert (heard.text, heard.language, heard.ended) == (SAID, "en", "stop")
                assert heard.usage.prompt_tokens == 20 + 143
                assert audio_of(double.asked[0]) == ("flac", JFK)
                assert (await engine.recognise(as_sent(wav, "wav", 3.0), Ask())).text == SAID
                assert audio_of(double.asked[1]) == ("wav", wav)
                assert double.asked[1]["max_tokens"] == 32 + 75

        asyncio.run(main())

    def test_without_the_setting_and_past_what_fits_nothing_passes(self):
        async def main():
            async with Double() as double, engine_on(double) as engine:
                assert engine.card.sent_limit == 0
            async with Double(length=1200) as double, engine_on(double, pass_through_s=30) as engine:
                assert 10 < engine.card.sent_limit == engine.card.clip_limit < 30

        asyncio.run(main())

    @pytest.mark.parametrize("mode", ["error", "cut", "busy", "garbage"])
    def test_whatever_goes_wrong_nothing_is_held_against_the_server(self, mode):
        async def main():
            async with Double() as one, Double() as other, engine_on(one, other, pass_through_s=20) as engine:
                one.mode = other.mode = mode
                for _ in range(5):
                    with pytest.raises(NotTaken):
                        await engine.recognise(as_sent(), Ask())
                assert [each.state for each in engine.fleet.upstreams.all.values()] == ["up", "up"]
                assert [each.failures for each in engine.fleet.upstreams.all.values()] == [0, 0]
                assert len([body for body in one.asked + other.asked if audio_of(body)[1] == JFK]) == 5
                one.mode = other.mode = "well"
                assert (await engine.recognise(as_sent(), Ask())).text == SAID

        asyncio.run(main())

    def test_a_server_that_takes_no_audio_any_more_or_is_gone(self):
        async def main():
            async with Double() as double, engine_on(double, pass_through_s=20) as engine:
                double.audio = False
                with pytest.raises(NotTaken):
                    await engine.recognise(as_sent(), Ask())
                assert engine.trouble is None
                await double.stop()
                for _ in range(2):
                    with pytest.raises(NotTaken):
                        await engine.recognise(as_sent(), Ask())

        asyncio.run(main())

    @pytest.mark.parametrize("failing", [False, True])
    def test_through_the_whole_service(self, tmp_path, monkeypatch, failing):
        monkeypatch.setattr("tempfile.tempdir", None)

        async def main():
            async with Double() as double:
                settings = Settings(
                    state_dir=tmp_path, vllm={"upstreams": [double.url], "pass_through_s": 20, "retries": 0}
                )
                service = app.build(settings)
                transport = httpx2.ASGITransport(app.create_app(settings, service))
                await service.start()
                try:
                    await service.registry.engine()
                    double.asked.clear()
                    double.refuses = JFK if failing else None
                    async with httpx2.AsyncClient(transport=transport, base_url="http://test") as http:
                        answer = (await http.post(NATIVE, files={"file": JFK})).json()
                    assert answer["data"]["text"] == SAID
                    assert answer["data"]["duration_sec"] == 11.0
                    sent = [audio_of(body)[1] for body in double.asked]
                    assert [data == JFK for data in sent] == ([True, False] if failing else [True])
                finally:
                    await service.close()

        asyncio.run(main())


def test_a_clip_is_as_long_as_it_was_sent():
    assert as_sent(duration=2.5).duration == 2.5
    assert Clip(recording().samples).duration == len(recording().samples) / SAMPLE_RATE
