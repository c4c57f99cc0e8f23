"""Which model gets a request, by table; and a service that routes."""

import asyncio
from pathlib import Path

import pytest
from pydantic import ValidationError

from conftest import FakeEngine
from tingdao.engines.routing import Load, horizon, ranked
from tingdao.errors import EngineFailed, SetupError
from tingdao.settings import Route, RoutingSettings, load

SHIPPED = (Route(model="1.7b", max_duration_s=30), Route(model="0.6b"))
TURNED = (Route(model="0.6b", max_duration_s=30), Route(model="1.7b"))
CHINESE = (Route(model="zh", languages=("zh", "yue")), Route(model="other"))
RELIEF = (Route(model="large", max_waiting=4), Route(model="small"))
BOTH = (Route(model="a", max_duration_s=10, languages=("en",)), Route(model="b", max_duration_s=60), Route(model="a"))


@pytest.mark.parametrize(
    ("routes", "duration", "language", "loads", "expected"),
    [
        (SHIPPED, 0.5, None, {}, ["1.7b", "0.6b"]),
        (SHIPPED, 30.0, None, {}, ["1.7b", "0.6b"]),
        (SHIPPED, 30.01, None, {}, ["0.6b", "1.7b"]),
        (TURNED, 30.0, None, {}, ["0.6b", "1.7b"]),
        (TURNED, 31.0, None, {}, ["1.7b", "0.6b"]),
        (CHINESE, 5.0, "yue", {}, ["zh", "other"]),
        (CHINESE, 5.0, "en", {}, ["other", "zh"]),
        (CHINESE, 5.0, None, {}, ["other", "zh"]),
        (RELIEF, 5.0, None, {"large": Load(waiting=4)}, ["large", "small"]),
        (RELIEF, 5.0, None, {"large": Load(waiting=5)}, ["small", "large"]),
        (BOTH, 10.0, "en", {}, ["a", "b"]),
        (BOTH, 10.0, "de", {}, ["b", "a"]),
        (BOTH, 61.0, "en", {}, ["a", "b"]),
        # What is down comes last, whatever fits.
        (SHIPPED, 5.0, None, {"1.7b": Load(up=False)}, ["0.6b", "1.7b"]),
        (SHIPPED, 60.0, None, {"0.6b": Load(up=False)}, ["1.7b", "0.6b"]),
        (SHIPPED, 60.0, None, {"0.6b": Load(up=False), "1.7b": Load(up=False)}, ["0.6b", "1.7b"]),
        ((Route(model="only"),), 5.0, None, {"only": Load(up=False, waiting=99)}, ["only"]),
    ],
)
def test_the_table(routes, duration, language, loads, expected):
    loads = {route.model: loads.get(route.model, Load()) for route in routes}
    assert ranked(routes, duration=duration, language=language, loads=loads) == expected


@pytest.mark.parametrize(("routes", "seconds"), [((), 0), (CHINESE, 0), (SHIPPED, 30), (BOTH, 60)])
def test_how_much_of_a_recording_matters(routes, seconds):
    assert horizon(routes) == seconds


def test_the_last_route_takes_everything():
    with pytest.raises(ValidationError, match="no condition"):
        RoutingSettings(auto=(Route(model="a"), Route(model="b", max_duration_s=30)))


def test_routes_are_read_from_the_file_and_from_the_environment(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    Path("tingdao.toml").write_text('[routing]\nauto = [{ model = "1.7b", max_duration_s = 30 }, { model = "0.6b" }]\n')
    assert load().routing.auto == SHIPPED
    monkeypatch.setenv("TINGDAO_ROUTING_AUTO", '[{"model": "0.6b", "max_duration_s": 30}, {"model": "1.7b"}]')
    assert load().routing.auto == TURNED


@pytest.mark.parametrize(
    ("line", "named"),
    [('auto = [{ model = "a", duration = 3 }]', "duration"), ("auto = [{ max_duration_s = 3 }]", "model")],
)
def test_what_a_route_does_not_know_or_lacks_is_named(monkeypatch, tmp_path, line, named):
    monkeypatch.chdir(tmp_path)
    Path("tingdao.toml").write_text(f"[routing]\n{line}\n")
    with pytest.raises(SetupError, match=rf"routing\.auto .*\[{named}\]"):
        load()


class TestService:
    """cards_001 has 1.1 s, jfk 11 s."""

    @pytest.fixture
    def engines(self):
        return {name: FakeEngine(name=name) for name in ("short", "long")}

    @pytest.fixture
    def send(self, make_client, engines, recordings):
        routes = [{"model": "short", "max_duration_s": 5}, {"model": "long"}]
        client = make_client(*engines.values(), routing={"auto": routes})

        def send(*files, **fields):
            async def main():
                async with client.session() as http:
                    return [
                        await http.post(
                            "/api/v1/transcribe", files={"file": (recordings / file).read_bytes()}, data=fields
                        )
                        for file in files
                    ]

            return asyncio.run(main())

        return send

    def models(self, answers):
        assert [answer.status_code for answer in answers] == [200] * len(answers), answers[0].text
        return [answer.json()["data"]["model"] for answer in answers]

    @pytest.mark.parametrize("fields", [{}, {"model": "auto"}, {"model": "default"}, {"model": "whisper-1"}])
    def test_by_duration_whoever_leaves_the_choice(self, send, fields):
        assert self.models(send("cards_001.flac", "jfk.flac", **fields)) == ["short", "long"]

    def test_a_named_model_is_taken_at_its_name(self, send):
        assert self.models(send("cards_001.flac", "jfk.flac", model="long")) == ["long", "long"]

    def test_the_next_one_answers_when_a_model_fails(self, send, engines):
        engines["short"].fail = EngineFailed("broken")
        assert self.models(send("cards_001.flac", "jfk.flac")) == ["long", "long"]
        engines["short"].fail, engines["long"].fail = None, EngineFailed("broken")
        assert self.models(send("cards_001.flac", "jfk.flac")) == ["short", "short"]

    def test_when_all_fail_the_error_is_the_engines(self, send, engines):
        for engine in engines.values():
            engine.fail = EngineFailed("broken")
        (answer,) = send("cards_001.flac")
        assert (answer.status_code, answer.json()["error"]) == (500, "engine_failed")

    def test_a_named_model_that_fails_is_not_replaced_by_another(self, send, engines):
        engines["long"].fail = EngineFailed("broken")
        (answer,) = send("cards_001.flac", model="long")
        assert answer.json()["error"] == "engine_failed"
        assert engines["short"].asked == []

    def test_what_is_wrong_with_the_request_is_not_tried_again(self, send, engines):
        (answer,) = send("cards_001.flac", language="xx")
        assert answer.json()["error"] == "unknown_language"
        assert all(engine.asked == [] for engine in engines.values())
