"""What is known of vLLM servers is shown, and operators add, drain and remove them while the service runs."""

import asyncio
import tempfile
import time
from contextlib import asynccontextmanager

import httpx2
import pytest
from prometheus_client.parser import text_string_to_metric_families

from serving import CLIP, SAID, engine_on, of, run, until
from tingdao import app
from tingdao.engines.base import Ask
from tingdao.engines.vllm.upstreams import FIRST_PROBE, OVERHEAD
from tingdao.settings import Settings, VllmSettings
from upstream import Double


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
    transport = httpx2.ASGITransport(app.create_app(settings, service, front=door))
    await service.start()
    try:
        await until(lambda: service.registry.state().state in {"ready", "failed"})
        async with httpx2.AsyncClient(transport=transport, base_url="http://test", timeout=60) as http:
            http.service, http.door = service, door
            yield http
    finally:
        await service.close()


async def servers(http):
    """The servers of the default model, by name, as `/admin/status` shows them."""
    status = (await http.get("/admin/status")).json()
    return {each["server"]: each for each in status["models"][0]["servers"]}


async def gauges(http):
    """What `/metrics` says of servers: by name and server."""
    text = (await http.get("/metrics")).text
    return {
        (sample.name.removeprefix("tingdao_server_"), sample.labels["server"]): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if "server" in sample.labels
    }


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

    def test_models_say_what_all_their_servers_can(self, tmp_path):
        async def main():
            async with (
                Double() as one,
                Double(length=4096, obeys=False) as other,
                service_on(tmp_path, one, other) as http,
            ):
                await until(lambda: [each.state for each in states(http)] == ["up", "up"])
                (model,) = [each for each in (await http.get("/v1/models")).json()["data"] if each["default"]]
                assert model["can"] == ["context", "stream"]
                assert model["clip_limit"] < 60
                assert one.url not in str(model)  # where servers are, is for operators

        run(main)

    def test_calls_that_are_moved_and_a_server_that_leaves(self, tmp_path):
        async def main():
            async with Double() as one, Double() as other, engine_on(one, other) as engine:
                await until(lambda: len(engine.fleet.upstreams.up) == 2)
                one.mode = other.mode = "silent"
                calls = [asyncio.create_task(engine.recognise(CLIP, Ask())) for _ in range(2)]
                await until(lambda: (one.running, other.running) == (1, 1))
                other.mode = "well"
                engine.fleet.upstreams.lose(of(engine, one), "a test wants it so")
                await until(lambda: calls[0].done() or calls[1].done())
                assert of(engine, one).moved == 1
                engine.fleet.remove(other.url)
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


def states(http):
    """What is known of the servers of the default model."""
    return http.service.registry.state().servers
