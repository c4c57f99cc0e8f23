"""vLLM servers that the service starts itself: a stand-in for the program that starts, fails and stays as they do."""

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import asynccontextmanager

import httpx2
import pytest
from click.testing import CliRunner

from fake_vllm import program
from serving import SAID, run, until
from tingdao import app, checkup, cli, models, server
from tingdao.engines import hubs
from tingdao.engines.base import Ask
from tingdao.engines.canary import recording
from tingdao.engines.registry import Registry
from tingdao.engines.vllm import child
from tingdao.engines.vllm.engine import VllmEngine
from tingdao.engines.vllm.prompt import TEMPLATE
from tingdao.errors import SetupError
from tingdao.settings import Settings, VllmSettings, load
from upstream import Double

CLIP = recording()


def alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    # One that has ended, and that nobody has asked for yet, is not alive either.
    return subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True).stdout[:1] != "Z"


def gone(each):
    """Whether neither a program nor its engine is left; the kernel takes a moment to end who is killed."""
    end = time.monotonic() + 2
    while alive(each["pid"]) or alive(each["engine"]):
        if time.monotonic() > end:
            return False
        time.sleep(0.01)
    return True


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(child, "LOOK", 0.05)
    monkeypatch.setattr(child, "GRACE", 0.5)
    monkeypatch.setattr(child, "FIRST_PAUSE", 0.1)


@pytest.fixture
def fake(tmp_path, monkeypatch):
    """What the program is to do, as a function; gives what those that were started noted. None of them may be left."""
    notes = tmp_path / "notes"
    notes.mkdir()

    def wants(**what):
        monkeypatch.setenv("FAKE_VLLM", json.dumps({"note": str(notes)} | what))
        return lambda: [json.loads(file.read_text()) for file in sorted(notes.glob("*.json"), key=os.path.getmtime)]

    started = wants()
    yield wants
    assert all(gone(each) for each in started())


@pytest.fixture
def command(tmp_path):
    return str(program(tmp_path))


@asynccontextmanager
async def engine(command, **settings):
    engine = VllmEngine(VllmSettings(**{"serve": "some/model", "command": command} | settings))
    try:
        await engine.open()
        yield engine
    finally:
        await engine.close()


class TestLife:
    def test_it_starts_serves_and_is_gone_afterwards(self, command, fake, monkeypatch):
        monkeypatch.setenv("TINGDAO_SECRET", "mine")
        monkeypatch.setenv("VLLM_API_KEY", "of somebody else")
        started = fake()

        async def main():
            async with engine(command, arguments=["--dtype", "float32"]) as served:
                assert served.trouble is None
                assert (await served.recognise(CLIP, Ask())).text == SAID
                (one,) = started()
                (upstream,) = served.fleet.upstreams.up
                port = upstream.name.rpartition(":")[2]
                assert one["arguments"] == [
                    *("serve", "some/model", "--dtype", "float32", "--host", "127.0.0.1"),
                    *("--port", port, "--served-model-name", "qwen3-asr", "--chat-template", str(TEMPLATE)),
                ]
                assert not {"TINGDAO_SECRET", "VLLM_API_KEY", "CUDA_VISIBLE_DEVICES"} & one["environment"].keys()
                assert one["environment"]["VLLM_NO_USAGE_STATS"] == "1"
                assert alive(one["pid"])
                assert alive(one["engine"])
            assert gone(one)

        run(main)

    def test_its_progress_is_told_while_it_starts(self, command, fake, monkeypatch, caplog):
        monkeypatch.setattr(child, "TOLD", 0.2)
        fake(delay=1)

        async def main():
            served = VllmEngine(VllmSettings(serve="some/model", command=command))
            opening = asyncio.create_task(served.open())
            await until(lambda: "50%" in served.trouble)
            assert served.trouble.startswith("No vLLM server can be used. vLLM: It is starting, ")
            assert served.trouble.endswith(" s so far: Loading safetensors checkpoint shards:  50% Completed | 1/2.")
            assert not opening.done()
            await opening
            assert served.trouble is None
            await served.close()

        with caplog.at_level("INFO"):
            run(main)
        told = [record.said for record in caplog.records if record.message == "vLLM is starting"]
        assert any("50%" in line for line in told)
        assert not any(record.levelname == "ERROR" for record in caplog.records)

    def test_a_start_that_is_given_up_leaves_nothing(self, command, fake):
        started = fake(delay=60)

        async def main():
            served = VllmEngine(VllmSettings(serve="some/model", command=command))
            opening = asyncio.create_task(served.open())
            await until(started)
            opening.cancel()
            await asyncio.wait({opening})
            await served.close()
            assert gone(started()[0])

        run(main)

    @pytest.mark.parametrize("victim", ["vllm", "keeper"])
    def test_whichever_process_dies_it_comes_back(self, victim, command, fake):
        started = fake()

        async def main():
            async with engine(command) as served:
                (first,) = started()
                os.kill(first["pid"] if victim == "vllm" else os.getpgid(first["pid"]), signal.SIGKILL)
                await until(lambda: len(started()) == 2)
                await until(lambda: not alive(first["pid"]) and not alive(first["engine"]))  # it holds the GPU's memory
                await until(lambda: served.trouble is None)
                assert (await served.recognise(CLIP, Ask())).text == SAID
                first, second = started()
                assert first["arguments"] == second["arguments"]  # its port too, since that is its name

        run(main)

    def test_who_ignores_sigterm_is_killed(self, command, fake):
        started = fake(stubborn=True)

        async def main():
            async with engine(command):
                pass
            assert gone(started()[0])

        run(main)

    @pytest.mark.parametrize("stubborn", [False, True])
    def test_it_does_not_outlive_a_killed_owner(self, stubborn, command, fake):
        started = fake(stubborn=stubborn)
        owner = subprocess.Popen(
            [
                sys.executable,
                "-c",
                "import asyncio, sys\n"
                "from tingdao.engines.vllm import child\n"
                "from tingdao.engines.vllm.engine import VllmEngine\n"
                "from tingdao.settings import VllmSettings\n"
                "child.GRACE = 0.5\n"
                "async def main():\n"
                "    await VllmEngine(VllmSettings(serve='some/model', command=sys.argv[1])).open()\n"
                "    print('open', flush=True)\n"
                "    await asyncio.sleep(600)\n"
                "asyncio.run(main())",
                command,
            ],
            stdout=subprocess.PIPE,
        )
        try:
            assert owner.stdout.readline() == b"open\n"
            (one,) = started()
            assert alive(one["pid"])
        finally:
            owner.kill()
            owner.wait()
            owner.stdout.close()
        assert gone(one)

    def test_one_that_hangs_is_started_anew(self, command, fake, monkeypatch):
        monkeypatch.setattr(child, "HANGS", 0.5)
        monkeypatch.setattr(child, "LIFE_LIMIT", 0.1)
        started = fake()

        async def main():
            async with engine(command) as served:
                os.kill(started()[0]["pid"], signal.SIGSTOP)
                await until(lambda: len(started()) == 2)
                await until(lambda: served.trouble is None)

        run(main)


class TestFailure:
    def test_why_it_ended_is_the_cause_and_not_the_last_line(self, command, fake, caplog):
        fake(crash=1)
        cause = "ValueError: Free memory on device cuda:0 is too little"

        async def main():
            async with engine(command) as served:
                said = (
                    f"No vLLM server can be used. vLLM: It ended with code 1: {cause}. It is tried again after 0.1 s."
                )
                assert served.trouble == said

        run(main)
        (record, *_) = [record for record in caplog.records if record.message == "vLLM is not there"]
        assert any("See root cause above" in line for line in record.said)

    def test_it_is_tried_again_later_and_later(self, command, fake, caplog):
        fake(crash=1, delay=0)

        async def main():
            async with engine(command):
                await until(lambda: sum(record.message == "vLLM is not there" for record in caplog.records) == 3)

        run(main)
        pauses = [record.pause_s for record in caplog.records if record.message == "vLLM is not there"]
        assert pauses[:3] == [0.1, 0.2, 0.4]

    def test_wrong_arguments(self, command, fake):
        fake()

        async def main():
            async with engine(command, arguments=["--wrong"]) as served:
                assert "It ended with code 2: vllm: error: unrecognized arguments: --wrong. " in served.trouble

        run(main)

    def test_no_program(self):
        async def main():
            async with engine("no-such-vllm") as served:
                assert (
                    "not installed: there is no program 'no-such-vllm'; pip install vllm, or set [vllm] command"
                    in served.trouble
                )

        run(main)

    def test_a_file_that_is_no_program(self, tmp_path):
        (tmp_path / "vllm").write_text("this is nothing\n")
        (tmp_path / "vllm").chmod(0o755)

        async def main():
            async with engine(str(tmp_path / "vllm")) as served:
                assert "It ended with code 1: OSError: [Errno 8] Exec format error" in served.trouble

        run(main)

    def test_it_takes_too_long(self, command, fake):
        fake(delay=60)

        async def main():
            async with engine(command, start_timeout_s=1.5) as served:
                assert "It did not start within 1.5 s: Loading safetensors checkpoint shards:  50%" in served.trouble

        run(main)

    def test_a_port_that_is_taken_is_named_and_waited_for(self, command, fake):
        fake()

        async def main():
            with socket.socket() as other:
                other.bind(("127.0.0.1", 0))
                other.listen()
                port = str(other.getsockname()[1])
                served = VllmEngine(VllmSettings(serve="some/model", command=command, arguments=["--port", port]))
                await served.open()
                assert f"vLLM: It cannot listen: 127.0.0.1, port {port}, is taken, or not of" in served.trouble
            await until(lambda: served.trouble is None)
            assert [upstream.name for upstream in served.fleet.upstreams.up] == [f"http://127.0.0.1:{port}"]
            await served.close()

        run(main)

    def test_one_port_for_two_is_refused(self):
        with pytest.raises(ValueError, match="leave it out"):
            VllmSettings(serve="m", devices=["0", "1"], arguments=["--port=9000"])


class TestSeveral:
    def test_a_server_for_each_choice_of_gpus(self, command, fake):
        started = fake()

        async def main():
            async with engine(command, devices=["0", "1,2"], key="secret") as served:
                await until(lambda: len(served.fleet.upstreams.up) == 2)
                environments = [each["environment"] for each in started()]
                assert {each["CUDA_VISIBLE_DEVICES"] for each in environments} == {"0", "1,2"}
                assert {each["VLLM_API_KEY"] for each in environments} == {"secret"}
                assert (await served.recognise(CLIP, Ask())).text == SAID

        run(main)

    def test_one_that_cannot_start_does_not_hold_up_the_other(self, command, fake):
        fake(crash=1, crashing_device="1", delay=0.2)

        async def main():
            async with engine(command, devices=["0", "1"]) as served:
                assert served.trouble is None
                assert len(served.fleet.upstreams.all) == 1

        run(main)

    def test_beside_servers_that_are_there_already(self, command, fake):
        fake(delay=1)

        async def main():
            async with Double() as double, engine(command, upstreams=[double.url]) as served:
                assert [upstream.name for upstream in served.fleet.upstreams.up] == [double.url]
                await until(lambda: len(served.fleet.upstreams.up) == 2)

        run(main)


class TestArguments:
    @pytest.mark.parametrize(
        ("given", "value"),
        [(["--port", "1"], "1"), (["--x", "--port=2"], "2"), (["--port"], ""), (["--ports", "3"], None), ([], None)],
    )
    def test_a_flag_is_found_in_either_way_to_write_it(self, given, value):
        assert child.option(given, "--port") == value

    def test_what_is_given_is_left_alone(self):
        given = ["--served_model_name", "x", "--host=::", "--port", "9", "--chat-template=its.jinja"]
        settings = VllmSettings(serve="m", arguments=given)
        assert child.arguments(settings, "::1", 9) == ["serve", "m", *settings.arguments]
        assert child._place(settings.arguments) == ("::1", 9)
        left = child.arguments(VllmSettings(serve="m", model="y"), "127.0.0.1", 5)
        assert left[-4:] == ["--served-model-name", "y", "--chat-template", str(TEMPLATE)]


class TestService:
    def settings(self, tmp_path, command, **vllm):
        return Settings(state_dir=tmp_path / "state", vllm=VllmSettings(**{"command": command} | vllm))

    def test_the_model_is_loading_with_its_progress_and_can_be_given_up(self, tmp_path, command, fake):
        started = fake(delay=60)
        settings = self.settings(tmp_path, command, serve="some/model")

        async def main():
            registry = Registry(models.offers(settings), {})
            registry.start()
            await until(lambda: "50%" in (registry.state().reason or ""))
            assert registry.state().state == "loading"
            await registry.unload()
            assert registry.state().state == "idle"
            assert gone(started()[0])
            registry.start()
            await until(lambda: len(started()) == 2)
            began = time.monotonic()
            await registry.close()
            assert time.monotonic() - began < 3

        run(main)

    def test_health_says_how_far_it_is(self, tmp_path, command, fake):
        fake(delay=60)
        settings = self.settings(tmp_path, command, serve="some/model")

        async def main():
            service = app.build(settings)
            transport = httpx2.ASGITransport(app.create_app(settings, service))
            await service.start()
            await until(lambda: "50%" in (service.registry.state().reason or ""))
            async with httpx2.AsyncClient(transport=transport, base_url="http://test") as http:
                health = (await http.get("/health")).json()
                status = (await http.get("/admin/status")).json()
            assert health["status"] == "loading"
            assert "/admin/status" in health["notice"]  # anybody may ask, so nothing that vLLM says
            assert (status["models"][0]["state"], status["models"][0]["name"]) == ("loading", "qwen3-asr")
            assert "vLLM: It is starting, " in status["models"][0]["reason"]
            assert "50%" in status["models"][0]["reason"]
            await service.close()

        run(main)

    def test_new_settings_end_a_start_and_begin_with_theirs(self, tmp_path, command, fake):
        started = fake(delay=60)
        slow = self.settings(tmp_path, command, serve="some/model")

        async def main():
            registry = Registry(models.offers(slow), {})
            registry.start()
            await until(started)
            fake(delay=0)
            better = self.settings(tmp_path, command, serve="some/model", arguments=["--better", "yes"])
            assert await registry.update(models.offers(better), {}) == []
            assert registry.state().state == "ready"
            first, second = started()
            assert "--better" in second["arguments"]
            assert gone(first)
            await registry.close()

        run(main)

    def test_the_old_server_is_gone_before_the_new_one_takes_its_gpu(self, tmp_path, command, fake):
        started = fake(delay=0)

        async def main():
            registry = Registry(models.offers(self.settings(tmp_path, command, serve="some/model")), {})
            await registry.load()
            (first,) = started()
            seen = []
            waiting = asyncio.create_task(self._watch(started, seen))
            other = self.settings(tmp_path, command, serve="other/model")
            assert await registry.update(models.offers(other), {}) == []
            await waiting
            assert seen == [True]
            assert started()[1]["arguments"][1] == "other/model"
            async with registry.lease() as served:
                assert (await served.recognise(CLIP, Ask())).text == SAID
            assert gone(first)

            # One that cannot start: the operator is told why, and what was there before comes back.
            wrong = self.settings(tmp_path, command, serve="other/model", arguments=["--wrong"])
            (problem,) = await registry.update(models.offers(wrong), {})
            assert "unrecognized arguments: --wrong" in problem
            await until(lambda: registry.state().state == "ready")
            await registry.close()

        run(main)

    async def _watch(self, started, seen):
        """Note whether the first one was gone when the second one began."""
        await until(lambda: len(started()) == 2)
        seen.append(not alive(started()[0]["pid"]) and not alive(started()[0]["engine"]))

    def test_which_model(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        with pytest.raises(SetupError, match=r"`tingdao download 1.7b` fetches it"):
            models.offers(self.settings(tmp_path, "vllm", serve="1.7b"))
        with pytest.raises(SetupError, match="no model 'nonsense'"):
            models.offers(self.settings(tmp_path, "vllm", serve="nonsense"))
        (tmp_path / "mine").mkdir()
        assert models.served_by_vllm(self.settings(tmp_path, "vllm", serve="mine")) == str(tmp_path / "mine")
        assert models.served_by_vllm(self.settings(tmp_path, "vllm", serve="Qwen/x")) == "Qwen/x"
        assert models.served_by_vllm(self.settings(tmp_path, "vllm")) == ""

    def test_what_vllm_serves_is_not_offered_in_this_process_too(self, tmp_path):
        settings = self.settings(tmp_path, "vllm", serve="1.7b")
        folder = settings.models_dir / "qwen3-asr-1.7b"
        folder.mkdir(parents=True)
        (folder / hubs.RECORD).write_text("{}")
        offers = models.offers(settings)
        assert [offer.name for offer in offers] == ["qwen3-asr", "whisper-base"]
        assert offers[0].recipe.serve == str(folder.resolve())
        registry = Registry(offers, models.aliases(settings))
        assert {registry.resolve(name) for name in ("auto", "1.7b", "qwen3-asr-1.7b")} == {"qwen3-asr"}
        named = settings.model_copy(update={"model": "1.7b"})
        assert models.offers(named)[0].name == "qwen3-asr"

    def test_check_says_what_would_be_started(self, tmp_path, command, fake):
        fake()
        told = {finding.what: finding for finding in checkup.examine(self.settings(tmp_path, command, serve="a/model"))}
        assert told[f"vLLM 0.32.0 in {command} would serve a/model"].good
        told = {
            finding.what: finding for finding in checkup.examine(self.settings(tmp_path, "no-such", serve="a/model"))
        }
        assert "pip install vllm" in told["There is no program 'no-such' to serve a/model"].advice
        broken = tmp_path / "broken"
        broken.write_text("#!/bin/sh\necho 'ImportError: libcuda.so.1' >&2\nexit 1\n")
        broken.chmod(0o755)
        told = {
            finding.what: finding for finding in checkup.examine(self.settings(tmp_path, str(broken), serve="a/model"))
        }
        assert "ImportError: libcuda.so.1" in told[f"{broken} cannot be run"].advice
        broken.write_text("#!/bin/sh\necho >&2\nexit 1\n")  # it fails and says nothing
        told = {
            finding.what: finding for finding in checkup.examine(self.settings(tmp_path, str(broken), serve="a/model"))
        }
        assert "exit status 1" in told[f"{broken} cannot be run"].advice


class TestCommandLine:
    @pytest.fixture
    def served(self, monkeypatch, tmp_path):
        monkeypatch.chdir(tmp_path)
        seen = []
        monkeypatch.setattr(server, "serve", lambda settings, read: seen.append((settings, read())))
        return seen

    def test_flags_are_the_settings_and_the_rest_is_passed_on(self, served):
        line = "serve --engine vllm --model 1.7b --devices 0,1 --port 0 -- --port-like x --dtype=half"
        result = CliRunner().invoke(cli.main, line.split())
        assert result.exit_code == 0, result.output
        ((settings, again),) = served
        assert again.model_dump() == settings.model_dump()
        assert (settings.vllm.serve, settings.model, settings.server.port) == ("1.7b", "auto", 0)
        assert settings.vllm.arguments == ("--port-like", "x", "--dtype=half")
        assert settings.vllm.devices == ("0", "1")

    def test_without_flags_the_settings_count(self, served, monkeypatch):
        monkeypatch.setenv("TINGDAO_VLLM_SERVE", "0.6b")
        monkeypatch.setenv("TINGDAO_VLLM_ARGUMENTS", '["--dtype", "half"]')
        assert CliRunner().invoke(cli.main, ["serve", "--engine", "vllm"]).exit_code == 0
        assert served[0][0].vllm == load().vllm

    @pytest.mark.parametrize(
        ("line", "said"),
        [
            ("serve --engine vllm", "such as --model 1.7b"),
            ("serve --engine vllm --model 1.7b --dtype half", "after `--`"),
            ("serve --engine vllm --model 1.7b --device cuda:1", "--devices"),
            ("serve --model 1.7b -- --dtype half", "are for --engine vllm"),
            ("serve 1.7b", "are for --engine vllm"),
            ("serve --devices 0", "are for --engine vllm"),
        ],
    )
    def test_what_does_not_go_together(self, line, said, served):
        result = CliRunner().invoke(cli.main, line.split())
        assert result.exit_code == 2
        assert said in result.output
        assert not served
