"""Qwen3-ASR on vLLM servers, with doubles of such servers that fail in every way that they know."""

import asyncio
import io
import json
import os
import re
import signal
import ssl
import subprocess
import sys
import time
from contextlib import aclosing
from pathlib import Path

import aiohappyeyeballs
import av
import numpy as np
import pytest

from serving import CLIP, SAID, engine_on, of, run, until
from tingdao import checkup, models
from tingdao.engines.base import Ask
from tingdao.engines.registry import Registry
from tingdao.engines.vllm import fleet
from tingdao.engines.vllm import upstreams as upstreams_module
from tingdao.engines.vllm.engine import VllmEngine, examine_all
from tingdao.engines.vllm.examine import room
from tingdao.engines.vllm.prompt import TEMPLATE, Question, flac, plain, wav
from tingdao.engines.vllm.roster import system_lookup
from tingdao.engines.vllm.upstreams import OVERHEAD, NoneUp, Upstream, Upstreams
from tingdao.engines.vllm.wire import Broken, _piece
from tingdao.errors import (
    ContextTooLong,
    EngineFailed,
    ModelUnavailable,
    SetupError,
    TooLong,
    UnknownLanguage,
    UnsupportedOption,
)
from tingdao.settings import Settings, VllmSettings
from tingdao.types import Clip
from upstream import Double, audio_seconds


def audio(body):
    """The audio part of a question taken out, to look at the rest."""
    return [message for message in body["messages"] if message["role"] != "user"]


@pytest.fixture
def processes():
    """Doubles in processes of their own, for what only happens to processes."""
    started = []

    def start(**settings):
        script = Path(__file__).with_name("upstream.py")
        process = subprocess.Popen([sys.executable, "-S", script, json.dumps(settings)], stdout=subprocess.PIPE)
        started.append(process)
        process.url = f"http://127.0.0.1:{int(process.stdout.readline())}"
        return process

    yield start
    for process in started:
        process.kill()
        process.wait()
        process.stdout.close()


class TestQuestions:
    def test_both_encodings_are_lossless(self):
        with av.open(io.BytesIO(flac(CLIP))) as file:
            decoded = np.concatenate([frame.to_ndarray()[0] for frame in file.decode(audio=0)])
        assert decoded.dtype == np.int16
        assert np.array_equal(decoded / np.float32(32_768), CLIP.samples)
        assert np.array_equal(np.frombuffer(wav(CLIP)[44:], "<i2"), decoded)

    def test_samples_past_full_scale_are_cut(self):
        loud = Clip(np.array([1.5, -1.5, 0.5], np.float32))
        assert np.frombuffer(wav(loud)[44:], "<i2").tolist() == [32_767, -32_768, 16_384]

    @pytest.mark.parametrize("encoding", ["flac", "wav"])
    def test_a_question_is_json_with_the_whole_clip(self, encoding):
        body = json.loads(Question.of(CLIP, "Ada\nLovelace", encoding).chat("m", "", 50).body)
        assert audio_seconds(body) == CLIP.duration
        assert body["messages"][0] == {"role": "system", "content": "Ada\nLovelace"}
        assert (body["model"], body["max_tokens"], body["temperature"], body["stream"]) == ("m", 50, 0, True)
        assert "continue_final_message" not in body

    @pytest.mark.parametrize("text", ["<|im_end|>", "a<|audio_pad|>b", "<asr_text>x", "</tool_call>", "<<|im_start|>"])
    def test_what_callers_write_steers_nothing(self, text):
        body = json.loads(Question.of(CLIP, text).chat("m", f"language English<asr_text>{text}", 50).body)
        system, last = (message["content"] for message in audio(body))
        assert last.startswith("language English<asr_text>")
        for written in (system, last.removeprefix("language English<asr_text>")):
            assert written == plain(text)
            assert written.replace(" ", "") == text
            assert not any(steering in written for steering in ("<|", "<a", "</"))

    def test_plain_text_is_left_alone(self):
        assert plain("1 < 2, a<3, <3 你好 << >>") == "1 < 2, a<3, <3 你好 << >>"


class TestAnswers:
    def test_text_language_usage_and_end(self):
        async def main():
            async with Double() as double, engine_on(double) as engine:
                heard = await engine.recognise(CLIP, Ask())
                assert (heard.text, heard.language, heard.ended) == (SAID, "en", "stop")
                assert (heard.usage.prompt_tokens, heard.usage.completion_tokens) == (20 + 4 * 13, 6)
                assert "messages" in double.asked[-1]
                assert len(audio(double.asked[-1])) == 0

        run(main)

    def test_connections_are_used_again(self):
        async def main():
            async with Double() as double, engine_on(double) as engine:
                for _ in range(5):
                    await engine.recognise(CLIP, Ask())
                assert double.connections <= 3  # signs of life go on beside

        run(main)

    def test_usage_is_counted_by_servers_that_tell_no_ids(self):
        async def main():
            async with Double(ids=False) as double, engine_on(double) as engine:
                assert (await engine.recognise(CLIP, Ask())).usage.completion_tokens == 6

        run(main)

    def test_context_language_and_prefix_go_where_the_model_looks(self):
        async def main():
            async with Double() as double, engine_on(double) as engine:
                heard = await engine.recognise(CLIP, Ask(language="en", context="Ada", prefix="In eigh"))
                assert (heard.text, heard.language) == (SAID, "en")
                system, last = audio(double.asked[-1])
                assert system == {"role": "system", "content": "Ada"}
                assert last == {"role": "assistant", "content": "language English<asr_text>In eigh"}
                assert double.asked[-1]["continue_final_message"] is True
                assert double.asked[-1]["add_generation_prompt"] is False

        run(main)

    def test_a_prefix_without_a_language_goes_behind_the_tag_that_the_model_says(self):
        async def main():
            async with Double() as double, engine_on(double) as engine:
                before = len(double.asked)
                heard = await engine.recognise(CLIP, Ask(prefix="In eighteen"))
                assert (heard.text, heard.language) == (SAID, "en")
                first, second = double.asked[before:]
                assert first["stop"] == ["<asr_text>"]
                assert audio(second)[-1]["content"] == "language English<asr_text>In eighteen"
                deltas = [part.delta async for part in engine.recognise_stream(CLIP, Ask(prefix="In eighteen"))]
                assert "".join(deltas) == SAID

        run(main)

    def test_a_prefix_where_nothing_is_said_is_not_said(self):
        async def main():
            async with Double() as double, engine_on(double) as engine:
                double.said = "language None<asr_text>"
                heard = await engine.recognise(CLIP, Ask(prefix="So"))
                assert (heard.text, heard.language, heard.ended) == ("", None, "stop")

        run(main)

    @pytest.mark.parametrize("ask", [Ask(), Ask(language="en"), Ask(language="en", prefix="In "), Ask(prefix="In ")])
    def test_streamed_pieces_are_the_answer(self, ask):
        async def main():
            async with Double(gap=0.002) as double, engine_on(double) as engine:
                parts = [part async for part in engine.recognise_stream(CLIP, ask)]
                assert "".join(part.delta for part in parts) == parts[-1].final.text == SAID
                assert len(parts) >= 3
                assert all(part.final is None for part in parts[:-1])
                assert "<" not in "".join(part.delta for part in parts)

        run(main)

    def test_text_comes_while_the_server_still_speaks(self):
        async def main():
            async with Double() as double, engine_on(double) as engine:
                double.mode = "silent"
                async with aclosing(engine.recognise_stream(CLIP, Ask(language="en"))) as parts:
                    assert (await anext(parts)).delta == "In"
                    assert double.running == 1

        run(main)

    def test_the_budget_ends_an_answer(self):
        async def main():
            async with Double() as double, engine_on(double) as engine:
                heard = await engine.recognise(CLIP, Ask(language="en", max_tokens=2))
                assert (heard.text, heard.ended, heard.usage.completion_tokens) == ("In eighteen", "length", 2)
                await engine.recognise(CLIP, Ask())
                assert double.asked[-1]["max_tokens"] == 32 + 4 * 25

        run(main)

    @pytest.mark.parametrize("ids", [True, False])
    def test_a_loop_is_stopped_on_the_server_too(self, ids):
        async def main():
            async with Double(ids=ids) as double, engine_on(double) as engine:
                double.said, double.gap = "language English<asr_text>Well," + " and so on" * 100, 0.001
                left = double.left
                heard = await engine.recognise(CLIP, Ask(max_tokens=290))
                assert heard.ended == "loop"
                assert heard.text.startswith("Well, and so on and")
                assert heard.text.count("and so") in {8, 9}
                await until(lambda: double.running == 0)
                assert double.left == left + 1

        run(main)

    def test_who_leaves_frees_the_server(self):
        async def main():
            async with Double() as double, engine_on(double) as engine:
                double.mode = "silent"
                call = asyncio.create_task(engine.recognise(CLIP, Ask()))
                await until(lambda: double.running == 1)
                began = time.monotonic()
                call.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await call
                await until(lambda: double.running == 0)
                assert time.monotonic() - began < 1
                assert not of(engine, double).calls

                parts = engine.recognise_stream(CLIP, Ask(language="en"))
                await anext(parts)
                await parts.aclose()
                await until(lambda: double.running == 0)
                assert (double.left, of(engine, double).state) == (2, "up")

        run(main)

    def test_what_cannot_be_asked(self):
        async def main():
            async with Double(length=4096) as double, engine_on(double) as engine:
                with pytest.raises(UnknownLanguage, match="'xx'"):
                    await engine.recognise(CLIP, Ask(language="xx"))
                with pytest.raises(UnsupportedOption, match="word times"):
                    await engine.recognise(CLIP, Ask(words=True))
                with pytest.raises(ContextTooLong, match="3007 tokens; this model takes 2048"):
                    await engine.recognise(CLIP, Ask(context="x" * 3000))
                await engine.recognise(CLIP, Ask(context="x" * 2040))
                double.counts = False  # then the model's own limit has to do
                await engine.recognise(CLIP, Ask(context="x" * 3000))
                assert of(engine, double).state == "up"
                assert engine.card.clip_limit == room(4096, 4096)[1] == pytest.approx(52.2, abs=0.1)
                with pytest.raises(TooLong, match="60 s"):
                    await engine.recognise(Clip(np.zeros(16_000 * 60, np.float32)), Ask())

        run(main)

    def test_closing_ends_what_runs(self):
        async def main():
            async with Double() as double, engine_on(double) as engine:
                double.mode = "silent"
                call = asyncio.create_task(engine.recognise(CLIP, Ask()))
                await until(lambda: double.running == 1)
                await engine.close()
                with pytest.raises(EngineFailed):
                    await call

        run(main)

    @pytest.mark.parametrize(
        ("chosen", "address", "kind"),
        [("auto", "127.0.0.1", "wav"), ("auto", "10.1.2.3", "flac"), ("flac", "127.0.0.1", "flac")],
    )
    def test_clips_are_compressed_where_bytes_have_a_way_to_go(self, chosen, address, kind, monkeypatch):
        real = aiohappyeyeballs.start_connection

        async def connect(addr_infos, **how):
            ((*kind, (host, port)),) = addr_infos
            assert host == address
            return await real([(*kind, ("127.0.0.1", port))], **how)

        monkeypatch.setattr(aiohappyeyeballs, "start_connection", connect)

        async def main():
            async def lookup(*_):
                return [address]

            async with Double() as double:
                url = f"http://gpus.internal:{double.port}"
                async with engine_on(upstreams=[url], lookup=lookup, encoding=chosen) as engine:
                    await engine.recognise(CLIP, Ask())
                    assert f"data:audio/{kind};base64," in json.dumps(double.asked[-1])

        run(main)


class TestFindingOut:
    @pytest.mark.parametrize("error", [OSError("no such host"), ValueError("embedded null byte")])
    def test_a_name_that_cannot_be_looked_up_is_told_of(self, error):
        async def lookup(*_):
            raise error

        found = run(lambda: examine_all(VllmSettings(upstreams=("http://gpus.internal",)), lookup))
        assert found == [("http://gpus.internal", f"The name cannot be looked up: {error}")]

    @pytest.mark.parametrize(
        "event",
        [
            {"choices": 5},
            {"choices": [5]},
            {"choices": [{"delta": {"content": 7}}]},
            {"choices": [{"delta": [], "token_ids": "x"}]},
            {"choices": [{"delta": {}, "token_ids": {}}]},
            {"choices": [], "usage": 3},
        ],
    )
    def test_events_of_another_shape_are_a_fault(self, event):
        with pytest.raises(Broken, match="no event of an answer"):
            _piece(event)

    def test_a_fault_of_ours_is_logged_and_the_server_tried_again(self, monkeypatch, caplog):
        async def main():
            async with Double() as double:
                real, tries = fleet.examine, []

                async def examine(*what):
                    tries.append(what)
                    if len(tries) == 1:
                        raise KeyError("ours")
                    return await real(*what)

                monkeypatch.setattr(fleet, "examine", examine)
                async with engine_on(double) as engine:
                    assert "KeyError" in engine.trouble
                    await until(lambda: engine.trouble is None)

        run(main)
        assert "could not be looked after" in caplog.text

    def test_what_a_server_is(self):
        async def main():
            async with Double(key="s3cret", length=8192) as double:
                settings = VllmSettings(upstreams=[double.url + "/v1/"], key="s3cret")
                ((name, facts),) = await examine_all(settings)
                assert name == double.url
                assert (facts.identity.model, facts.identity.version) == ("qwen3-asr", "0.32.0")
                assert facts.can == {"stream", "context", "force_language"}
                assert double.asked
                assert audio_seconds(double.asked[0]) == pytest.approx(1.54, abs=0.01)

        run(main)

    @pytest.mark.parametrize("upload", [None, ()])
    def test_a_server_that_can_be_told_the_language_in_no_way(self, upload):
        async def main():
            async with Double(obeys=False, upload=upload) as double, engine_on(double) as engine:
                assert engine.trouble is None
                assert engine.card.can == {"stream", "context"}
                with pytest.raises(UnsupportedOption, match="cannot be told the language: its chat") as refused:
                    await engine.recognise(CLIP, Ask(language="en"))
                assert refused.value.param == "language"

        run(main)

    def test_a_server_that_does_not_go_on_is_told_the_language_by_an_upload(self):
        async def main():
            async with Double(obeys=False) as double, engine_on(double) as engine:
                assert engine.card.can == {"stream", "context", "force_language"}
                assert (await engine.recognise(CLIP, Ask())).text == SAID
                assert "uploaded" not in double.asked[-1]
                heard = await engine.recognise(CLIP, Ask(language="en", context="Ada <|im_end|>", max_tokens=50))
                assert (heard.text, heard.language, heard.ended) == (SAID, "en", "stop")
                assert heard.usage.prompt_tokens > 20 + 4 * 13
                assert heard.usage.completion_tokens == 3
                assert double.asked[-1]["uploaded"] == {
                    "model": "qwen3-asr", "max_completion_tokens": "50", "temperature": "0", "stream": "true",
                    "stream_include_usage": "true", "language": "en", "to_language": "en", "prompt": "Ada < |im_end|>",
                }  # fmt: skip
                assert audio_seconds(double.asked[-1]) == 4
                parts = [part async for part in engine.recognise_stream(CLIP, Ask(language="en"))]
                assert len(parts) > 2
                assert "".join(part.delta for part in parts) == parts[-1].final.text == SAID
                double.said = "language English<asr_text>" + "na " * 500
                assert (await engine.recognise(CLIP, Ask(language="en"))).ended == "loop"

        run(main)

    def test_what_an_upload_cannot_do_is_refused(self):
        long = Clip(np.resize(CLIP.samples, 16_000 * 31))

        async def main():
            async with Double(obeys=False, upload=("language",)) as double, engine_on(double) as engine:
                for clip, ask, why in (
                    (CLIP, Ask(language="yue"), "cannot be told 'yue'"),
                    (CLIP, Ask(language="en", context="Ada"), "takes no context with a language"),
                    (CLIP, Ask(prefix="In"), "cannot be told the language: its chat"),
                    (long, Ask(language="en"), "only with clips of up to 30 s"),
                ):
                    with pytest.raises(UnsupportedOption, match=why):
                        await engine.recognise(clip, ask)
                assert (await engine.recognise(long, Ask())).text == SAID

        run(main)

    def test_a_clip_goes_where_it_can_be_done_as_asked(self):
        async def main():
            async with (
                Double() as able,
                Double(obeys=False, upload=None) as other,
                engine_on(able, other, wait_s=0.2) as engine,
            ):
                await until(lambda: len(engine.fleet.upstreams.up) == 2)
                assert "force_language" in engine.card.can
                before = other.done
                asks = [Ask(language="en"), Ask(prefix="In")] * 4
                heard = await asyncio.gather(*(engine.recognise(CLIP, ask) for ask in asks))
                assert {each.text for each in heard} == {SAID}
                assert other.done == before
                await asyncio.gather(*(engine.recognise(CLIP, Ask()) for _ in range(40)))
                assert other.done > before
                able.mode = "error"  # the other one is no help
                with pytest.raises((EngineFailed, ModelUnavailable)):
                    await engine.recognise(CLIP, Ask(language="en"))

        run(main)

    @pytest.mark.parametrize(
        ("double", "settings", "reason"),
        [
            ({"key": "s3cret"}, {}, r"refuses the key \(401\)"),
            ({"key": "s3cret"}, {"key": "other"}, r"refuses the key \(401\)"),
            ({}, {"model": "qwen3-asr-1.7b"}, r"not serve the model 'qwen3-asr-1.7b'. It serves: qwen3-asr"),
            ({"audio": False}, {}, "takes no audio"),
            ({"version": "1.2.0"}, {}, r"vLLM 1\.2\.0; what is known here is 0\.14 and newer, below 1\.0"),
            ({"version": "0.13.2"}, {}, r"vLLM 0\.13\.2; what is known"),
            ({"version": None}, {}, "no /version: it is not a vLLM server"),
            ({"length": 600}, {}, "larger --max-model-len"),
            ({"mode": "error"}, {}, "500: CUDA error"),
            ({"mode": "garbage"}, {}, "no event of an answer"),
            ({"mode": "cut"}, {}, "connection to it broke"),
            ({"mode": "silent"}, {"canary_timeout_s": 0.3}, "did not answer within 0.3 s"),
            ({"mode": "frozen"}, {"canary_timeout_s": 0.3}, "did not answer within 0.3 s"),
            ({"mode": "busy"}, {}, r"busy or starting \(503\)"),
            ({"said": "language None<asr_text>"}, {}, "makes nothing of the canary"),
            ({"said": "a" + " b" * 100}, {}, "no end on the canary"),
        ],
    )
    def test_each_thing_that_is_wrong_has_its_own_message(self, double, settings, reason):
        async def main():
            async with Double(**double) as server, engine_on(server, wait_s=0, **settings) as engine:
                assert engine.trouble.startswith("No vLLM server can be used. " + server.url)
                assert re.search(reason, engine.trouble), engine.trouble
                assert "s3cret" not in engine.trouble
                with pytest.raises(ModelUnavailable):
                    await engine.recognise(CLIP, Ask())

        run(main)

    def test_nobody_there_then_somebody(self):
        async def main():
            double = await Double().start()
            port = double.port
            await double.stop()
            async with engine_on(double) as engine:
                assert "cannot be reached" in engine.trouble
                early = asyncio.create_task(engine.recognise(CLIP, Ask()))  # waits for it
                again = await Double().start(port)
                assert (await early).text == SAID
                assert engine.trouble is None
                await again.stop()

        run(main)

    def test_builds_without_a_number_are_taken(self):
        async def main():
            async with Double(version="0.1.dev1+g1234") as double, engine_on(double) as engine:
                assert engine.trouble is None

        run(main)

    def test_the_card_is_what_servers_take(self):
        async def main():
            async with (
                Double() as one,
                Double(length=4096, obeys=False, upload=None) as other,
                engine_on(one, other, width=5) as engine,
            ):
                await until(lambda: len(engine.fleet.upstreams.up) == 2)
                assert (engine.card.width, engine.card.can) == (10, {"stream", "context", "force_language"})
                assert engine.card.clip_limit < 60

        run(main)

    def test_check_says_it(self, tmp_path):
        async def main():
            async with (
                Double() as good,
                Double(version="2.0") as other,
                Double(obeys=False, upload=()) as deaf,
                Double(obeys=False, upload=("language",)) as hard_of_hearing,
            ):
                urls = [good.url, other.url, deaf.url, hard_of_hearing.url]
                settings = Settings(state_dir=tmp_path, vllm=VllmSettings(upstreams=urls))
                return good.url, await asyncio.to_thread(checkup.examine, settings)

        url, findings = run(main)
        lines = [finding for finding in findings if "vLLM" in finding.what]
        assert lines[0].what.startswith(f"vLLM at {url} recognises: vLLM 0.32.0 with 'qwen3-asr'")
        assert "force_language" in lines[0].what
        assert not lines[1].good
        assert "vLLM 2.0" in lines[1].advice
        assert lines[2].what.endswith("can: context, stream")
        assert lines[2].advice.startswith("It cannot be told the language: its chat template leaves out")
        assert f"--chat-template and a copy of {TEMPLATE}" in lines[2].advice
        assert lines[3].what.endswith("can: context, force_language, stream")
        assert "clips of more than 30 s, nor a context with a language: its chat" in lines[3].advice
        assert any("would serve qwen3-asr" in finding.what for finding in findings)

    @pytest.mark.parametrize(
        "url", ["gpu1:8000", "ftp://gpu1", "http://", "http://a b", "http://u:p@gpu1", "http://g?x=1"]
    )
    def test_wrong_urls_are_named(self, url):
        with pytest.raises(ValueError, match="is not the URL of a server"):
            VllmSettings(upstreams=[url])

    def test_authorities_that_cannot_be_read(self, tmp_path):
        with pytest.raises(SetupError, match=r"\[vllm\] ca"):
            VllmEngine(VllmSettings(upstreams=["https://gpu1"], ca=tmp_path / "none.pem"))


async def flow(engine, seconds, width, failures, done):
    """Recognise on `width` lines for so many seconds; (moment, how long it took) of each answer into `done`."""
    end = time.monotonic() + seconds

    async def line():
        while time.monotonic() < end:
            began = time.monotonic()
            try:
                assert (await engine.recognise(CLIP, Ask())).text == SAID
            except Exception as error:  # noqa: BLE001  every one is counted
                failures.append(error)
            done.append((time.monotonic(), time.monotonic() - began))

    await asyncio.gather(*(line() for _ in range(width)))


class TestFailures:
    @pytest.mark.e2e
    @pytest.mark.parametrize("how", ["killed", "frozen", "error", "dribble", "cut", "garbage", "busy"])
    def test_one_of_two_fails_under_load_and_no_caller_notices(self, how, processes):
        # Kill and stop happen to processes; the rest a double does by itself.
        async def main():
            failures, done = [], []
            async with Double(latency=0.05) as other:
                process = processes(latency=0.05) if how in {"killed", "frozen"} else None
                ill = process or await Double(latency=0.05).start()
                async with engine_on(ill, other, width=8) as engine:
                    await until(lambda: len(engine.fleet.upstreams.up) == 2)
                    load = asyncio.create_task(flow(engine, 7, 12, failures, done))
                    await asyncio.sleep(0.7)
                    assert of(engine, ill).measured > of(engine, ill).since  # it has its share
                    failed_at = time.monotonic()
                    if process:
                        os.kill(process.pid, signal.SIGKILL if how == "killed" else signal.SIGSTOP)
                    else:
                        ill.mode = how
                    await load
                    assert not failures
                    assert max(took for at, took in done if at > failed_at) < 5
                    # The other one alone: 8 at a time, 0.05 s each and some work.
                    late = [at for at, _ in done if at > failed_at + 5]
                    assert len(late) / (max(late) - failed_at - 5) > 40
                    assert (of(engine, ill).state == "down") is (how != "busy")
                    assert how == "busy" or not of(engine, ill).calls
                if not process:
                    await ill.stop()

        run(main)

    @pytest.mark.parametrize("how", ["error", "cut", "garbage", "silent"])
    def test_one_of_two_fails_and_no_caller_notices(self, how, monkeypatch):
        monkeypatch.setattr(upstreams_module, "SILENT", 0.3)

        async def main():
            failures, done = [], []
            async with Double() as ill, Double() as other, engine_on(ill, other, width=4) as engine:
                await until(lambda: len(engine.fleet.upstreams.up) == 2)
                load = asyncio.create_task(flow(engine, 1.5, 6, failures, done))
                await asyncio.sleep(0.3)
                ill.mode = how
                await load
                assert not failures
                assert of(engine, ill).state == "down"

        run(main)

    def test_a_server_that_is_well_again_gets_its_share_again(self):
        async def main():
            async with Double() as one, Double() as other, engine_on(one, other, width=2) as engine:
                await until(lambda: len(engine.fleet.upstreams.up) == 2)
                one.mode = "error"
                while of(engine, one).state == "up":
                    await asyncio.gather(*(engine.recognise(CLIP, Ask()) for _ in range(4)))
                assert "500" in of(engine, one).reason
                await until(lambda: one.running == 0)
                asked = len(one.asked)
                await engine.recognise(CLIP, Ask())
                # No caller is used to find out: if it is asked anything meanwhile, then the canary.
                assert not [body for body in one.asked[asked:] if audio_seconds(body) == CLIP.duration]
                one.mode = "well"
                await until(lambda: of(engine, one).state == "up", 5)
                done = one.done
                await asyncio.gather(*(engine.recognise(CLIP, Ask()) for _ in range(4)))
                assert one.done > done

        run(main)

    def test_a_streaming_caller_goes_on_where_the_failed_server_stopped(self):
        async def main():
            async with Double() as one, Double() as other, engine_on(one, other) as engine:
                await until(lambda: len(engine.fleet.upstreams.up) == 2)
                one.said = other.said = "language English<asr_text>one two three four five six"
                one.mode = other.mode = "cut"
                parts = engine.recognise_stream(CLIP, Ask())
                first = (await anext(parts)).delta
                assert first == "one"
                one.mode = other.mode = "well"
                rest = [part async for part in parts]
                assert first + "".join(part.delta for part in rest) == "one two three four five six"
                assert rest[-1].final.text == "one two three four five six"
                leads = [audio(body)[-1]["content"] for body in one.asked + other.asked if audio(body)]
                assert "language English<asr_text>one" in leads

        run(main)

    @pytest.mark.parametrize("ask", [Ask(), Ask(language="en")])
    @pytest.mark.parametrize("obeys", [True, False])
    def test_a_server_that_cannot_go_on_says_it_again_and_nothing_is_given_twice(self, ask, obeys):
        async def main():
            async with (
                Double(obeys=obeys) as one,
                Double(obeys=False) as other,
                engine_on(one, other, retries=5) as engine,
            ):
                await until(lambda: len(engine.fleet.upstreams.up) == 2)
                one.said = other.said = "language English<asr_text>one two three four five six"
                one.mode = "cut"
                of(engine, other).drained = True  # so that the first one gets it
                parts = engine.recognise_stream(CLIP, ask)
                first = (await anext(parts)).delta
                await until(lambda: one.hung)
                of(engine, other).drained = False
                rest = [part async for part in parts]
                assert first + "".join(part.delta for part in rest) == "one two three four five six"
                final = rest[-1].final
                assert (final.text, final.ended) == ("one two three four five six", "stop")
                assert final.usage.completion_tokens == (6 if ask.language else 9)

        run(main)

    def test_when_all_fail_the_caller_is_told_in_time(self):
        async def main():
            async with Double() as one, Double() as other, engine_on(one, other, retries=2, wait_s=0.2) as engine:
                await until(lambda: len(engine.fleet.upstreams.up) == 2)
                one.mode = other.mode = "error"
                began = time.monotonic()
                with pytest.raises(EngineFailed):
                    await engine.recognise(CLIP, Ask())
                assert time.monotonic() - began < 1
                while engine.trouble is None:
                    with pytest.raises((EngineFailed, ModelUnavailable)):
                        await engine.recognise(CLIP, Ask())
                with pytest.raises(ModelUnavailable) as refused:
                    await engine.recognise(CLIP, Ask())
                assert refused.value.retry_after
                assert one.url in engine.trouble
                assert other.url in engine.trouble

        run(main)

    def test_a_request_that_no_server_would_take_is_tried_once(self):
        async def main():
            async with Double() as one, Double() as other, engine_on(one, other) as engine:
                await until(lambda: len(engine.fleet.upstreams.up) == 2)
                before = len(one.asked) + len(other.asked)

                async def refuse(writer, body):
                    await one._send(writer, 400, {"error": {"message": "Invalid or corrupted audio data."}})

                one._chat = other._chat = refuse
                with pytest.raises(EngineFailed):
                    await engine.recognise(CLIP, Ask())
                assert len(one.asked) + len(other.asked) == before + 1
                assert len(engine.fleet.upstreams.up) == 2

        run(main)

    def test_a_lone_server_is_given_time(self):
        async def main():
            async with Double() as double, engine_on(double, idle_timeout_s=0.5, retries=0) as engine:
                double.latency = 0.3
                assert (await engine.recognise(CLIP, Ask())).text == SAID
                double.latency = 2.0
                with pytest.raises(EngineFailed):
                    await engine.recognise(CLIP, Ask())

        run(main)

    def test_an_idle_server_that_hears_nothing_any_more_is_found_out(self):
        async def main():
            async with Double() as double, engine_on(double, canary_s=0.2) as engine:
                double.said = "language None<asr_text>"
                await until(lambda: engine.trouble is not None, 5)
                assert "makes nothing of the canary" in engine.trouble

        run(main)


class TestSharing:
    def test_one_is_three_times_slower_and_both_are_used(self):
        async def main():
            # 60 and 20 clips of 4 s per second, one after another.
            async with (
                Double(speed=240) as fast,
                Double(speed=80) as slow,
                engine_on(fast, slow, width=16) as engine,
            ):
                await until(lambda: len(engine.fleet.upstreams.up) == 2)
                failures, done = [], []
                await flow(engine, 0.7, 12, failures, done)  # until the pace is known
                load = asyncio.create_task(flow(engine, 2.5, 12, failures, done))
                await asyncio.sleep(0.2)
                before, began = (fast.busy, slow.busy), time.monotonic()
                await asyncio.sleep(2)
                seconds = time.monotonic() - began
                shares = [(now - then) / seconds for now, then in zip((fast.busy, slow.busy), before, strict=True)]
                await load
                assert not failures
                return shares, fast.audio_done, slow.audio_done

        (fast_share, slow_share), fast, slow = run(main)
        # What both did, of what both can when they are never without work.
        assert (240 * fast_share + 80 * slow_share) / (240 + 80) >= 0.9, (fast_share, slow_share)
        assert 2 < fast / slow < 4.5

    def test_no_more_than_the_width_at_once(self):
        async def main():
            async with Double(latency=0.1) as double, engine_on(double, width=3) as engine:
                calls = [asyncio.create_task(engine.recognise(CLIP, Ask())) for _ in range(9)]
                most = 0
                while not all(call.done() for call in calls):
                    most = max(most, double.running)
                    await asyncio.sleep(0.005)
                assert most == 3
                assert {call.result().text for call in calls} == {SAID}

        run(main)

    def test_long_clips_count_for_more(self):
        async def main():
            pool = Upstreams(8)
            for name in "ab":
                pool.all[name] = Upstream(name)
                pool.gain(pool.all[name])
                pool.measure(pool.all[name], 0.1, 0.01)
            async with pool.call(30, set(), 1) as long:
                others = []
                for _ in range(5):
                    context = pool.call(3, set(), 1)
                    others.append((await context.__aenter__()).upstream)
                assert set(others) == {pool.all["b"] if long.upstream is pool.all["a"] else pool.all["a"]}
                assert long.upstream.outstanding == 30 + OVERHEAD

        run(main)

    def test_who_waits_is_served_in_order_and_who_leaves_is_skipped(self):
        async def main():
            pool = Upstreams(1)
            pool.all["a"] = Upstream("a")
            pool.gain(pool.all["a"])
            order = []

            async def take(number):
                async with pool.call(1, set(), 1):
                    order.append(number)
                    await asyncio.sleep(0.01)

            tasks = []
            for number in range(5):
                tasks.append(asyncio.create_task(take(number)))
                await asyncio.sleep(0)
            tasks[2].cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            assert order == [0, 1, 3, 4]
            pool.lose(pool.all["a"], "gone")
            with pytest.raises(NoneUp):
                await take(9)

        run(main)

    def test_moving_slow_calls_has_a_budget(self, monkeypatch):
        monkeypatch.setattr(upstreams_module, "SILENT", 0.05)
        monkeypatch.setattr(upstreams_module, "SILENCES", 0.0)

        async def main():
            pool = Upstreams(64)
            for name in "ab":
                pool.all[name] = Upstream(name)
                pool.gain(pool.all[name])
            never = asyncio.Event()
            moved = []

            async def hang():
                try:
                    async with pool.call(1, set(), 1) as call:
                        await call.wait(never.wait, 60)
                except upstreams_module.Moved:
                    moved.append(call)

            tasks = [asyncio.create_task(hang()) for _ in range(30)]
            await asyncio.sleep(0.1)
            for _ in range(3):
                pool.move_slow()
                await asyncio.sleep(0.01)
            assert len(moved) == upstreams_module.MOVES
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

        run(main)


class TestNames:
    def test_each_address_behind_a_name_is_a_server_and_follows_the_name(self):
        async def main():
            async with Double() as double:
                led = ["127.0.0.1", "127.0.0.2"]

                async def lookup(host, port):
                    assert (host, port) == ("gpus.internal", double.port)
                    return led

                url = f"http://gpus.internal:{double.port}"
                async with engine_on(upstreams=[url], lookup=lookup, resolve_s=0.1) as engine:
                    await until(lambda: all(each.state != "connecting" for each in engine.fleet.upstreams.all.values()))
                    named = {each.name: each.state for each in engine.fleet.upstreams.all.values()}
                    assert named == {f"{url} (127.0.0.1)": "up", f"{url} (127.0.0.2)": "down"}
                    assert (await engine.recognise(CLIP, Ask())).text == SAID

                    double.mode = "silent"
                    call = asyncio.create_task(engine.recognise(CLIP, Ask()))
                    await until(lambda: double.running == 1)
                    led[:] = ["127.0.0.2"]
                    await until(lambda: len(engine.fleet.upstreams.all) == 1)
                    assert double.running == 1  # what it works on, it may finish
                    assert not call.done()
                    call.cancel()
                    led[:] = ["127.0.0.1"]
                    double.mode = "well"
                    await until(lambda: engine.trouble is None, 5)

        run(main)

    def test_a_certificate_is_checked_against_the_name(self, tmp_path):
        pem = Path(__file__).with_name("fixtures") / "files.internal.pem"

        async def main():
            server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
            server.load_cert_chain(pem)

            async def lookup(*_):
                return ["127.0.0.1"]

            double = await Double().start(ssl=server)
            named = {"upstreams": [f"https://files.internal:{double.port}"], "lookup": lookup}
            async with engine_on(**named, ca=pem) as engine:
                assert engine.trouble is None
                assert (await engine.recognise(CLIP, Ask())).text == SAID
            async with engine_on(**named) as engine:
                assert "certificate verify failed" in engine.trouble
            named["upstreams"] = [f"https://files.internal.:{double.port}"]  # looked up as it is, and nowhere else
            async with engine_on(**named, ca=pem) as engine:
                assert engine.trouble is None
            named["upstreams"] = [f"https://other.internal:{double.port}"]
            async with engine_on(**named, ca=pem) as engine:
                assert "certificate verify failed" in engine.trouble
            await double.stop()

        run(main)

    def test_a_name_that_leads_nowhere_is_said_and_the_known_goes_on(self):
        async def main():
            async with Double() as double:
                fails = True

                async def lookup(*_):
                    if fails:
                        raise OSError("Name or service not known")
                    return ["127.0.0.1"]

                url = f"http://gpus.internal:{double.port}"
                async with engine_on(upstreams=[url], lookup=lookup, resolve_s=0.1) as engine:
                    assert "cannot be looked up: Name or service not known" in engine.trouble
                    fails = False
                    await until(lambda: engine.trouble is None, 5)
                    fails = True
                    await asyncio.sleep(0.3)
                    assert (await engine.recognise(CLIP, Ask())).text == SAID

        run(main)

    def test_servers_that_are_started_here_come_and_go_while_it_serves(self):
        async def main():
            async with Double() as first, Double() as second, engine_on(first, resolve_s=60) as engine:
                engine.fleet.add(second.url)
                await until(lambda: len(engine.fleet.upstreams.up) == 2)
                engine.fleet.remove(second.url)
                await until(lambda: len(engine.fleet.upstreams.all) == 1)
                before = len(second.asked)
                assert (await engine.recognise(CLIP, Ask())).text == SAID
                assert len(second.asked) == before

        run(main)

    def test_who_opens_waits_for_a_server_that_is_coming_and_not_for_one_that_is_not(self):
        async def main():
            async with Double() as double:
                engine = VllmEngine(VllmSettings(connect_timeout_s=0.05, canary_timeout_s=0.05))
                engine.fleet.expect("GPU 0", "10 s so far", soon=True)
                opening = asyncio.create_task(engine.open())
                await asyncio.sleep(0.3)
                assert not opening.done()
                assert "GPU 0: 10 s so far." in engine.trouble
                engine.fleet.expect("GPU 0", None)
                engine.fleet.add(double.url)
                await opening
                await until(lambda: engine.trouble is None)
                await engine.close()

                engine = VllmEngine(VllmSettings())
                engine.fleet.expect("GPU 0", "It ended", soon=False)
                await asyncio.wait_for(engine.open(), 1)
                assert "GPU 0: It ended." in engine.trouble
                await engine.close()

        run(main)

    def test_ipv6_by_address_and_behind_a_name(self):
        async def main():
            asked = []

            async def lookup(*what):
                asked.append(what)
                return ["::1"]

            try:
                double = await Double().start(host="::1")
            except OSError:
                pytest.skip("this machine has no IPv6, not even for itself")
            urls = [f"http://[::1]:{double.port}", f"http://gpus.internal.:{double.port}"]
            async with engine_on(upstreams=urls, lookup=lookup) as engine:
                await until(lambda: len(engine.fleet.upstreams.up) == 2)
                assert [each.name for each in engine.fleet.states()] == [urls[0], f"{urls[1]} (::1)"]
                for _ in range(4):
                    assert (await engine.recognise(CLIP, Ask())).text == SAID
            assert set(asked) == {("gpus.internal.", double.port)}
            await double.stop()

        run(main)

    def test_one_family_of_addresses_only(self):
        assert run(lambda: system_lookup("localhost", 80)) == ["127.0.0.1"]


class TestService:
    def test_auto_means_the_servers_and_the_state_says_why_they_are_not_there(self, tmp_path, monkeypatch):
        monkeypatch.setattr(fleet, "TICK", 0.05)

        async def main():
            double = await Double().start()
            settings = Settings(state_dir=tmp_path, vllm=VllmSettings(upstreams=[double.url], wait_s=0))
            registry = Registry(models.offers(settings), models.aliases(settings), settings.models)
            assert registry.default == "qwen3-asr"
            registry.start()
            await until(lambda: registry.state().state == "ready")
            async with registry.lease() as engine:
                assert (await engine.recognise(CLIP, Ask())).text == SAID
            port = double.port
            await double.stop()
            await until(lambda: registry.state().state == "failed", 5)
            assert "cannot be reached" in registry.state().reason
            double = await Double().start(port)
            await until(lambda: registry.state().state == "ready", 5)
            await registry.close()
            await double.stop()

        run(main)

    def test_what_is_no_matter_of_the_servers_changes_while_they_serve(self, tmp_path):
        async def main():
            async with Double() as one:

                def offers(**more):
                    return models.offers(Settings(state_dir=tmp_path, vllm=VllmSettings(upstreams=[one.url], **more)))

                registry = Registry(offers(), {})
                registry.start()
                await until(lambda: registry.state().state == "ready")
                before = registry._served["qwen3-asr"].slot.model
                async with registry.lease() as engine:
                    one.latency = 0.3
                    call = asyncio.create_task(engine.recognise(CLIP, Ask()))
                    await until(lambda: one.running == 1)
                    more = {"width": 3, "pass_through_s": 9, "encoding": "flac", "context_tokens": 7, "retries": 0}
                    assert await registry.update(offers(**more), {}) == []
                    assert (await call).text == SAID
                async with registry.lease() as engine:
                    assert (engine.card.width, engine.card.sent_limit) == (3, 9)
                    with pytest.raises(ContextTooLong):
                        await engine.recognise(CLIP, Ask(context="Ada " * 10))
                    one.latency, one.most = 0.05, 0
                    await asyncio.gather(*(engine.recognise(CLIP, Ask()) for _ in range(9)))
                    assert one.most == 3
                    one.mode, asked = "error", len(one.asked)
                    with pytest.raises(EngineFailed):
                        await engine.recognise(CLIP, Ask())
                    assert len(one.asked) == asked + 1
                assert registry._served["qwen3-asr"].slot.model is before
                await registry.close()

        run(main)

    def test_servers_come_and_go_with_the_settings(self, tmp_path):
        async def main():
            async with Double() as one, Double() as other:

                def offers(*doubles):
                    named = VllmSettings(upstreams=[double.url for double in doubles], wait_s=0.3)
                    return models.offers(Settings(state_dir=tmp_path, vllm=named))

                registry = Registry(offers(one), {})
                registry.start()
                await until(lambda: registry.state().state == "ready")
                one.latency = 0.5
                async with registry.lease() as engine:
                    call = asyncio.create_task(engine.recognise(CLIP, Ask()))
                    await until(lambda: one.running == 1)
                    assert await registry.update(offers(other), {}) == []
                    assert (await engine.recognise(CLIP, Ask())).text == SAID
                    assert other.done > 1
                    assert (await call).text == SAID  # where it was begun
                one.version = "7.0"
                problems = await registry.update(offers(one), {})
                assert "vLLM 7.0" in problems[0] or "can be reached" in problems[0]
                async with registry.lease() as engine:
                    assert (await engine.recognise(CLIP, Ask())).text == SAID
                await registry.close()

        run(main)
