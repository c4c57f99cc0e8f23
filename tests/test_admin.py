"""What operators may do to a running service."""

import asyncio
import threading

import pytest
from click.testing import CliRunner

import tingdao
from conftest import FakeEngine
from tingdao import cli, remote
from tingdao.engines.base import Recognition
from tingdao.engines.offer import Offer
from tingdao.errors import EngineFailed, SetupError


def talk(client, work):
    """Run a coroutine function with a started service and a client for it."""

    async def main():
        async with client.session() as http:
            return await work(http)

    return asyncio.run(main())


@pytest.fixture
def two(make_client):
    return make_client(FakeEngine(name="a"), FakeEngine(name="b"))


class TestStatus:
    def test_before_anything_happened(self, two):
        async def work(http):
            await two.service.registry.load()
            return (await http.get("/admin/status")).json()

        status = talk(two, work)
        assert status["version"] == tingdao.__version__
        assert status["uptime_s"] >= 0
        assert status["memory_bytes"] > 10_000_000
        assert status["queue"] == {
            "requests": 0, "recordings": 0, "calls": 0, "waiting": 0, "audio_s": 0.0, "speed": None, "wait_s": 0.0
        }  # fmt: skip
        assert status["disk_free_bytes"] > 0
        assert (status["requests"], status["troubles"], status["gpus"], status["aligner"]) == ([], [], [], None)
        a, b = status["models"]
        since = a.pop("loaded_since")
        assert since > 1_600_000_000
        assert a == {
            "name": "a", "state": "ready", "reason": None, "reloading": False, "default": True, "kept": True,
            "recordings": 0, "calls": 0, "waiting": 0, "retiring": 0, "memory_bytes": None, "servers": [],
        }  # fmt: skip
        assert (b["name"], b["state"], b["default"], b["kept"], b["loaded_since"]) == ("b", "idle", False, False, None)

    def test_while_work_is_done(self, two, recordings):
        async def work(http):
            two.engine.hold = asyncio.Event()
            files = {"file": (recordings / "cards_001.flac").read_bytes()}
            sent = [asyncio.create_task(http.post("/api/v1/transcribe", files=files)) for _ in range(4)]
            async with asyncio.timeout(20):
                while True:
                    status = (await http.get("/admin/status")).json()
                    decoding = any("decode" in each["stages"] for each in status["requests"])
                    if status["queue"]["waiting"] == 2 and not decoding:
                        break
                    await asyncio.sleep(0.01)
            two.engine.hold.set()
            await asyncio.gather(*sent)
            return status

        status = talk(two, work)
        # One clip more than the model does side by side is handed to it, so that it never waits for the next.
        assert {name: status["queue"][name] for name in ("requests", "recordings", "calls", "waiting")} == {
            "requests": 4, "recordings": 4, "calls": 3, "waiting": 2
        }  # fmt: skip
        assert [each["path"] for each in status["requests"]] == ["/api/v1/transcribe"] * 4
        assert sorted(each["stages"] for each in status["requests"]) == [["queue"], *[["recognise"]] * 3]
        assert {each["model"] for each in status["requests"]} == {"a"}
        assert all(each["seconds"] >= 0 and len(each["request_id"]) == 32 for each in status["requests"])

    def test_remembers_what_failed_through_its_own_fault(self, two, recordings):
        async def work(http):
            two.engine.fail = EngineFailed("The model failed.")
            files = {"file": (recordings / "cards_001.flac").read_bytes()}
            for identity in ("first", "second"):
                await http.post("/api/v1/transcribe?model=a", files=files, headers={"x-request-id": identity})
            await http.post("/api/v1/transcribe", files={"file": b"no recording"})
            return (await http.get("/admin/status")).json()["troubles"]

        second, first = talk(two, work)
        assert first.pop("at") <= second.pop("at")
        assert (first["request_id"], second["request_id"]) == ("first", "second")
        assert second | {"request_id": ""} == {
            "request_id": "", "key": None, "route": "/api/v1/transcribe", "model": "a", "status": 500,
            "error": "engine_failed",
        }  # fmt: skip

    def test_says_why_a_model_is_not_there(self, two):
        async def work(http):
            def fail():
                raise SetupError("no weights in /models/b")

            two.service.registry._served["b"].slot.offer = Offer("b", fail)
            answer = await http.post("/admin/load-model", json={"model": "b"})
            assert (answer.status_code, answer.json()["error"]["code"]) == (500, "reload_failed")
            assert answer.json()["error"]["message"] == "no weights in /models/b The model is down."
            return (await http.get("/admin/status")).json()["models"][1]

        b = talk(two, work)
        assert (b["state"], b["reason"]) == ("failed", "no weights in /models/b")


class TestChanging:
    @pytest.mark.parametrize("body", [{}, {"json": {}}, {"json": {"model": None}}, {"json": {"model": "default"}}])
    def test_reloads_the_default_model(self, two, body):
        async def work(http):
            await two.service.registry.load()
            before = two.service.registry.state("a").since
            answer = (await http.post("/admin/reload-model", **body)).json()
            assert two.service.registry.state("a").since > before
            return answer

        answer = talk(two, work)
        assert answer.pop("seconds") >= 0
        assert answer == {"status": "reloaded", "model": "a"}

    def test_loads_and_unloads_what_is_offered(self, two):
        async def work(http):
            states = []
            for path in ("load-model", "unload-model"):
                answer = await http.post(f"/admin/{path}", json={"model": "b"})
                states.append((answer.json()["status"], two.service.registry.state("b").state))
            return states

        assert talk(two, work) == [("loaded", "ready"), ("unloaded", "idle")]

    def test_a_model_that_waits_to_be_asked_for_is_healthy(self, make_client):
        assert make_client(models={"preload": ()}).get("/health").json()["status"] == "ok"

    @pytest.mark.parametrize(
        ("body", "status", "code"),
        [
            ({"json": {"model": "/etc"}}, 404, "model_not_found"),
            ({"json": {"path": "/etc"}}, 400, "invalid_request"),
            ({"json": {"model": 3}}, 400, "invalid_request"),
            ({"json": ["a"]}, 400, "invalid_request"),
            ({"content": b"{"}, 400, "invalid_request"),
            ({"content": b"\xff\xfe"}, 400, "invalid_request"),
            ({"json": {"model": "x" * 5000}}, 413, "too_large"),
        ],
    )
    @pytest.mark.parametrize("path", ["reload-model", "load-model", "unload-model"])
    def test_what_is_wrong_is_said(self, client, path, body, status, code):
        answer = client.post(f"/admin/{path}", **body)
        assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)

    def test_a_bad_model_leaves_the_old_one(self, two):
        async def work(http):
            deaf = FakeEngine(name="a")
            deaf.answer = lambda clip, ask: Recognition(text="", language=None)
            await two.service.registry.load()
            two.service.registry._served["a"].slot.offer = Offer("a", lambda: deaf)
            return await http.post("/admin/reload-model")

        answer = talk(two, work)
        assert (answer.status_code, answer.json()["error"]["code"]) == (500, "reload_failed")
        assert "canary" in answer.json()["error"]["message"]
        assert "The version that was there serves on." in answer.json()["error"]["message"]

    def test_two_at_once_and_a_model_at_work_are_a_conflict(self, two):
        async def work(http):
            go_on = threading.Event()
            registry = two.service.registry
            await registry.load()
            registry._served["a"].slot.offer = Offer("a", lambda: go_on.wait(10) and FakeEngine(name="a"))
            first = asyncio.create_task(http.post("/admin/reload-model"))
            async with asyncio.timeout(10):
                while not registry.state("a").reloading:  # noqa: ASYNC110  as above
                    await asyncio.sleep(0.005)
            second = await http.post("/admin/reload-model", json={"model": "b"})
            go_on.set()
            await first
            async with registry.lease("a"):
                third = await http.post("/admin/unload-model")
            return [(answer.status_code, answer.json()["error"]["code"]) for answer in (second, third)]

        assert talk(two, work) == [(409, "conflict"), (409, "conflict")]

    def test_only_operators(self, client):
        for method, path in (("GET", "status"), ("POST", "reload-model"), ("POST", "load-model")):
            answer = client.request(method, f"/admin/{path}", headers={"x-forwarded-for": "203.0.113.9"})
            assert answer.status_code == 403, path
        answer = client.post("/admin/reload-model", headers={"origin": "https://elsewhere.example"})
        assert answer.status_code == 403


class TestCommand:
    @pytest.fixture
    def command(self, monkeypatch, tmp_path):
        monkeypatch.chdir(tmp_path)
        monkeypatch.setenv("TINGDAO_STATE_DIR", str(tmp_path))
        return lambda *arguments, **kwargs: CliRunner().invoke(cli.main, ["reload", *arguments], **kwargs)

    def test_says_what_happened(self, command, monkeypatch):
        asked = []

        async def ask(*arguments):
            asked.append(arguments[:4])
            return {"status": "reloaded", "model": "qwen3-asr-0.6b", "seconds": 12.5}

        monkeypatch.setattr(remote, "ask", ask)
        done = command("--url", "http://127.0.0.1:9", "--key", "tk-1")
        assert (done.exit_code, done.stdout) == (0, "qwen3-asr-0.6b was loaded anew in 12.5 s and serves.\n")
        command("0.6b", env={"TINGDAO_KEY": "tk-2"})
        assert asked == [
            ("http://127.0.0.1:9", "/admin/reload-model", {"model": None}, "tk-1"),
            ("http://127.0.0.1:8000", "/admin/reload-model", {"model": "0.6b"}, "tk-2"),
        ]

    def test_says_when_nobody_is_there(self, command):
        done = command("--url", "http://127.0.0.1:1")
        assert done.exit_code == 2
        assert "http://127.0.0.1:1 does not answer" in done.stderr
