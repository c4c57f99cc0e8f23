"""What is known of vLLM servers is shown, and operators add, drain and remove them while the service runs."""

import asyncio
import tempfile
import time
from contextlib import asynccontextmanager

import httpx2
import pytest
import uvicorn
from click.testing import CliRunner
from prometheus_client.parser import text_string_to_metric_families

from serving import CLIP, SAID, engine_on, of, run, until
from tingdao import app, checkup, cli, remote
from tingdao.api.servers import ServerStatus
from tingdao.engines.base import Ask
from tingdao.engines.servers import Server
from tingdao.engines.vllm.upstreams import FIRST_PROBE, OVERHEAD
from tingdao.errors import ModelUnavailable
from tingdao.settings import Settings, VllmSettings
from upstream import Double, audio_seconds


@pytest.fixture(autouse=True)
def _temporary_files(monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", None)  # `prepare_state` sets it; this puts it back


@asynccontextmanager
async def service_on(folder, *doubles, **vllm):
    """A whole service whose default model runs on doubles, and a client for it."""
    vllm.setdefault("upstreams", [double.url for double in doubles])
    settings = Settings(state_dir=folder, vllm=VllmSettings(**vllm))
    service = app.build(settings)
    door = app.door(settings, service)
    served = app.create_app(settings, service, front=door)
    transport = httpx2.ASGITransport(served)
    await service.start()
    try:
        await until(lambda: service.registry.state().state in {"ready", "failed"})
        async with httpx2.AsyncClient(transport=transport, base_url="http://test", timeout=60) as http:
            http.service, http.door, http.settings, http.app = service, door, settings, served
            yield http
    finally:
        await service.close()


async def servers(http):
    """The servers of the default model, by name, as `/admin/status` shows them."""
    status = (await http.get("/admin/status")).json()
    return {each["server"]: each for each in status["models"][0]["servers"]}


async def all_up(engine):
    """Wait until two servers are up, and have them the same pace, so that of two calls each gets one."""
    await until(lambda: len(engine.fleet.upstreams.up) == 2)
    for upstream in engine.fleet.upstreams.up:
        upstream.pace = 0.01


async def gauges(http):
    """What `/metrics` says of servers: by name and server."""
    text = (await http.get("/metrics")).text
    return {
        (sample.name.removeprefix("tingdao_server_"), sample.labels["server"]): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if "server" in sample.labels
    }


@pytest.mark.parametrize(
    ("double", "settings", "said"),
    [
        ({}, {"upstreams": ["http://127.0.0.1:9"]}, "It cannot be reached"),
        ({}, {"upstreams": ["http://nowhere.invalid"]}, "The name cannot be looked up"),
        ({}, {"model": "7b"}, "It does not serve the model '7b'"),
        ({"audio": False}, {}, "Its model takes no audio"),
        ({"version": "1.0.0"}, {}, "It is vLLM 1.0.0; what is known here is 0.14 and newer, below 1.0"),
        ({"key": "s3cret"}, {}, "It refuses the key (401)"),
    ],
)
def test_what_is_wrong_is_said_by_health_log_and_check(tmp_path, caplog, double, settings, said):
    async def main():
        async with Double(**double) as server, service_on(tmp_path, server, **settings) as http:
            health = (await http.get("/health")).json()
            assert health["status"] == "failed"
            assert (
                health["notice"] == f"No server of the model can be used. {said}. The log and `tingdao check` say more."
            )
            ready = await http.get("/ready")
            assert (ready.status_code, ready.json()["reason"]) == (503, health["notice"])
            wrong = VllmSettings(**{"upstreams": [server.url]} | settings)
            findings = await asyncio.to_thread(checkup.examine, Settings(state_dir=tmp_path, vllm=wrong))
            (advice,) = [each.advice for each in findings if "cannot be used" in each.what]
            assert advice.startswith(said)

    run(main)
    assert any(said in str(getattr(record, "reason", "")) for record in caplog.records)


class TestShown:
    def test_what_was_found_out_and_what_they_do(self, tmp_path):
        async def main():
            async with Double(latency=0.3) as one, service_on(tmp_path, one) as http:
                name = one.url
                async with http.service.registry.lease() as engine:
                    await engine.recognise(CLIP, Ask())
                    call = asyncio.create_task(engine.recognise(CLIP, Ask()))
                    await until(lambda: one.running == 1)
                    shown, counted = (await servers(http))[name], await gauges(http)
                    await call
                since, pace = shown.pop("since"), shown.pop("pace")
                assert time.time() - 10 < since < time.time()
                assert 0.3 / (4 + OVERHEAD) < pace < 1
                assert shown == {
                    "server": name, "state": "up", "reason": None, "version": "0.32.0", "model": "qwen3-asr",
                    "context_length": 65536, "can": ["context", "force_language", "stream"], "calls": 1,
                    "outstanding_s": 4 + OVERHEAD, "audio_s": 4.0, "failed": 0, "moved": 0,
                }  # fmt: skip
                assert counted.pop(("pace", name)) == pytest.approx(pace, abs=0.001)
                assert counted == {
                    ("up", name): 1, ("draining", name): 0, ("calls", name): 1,
                    ("outstanding_seconds", name): 4 + OVERHEAD, ("audio_seconds_total", name): 4,
                    ("failed_calls_total", name): 0, ("moved_calls_total", name): 0,
                }  # fmt: skip

        run(main)

    def test_a_server_that_fails_and_one_that_cannot_be_used(self, tmp_path):
        async def main():
            async with Double() as one, Double() as other, Double(version="2.0") as strange:
                nowhere = "http://no-such-host.invalid:1"
                urls = [one.url, other.url, strange.url, nowhere]
                async with service_on(tmp_path, upstreams=urls) as http:
                    await until(lambda: "connecting" not in {each.state for each in states(http)})
                    shown = await servers(http)
                    assert shown[strange.url]["state"] == "down"
                    assert "vLLM 2.0" in shown[strange.url]["reason"]
                    assert (shown[strange.url]["version"], shown[strange.url]["can"]) == (None, [])
                    assert shown[strange.url]["pace"] is None
                    assert "cannot be looked up" in shown[nowhere]["reason"]
                    one.mode = "error"
                    async with http.service.registry.lease() as engine:
                        while (await servers(http))[one.url]["state"] == "up":
                            heard = await asyncio.gather(*(engine.recognise(CLIP, Ask()) for _ in range(4)))
                            assert {each.text for each in heard} == {SAID}
                    shown, counted = await servers(http), await gauges(http)
                    assert shown[one.url]["failed"] == counted["failed_calls_total", one.url] >= 3
                    assert "500" in shown[one.url]["reason"]
                    assert [counted["up", url] for url in urls] == [0, 1, 0, 0]

        run(main)

    def test_models_say_what_their_servers_can(self, tmp_path):
        async def main():
            async with (
                Double() as one,
                Double(length=4096, obeys=False, upload=None) as other,
                service_on(tmp_path, one, other) as http,
            ):
                await until(lambda: [each.state for each in states(http)] == ["up", "up"])
                (model,) = [each for each in (await http.get("/v1/models")).json()["data"] if each["default"]]
                assert model["can"] == ["context", "force_language", "stream"]
                assert model["clip_limit"] < 60
                assert one.url not in str(model)  # where servers are, is for operators

        run(main)

    def test_calls_that_are_moved_and_a_server_that_leaves(self, tmp_path):
        async def main():
            async with Double() as one, Double() as other, engine_on(one, other) as engine:
                await all_up(engine)
                one.mode = other.mode = "silent"
                calls = [asyncio.create_task(engine.recognise(CLIP, Ask())) for _ in range(2)]
                await until(lambda: (one.hung, other.hung) == (1, 1))
                other.mode = "well"
                engine.fleet.upstreams.lose(of(engine, one), "a test wants it so")
                await until(lambda: calls[0].done() or calls[1].done())
                assert of(engine, one).moved == 1
                await engine.fleet.change("remove", other.url)
                await until(lambda: engine.fleet.states()[-1].state == "leaving")
                assert engine.fleet.states()[-1].name == other.url
                assert engine.fleet.states()[-1].calls == 1
                for call in calls:
                    call.cancel()
                await until(lambda: [each.name for each in engine.fleet.states()] == [one.url])
                assert list(engine.fleet._addresses.values()) == list(engine.fleet.upstreams.all)

        run(main)

    def test_calls_that_fail_together_put_a_server_off_once(self):
        async def main():
            async with Double() as one, engine_on(one, retries=0, wait_s=0) as engine:
                upstream = of(engine, one)
                one.mode = "error"
                await asyncio.gather(*(engine.recognise(CLIP, Ask()) for _ in range(12)), return_exceptions=True)
                assert upstream.state == "down"
                assert upstream.again - time.monotonic() <= FIRST_PROBE

        run(main)


async def change(http, what, server, **more):
    """Have an operator change something; the answer."""
    return await http.post(f"/admin/{what}-server", json={"server": server, **more})


class TestChanging:
    def test_one_is_added_and_used_at_once(self, tmp_path):
        async def main():
            async with Double() as one, Double() as other, service_on(tmp_path, one) as http:
                for _ in range(2):  # the second time there is nothing to do
                    answer = await change(http, "add", other.url + "/v1/", model="qwen3-asr")
                    said = answer.json()
                    assert (answer.status_code, said["status"], said["reason"]) == (200, "added", None)
                    assert [(each["server"], each["state"]) for each in said["servers"]] == [
                        (one.url, "up"), (other.url, "up"),
                    ]  # fmt: skip
                before = other.done
                async with http.service.registry.lease() as engine:
                    await asyncio.gather(*(engine.recognise(CLIP, Ask()) for _ in range(40)))
                assert other.done > before

        run(main)

    def test_one_that_cannot_be_used_is_added_and_says_why(self, tmp_path):
        async def main():
            async with Double() as one, service_on(tmp_path, one) as http:
                said = (await change(http, "add", "http://127.0.0.1:1")).json()
                assert said["reason"] is None
                assert (said["servers"][1]["state"], said["servers"][0]["state"]) == ("down", "up")
                assert "cannot be reached" in said["servers"][1]["reason"]
                said = (await change(http, "add", "http://no-such-host.invalid")).json()
                assert "cannot be looked up" in said["servers"][2]["reason"]
                for server in ("http://127.0.0.1:1", "http://no-such-host.invalid"):
                    said = (await change(http, "remove", server)).json()
                assert [each["server"] for each in said["servers"]] == [one.url]

        run(main)

    def test_a_drained_one_finishes_and_gets_nothing_until_it_is_resumed(self, tmp_path):
        async def main():
            async with Double() as one, Double() as other, service_on(tmp_path, one, other, canary_s=0.1) as http:
                await all_up(http.service.registry._served["qwen3-asr"].slot.model)
                one.latency = other.latency = 0.4
                async with http.service.registry.lease() as engine:
                    calls = [asyncio.create_task(engine.recognise(CLIP, Ask())) for _ in range(2)]
                    await until(lambda: sum(each.calls for each in states(http)) == 2 and one.running >= 1)
                    said = (await change(http, "drain", one.url)).json()
                    assert [each["state"] for each in said["servers"]] == ["draining", "up"]
                    assert (said["status"], said["reason"]) == ("drained", None)
                    assert {(await call).text for call in calls} == {SAID}
                    one.latency = other.latency = 0
                    asked = len(one.asked)
                    await asyncio.gather(*(engine.recognise(CLIP, Ask()) for _ in range(6)))
                    await asyncio.sleep(0.5)  # time enough for canaries
                    assert len(one.asked) == asked
                    assert (await gauges(http))["draining", one.url] == 1
                    assert (await gauges(http))["up", one.url] == 0

                    one.version = "0.33.0"  # it was drained for something
                    said = (await change(http, "resume", one.url)).json()
                    assert (said["status"], said["servers"][0]["state"]) == ("resumed", "up")
                    assert said["servers"][0]["version"] == "0.33.0"
                    done = one.done
                    await asyncio.gather(*(engine.recognise(CLIP, Ask()) for _ in range(6)))
                    assert one.done > done

        run(main)

    def test_the_last_one_may_be_drained_and_that_is_said(self, tmp_path):
        async def main():
            async with Double() as one, service_on(tmp_path, one, wait_s=0.1) as http:
                said = (await change(http, "drain", one.url)).json()
                assert said["reason"] == f"No vLLM server can be used. {one.url}: It is drained."
                assert (await http.get("/ready")).status_code == 503
                assert (await gauges(http))["up", one.url] == 0
                with pytest.raises(ModelUnavailable):
                    async with http.service.registry.lease() as engine:
                        await engine.recognise(CLIP, Ask())
                assert (await change(http, "resume", one.url)).json()["reason"] is None
                assert (await http.get("/ready")).status_code == 200
                said = (await change(http, "remove", one.url)).json()
                assert said["servers"] == []
                assert said["reason"] == "No vLLM server can be used. There is none."

        run(main)

    def test_a_drained_one_that_dies_is_no_alarm_and_is_examined_before_it_is_used_again(self, tmp_path, caplog):
        async def main():
            async with Double() as one, Double() as other, service_on(tmp_path, one, other) as http:
                await until(lambda: [each.state for each in states(http)] == ["up", "up"])
                await change(http, "drain", one.url)
                await one.stop()
                await until(lambda: states(http)[0].reason, 6)
                assert states(http)[0].state == "draining"
                said = (await change(http, "resume", one.url)).json()
                assert said["servers"][0]["state"] == "down"
                again = await Double().start(one.port)
                await until(lambda: states(http)[0].state == "up", 6)
                await again.stop()

        run(main)
        levels = [record.levelname for record in caplog.records if record.message == "upstream down"]
        assert levels[0] == "WARNING"

    def test_a_removed_one_finishes_and_does_not_come_back(self, tmp_path):
        async def main():
            async with Double() as one, Double() as other, service_on(tmp_path, one, other, resolve_s=0.1) as http:
                await all_up(http.service.registry._served["qwen3-asr"].slot.model)
                one.latency = 0.5
                async with http.service.registry.lease() as engine:
                    calls = [asyncio.create_task(engine.recognise(CLIP, Ask())) for _ in range(2)]
                    await until(lambda: one.running == 1)
                    said = (await change(http, "remove", one.url)).json()
                    assert {(each["server"], each["state"]) for each in said["servers"]} == {
                        (other.url, "up"), (one.url, "leaving"),
                    }  # fmt: skip
                    assert {(await call).text for call in calls} == {SAID}
                    assert one.left == 0
                await asyncio.sleep(0.3)
                assert list(await servers(http)) == [other.url]
                answer = await change(http, "drain", one.url)
                assert (answer.status_code, answer.json()["error"]["code"]) == (404, "server_not_found")
                said = (await change(http, "add", one.url)).json()
                assert [each["state"] for each in said["servers"]] == ["up", "up"]

        run(main)

    def test_one_address_behind_a_name(self):
        async def main():
            async with Double() as double:

                async def lookup(*_):
                    return ["127.0.0.1", "127.0.0.2"]

                url = f"http://gpus.internal:{double.port}"
                one, other = f"{url} (127.0.0.1)", f"{url} (127.0.0.2)"
                async with engine_on(upstreams=[url], lookup=lookup, resolve_s=0.1) as engine:

                    def shown():
                        return {each.name: each.state for each in engine.fleet.states()}

                    await until(lambda: shown() == {one: "up", other: "down"})
                    await engine.fleet.change("drain", one)
                    assert shown() == {one: "draining", other: "down"}
                    await engine.fleet.change("resume", url)
                    assert shown() == {one: "up", other: "down"}
                    await engine.fleet.change("remove", other)
                    await asyncio.sleep(0.3)
                    assert shown() == {one: "up"}
                    await engine.fleet.change("add", url)  # with all that is behind it
                    assert shown() == {one: "up", other: "down"}
                    await engine.fleet.change("drain", url)
                    assert shown() == {one: "draining", other: "draining"}

        run(main)

    @pytest.mark.parametrize(
        ("path", "body", "status", "code", "param"),
        [
            ("add", {"server": "gpu1:8000"}, 400, "invalid_request", "server"),
            ("add", {"server": "http://["}, 400, "invalid_request", "server"),
            ("add", {"server": "http://gpu1:99999"}, 400, "invalid_request", "server"),
            ("add", {"server": ""}, 400, "invalid_request", "server"),
            ("add", {"server": 3}, 400, "invalid_request", "server"),
            ("add", {}, 400, "invalid_request", "server"),
            ("add", {"server": "http://gpu1", "weight": 2}, 400, "invalid_request", "weight"),
            ("drain", {"server": "http://gpu1:8000"}, 404, "server_not_found", "server"),
            ("resume", {"server": "nothing like a server"}, 404, "server_not_found", "server"),
            ("remove", {"server": "http://gpu1:8000"}, 404, "server_not_found", "server"),
            ("add", {"server": "http://gpu1", "model": "none"}, 404, "model_not_found", "model"),
            ("add", {"server": "http://gpu1", "model": "whisper-base"}, 400, "invalid_request", "model"),
        ],
    )
    def test_what_is_wrong_is_said(self, tmp_path, path, body, status, code, param):
        async def main():
            async with Double() as one, service_on(tmp_path, one) as http:
                answer = await http.post(f"/admin/{path}-server", json=body)
                assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)
                assert answer.json()["error"]["param"] == param
                assert list(await servers(http)) == [one.url]
                if code == "server_not_found":
                    assert one.url in answer.json()["error"]["message"]

        run(main)

    def test_names_that_nobody_can_look_up_do_no_harm(self, tmp_path):
        async def main():
            async with Double() as one, Double() as other, service_on(tmp_path, one) as http:
                for server in ("http://a\x00b", "http://" + "a" * 300, "http://xn--zzzzzzz-.example\u0301"):
                    said = (await change(http, "add", server)).json()
                    assert said["servers"][-1]["state"] == "down", said
                said = (await change(http, "add", other.url)).json()
                assert {each["server"]: each["state"] for each in said["servers"]}[other.url] == "up"

        run(main)

    def test_not_while_the_models_are_being_changed_nor_before_they_are_loaded(self, tmp_path):
        async def main():
            async with Double() as one, service_on(tmp_path, one) as http:
                registry = http.service.registry
                with registry._alone():
                    answer = await change(http, "drain", one.url)
                    assert (answer.status_code, answer.json()["error"]["code"]) == (409, "conflict")
                assert (await servers(http))[one.url]["state"] == "up"
                await registry.unload()
                answer = await change(http, "drain", one.url)
                assert (answer.status_code, answer.json()["error"]["code"]) == (409, "conflict")

        run(main)

    def test_two_changes_at_once_are_both_made(self, tmp_path):
        async def main():
            async with Double() as one, Double() as other, Double() as third, service_on(tmp_path, one) as http:
                answers = await asyncio.gather(
                    change(http, "add", other.url), change(http, "add", third.url), change(http, "drain", one.url)
                )
                assert [answer.status_code for answer in answers] == [200, 200, 200]
                assert [each["state"] for each in (await servers(http)).values()] == ["draining", "up", "up"]

        run(main)

    def test_it_is_logged_who_did_what_and_only_operators_may(self, tmp_path, caplog):
        async def main():
            async with Double() as one, service_on(tmp_path, one) as http:
                answer = await http.post(
                    "/admin/drain-server", json={"server": one.url}, headers={"x-forwarded-for": "203.0.113.9"}
                )
                assert answer.status_code == 403
                keys = http.door.access.keys
                key, user = keys.add("carol", admin=True), keys.add("dave")
                keys.reload()
                for token, status in ((user, 403), (key, 200)):
                    answer = await http.post(
                        "/admin/drain-server",
                        json={"server": one.url},
                        headers={"authorization": f"Bearer {token}"},
                    )
                    assert answer.status_code == status, answer.text

        caplog.set_level("INFO")
        run(main)
        (line,) = [record for record in caplog.records if record.message == "servers changed"]
        assert (line.change, line.model, line.key) == ("drained", "qwen3-asr", "carol")


async def reread(http, *doubles, **vllm):
    """Have the service take up other settings, as on SIGHUP; what could not be done."""
    named = VllmSettings(upstreams=[double.url for double in doubles], **vllm)
    return await app.apply(http.settings.model_copy(update={"vllm": named}), http.service, http.door)


def canaries(double):
    """How often a double was asked something to find out about it."""
    return sum(audio_seconds(body) < CLIP.duration for body in double.asked)


class TestSettings:
    def test_one_comes_and_one_goes_under_load_and_no_call_fails(self, tmp_path):
        async def main():
            failures, done, end = [], [], asyncio.Event()
            async with (
                Double(latency=0.05) as kept,
                Double(latency=0.05) as going,
                Double(latency=0.05) as coming,
                service_on(tmp_path, kept, going, width=4) as http,
                http.service.registry.lease() as engine,
            ):
                await until(lambda: [each.state for each in states(http)] == ["up", "up"])
                before = http.service.registry._served["qwen3-asr"].slot.model

                async def caller():
                    while not end.is_set():
                        try:
                            done.append((await engine.recognise(CLIP, Ask())).text)
                        except Exception as error:  # noqa: BLE001  every one is counted
                            failures.append(error)

                callers = [asyncio.create_task(caller()) for _ in range(8)]
                await until(lambda: min(kept.done, going.done) > 10, 30)
                counted = canaries(kept), canaries(coming)
                assert await reread(http, kept, coming, width=4) == []
                assert list(await servers(http))[:2] == [kept.url, coming.url]
                answered = going.done, coming.done
                await until(lambda: coming.done > answered[1] + 10, 30)
                end.set()
                await asyncio.gather(*callers)
                assert not failures
                assert set(done) == {SAID}
                assert going.left == 0
                assert going.done - answered[0] <= 4  # what it had
                # The engine is the same, and nobody is examined who is known.
                assert http.service.registry._served["qwen3-asr"].slot.model is before
                assert (canaries(kept) - counted[0], canaries(coming) - counted[1]) == (0, 2)

        run(main)

    def test_the_settings_count_again_when_they_name_others_and_what_is_drained_stays_so(self, tmp_path):
        async def main():
            async with (
                Double() as one,
                Double() as other,
                Double() as added,
                Double() as third,
                service_on(tmp_path, one, other, resolve_s=0.1) as http,
            ):
                await until(lambda: [each.state for each in states(http)] == ["up", "up"])
                await change(http, "drain", one.url)
                await change(http, "remove", other.url)
                await change(http, "add", added.url)

                async def shown():
                    return {url: each["state"] for url, each in (await servers(http)).items()}

                mine = {one.url: "draining", added.url: "up"}
                assert await shown() == mine
                assert await reread(http, one, other, resolve_s=0.1) == []  # as they were
                await asyncio.sleep(0.3)
                assert await shown() == mine
                assert await reread(http, one, other, third, resolve_s=0.1) == []
                assert await shown() == {one.url: "draining", other.url: "up", third.url: "up"}

        run(main)

    def test_when_none_of_the_new_ones_can_be_used_the_old_ones_stay(self, tmp_path):
        async def main():
            async with Double() as one, Double(version="7.0") as strange, service_on(tmp_path, one) as http:
                (problem,) = await reread(http, strange)
                assert "The vLLM servers stay as they were" in problem
                assert "vLLM 7.0" in problem
                assert [(each.name, each.state) for each in states(http)] == [(one.url, "up")]
                await one.stop()
                await until(lambda: states(http)[0].state == "down", 6)
                assert await reread(http, strange) == []  # there is nothing to lose
                assert [each.name for each in states(http)] == [strange.url]

        run(main)

    def test_settings_of_connections_make_another_engine(self, tmp_path):
        async def main():
            async with Double() as one, service_on(tmp_path, one) as http:
                before = http.service.registry._served["qwen3-asr"].slot.model
                await change(http, "add", "http://127.0.0.1:1")
                assert await reread(http, one, model="qwen3-asr") == []
                after = http.service.registry._served["qwen3-asr"].slot.model
                assert after is not before
                assert list(await servers(http)) == [one.url]

        run(main)


class TestInstances:
    def test_two_that_know_nothing_of_each_other_use_two_servers_well(self):
        async def main():
            # 30 and 10 clips of 4 s per second, one after another.
            async with (
                Double(speed=120) as fast,
                Double(speed=40) as slow,
                engine_on(fast, slow, width=16) as one,
                engine_on(fast, slow, width=16) as other,
            ):
                end = asyncio.Event()

                async def caller(engine):
                    while not end.is_set():
                        assert (await engine.recognise(CLIP, Ask())).text == SAID

                for engine in (one, other):
                    await until(lambda engine=engine: len(engine.fleet.upstreams.up) == 2)
                callers = [asyncio.create_task(caller(engine)) for engine in (one, other) for _ in range(12)]
                await asyncio.sleep(1.5)  # until the pace is known
                before, began = (fast.busy, slow.busy), time.monotonic()
                await asyncio.sleep(3)
                seconds = time.monotonic() - began
                shares = [(now - then) / seconds for now, then in zip((fast.busy, slow.busy), before, strict=True)]
                end.set()
                await asyncio.gather(*callers)
                return shares

        fast, slow = run(main)
        assert (120 * fast + 40 * slow) / (120 + 40) >= 0.9, (fast, slow)


class TestCommand:
    @pytest.fixture
    def command(self, monkeypatch, tmp_path):
        """The command, and what it asked a service that answers with what is set here."""
        monkeypatch.chdir(tmp_path)
        monkeypatch.setenv("TINGDAO_STATE_DIR", str(tmp_path))
        asked, answers = [], []

        async def ask(*arguments):
            asked.append(arguments[:4])
            return answers.pop()

        def command(answer, *arguments):
            answers.append(answer)
            done = CliRunner().invoke(cli.main, ["servers", *arguments])
            return done.exit_code, done.stdout.splitlines(), done.stderr

        monkeypatch.setattr(remote, "ask", ask)
        command.asked = asked
        return command

    UP = ServerStatus.of(
        Server("http://gpu1", "up", version="0.32.0", model="qwen3-asr", calls=2, outstanding=31.4, pace=0.0123)
    ).model_dump()
    DOWN = ServerStatus.of(Server("http://gpu2", "down", reason="It is ill")).model_dump()

    def test_shows_them(self, command):
        models = [
            {"name": "whisper-base", "reason": None, "servers": []},
            {"name": "qwen3-asr", "reason": None, "servers": [self.UP, self.DOWN]},
        ]
        code, lines, _ = command({"models": models}, "--url", "http://127.0.0.1:9", "--key", "td_1")
        assert command.asked == [("http://127.0.0.1:9", "/admin/status", None, "td_1")]
        assert (code, lines[0]) == (0, "qwen3-asr can answer.")
        assert lines[1].split()[:4] == ["server", "state", "version", "model"]
        assert lines[2].split() == [
            "http://gpu1",
            "up",
            "0.32.0",
            "qwen3-asr",
            "2",
            "31",
            "s",
            "0.012",
            "0",
            "s",
            "0",
            "0",
        ]
        assert lines[3].split()[:2] == ["http://gpu2", "down"]
        assert lines[4] == "    → It is ill"
        assert command({"models": models[:1]})[1] == ["No model there runs on vLLM servers, or none of them is loaded."]

    def test_changes_them(self, command):
        answer = {"status": "drained", "model": "qwen3-asr", "reason": "None is up.", "servers": []}
        code, lines, _ = command(answer, "drain", "http://gpu1", "--model", "qwen3-asr")
        body = {"model": "qwen3-asr", "server": "http://gpu1"}
        assert command.asked == [("http://127.0.0.1:8000", "/admin/drain-server", body, None)]
        assert (code, lines) == (
            0, ["http://gpu1 is drained.", "qwen3-asr cannot answer now.", "It has no servers."],
        )  # fmt: skip
        code, _, told = command({}, "remove")
        assert code == 2
        assert "Which server?" in told

    def test_against_a_service(self, tmp_path):
        async def main():
            async with Double() as one, service_on(tmp_path, one) as http:
                server = uvicorn.Server(uvicorn.Config(http.app, port=0, lifespan="off", log_config=None))
                serving = asyncio.create_task(server.serve())
                await until(lambda: server.started)
                port = server.servers[0].sockets[0].getsockname()[1]
                url = ("--url", f"http://127.0.0.1:{port}")
                ran = [
                    await asyncio.to_thread(CliRunner().invoke, cli.main, ["servers", *arguments, *url])
                    for arguments in ([], ["drain", one.url], ["drain", "http://gpu9"])
                ]
                server.should_exit = True
                await serving
                return one.url, ran

        url, (listed, drained, unknown) = run(main)
        assert f"{url}  up " in listed.stdout
        assert drained.stdout.startswith(f"{url} is drained.\nqwen3-asr cannot answer now.")
        assert unknown.exit_code == 2
        assert "There is no server 'http://gpu9'" in unknown.stderr


def states(http):
    """What is known of the servers of the default model."""
    return http.service.registry.state().servers
