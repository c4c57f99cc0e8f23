"""Logs, metrics and traces: what the operator sees of each request, and what nobody may see."""

import asyncio
import io
import json
import logging
import os
import re
import subprocess
import sys
import threading
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from prometheus_client.parser import text_string_to_metric_families

from tingdao import app
from tingdao.engines import memory
from tingdao.engines.base import Recognition
from tingdao.engines.batcher import Batcher
from tingdao.errors import EngineFailed, SetupError
from tingdao.observe import Figures, JsonFormatter, Metrics, configure_logging, during, figures, traces
from tingdao.observe.traces import Traces
from tingdao.settings import LogSettings

PATH = "/api/v1/transcribe"
STREAM = "/v1/audio/transcriptions"
DEPLOY = Path(__file__).parent.parent / "deploy"
FACTS = {"model", "audio_s", "clips", "queue_ms", "decode_ms", "recognise_ms", "align_ms", "first_text_ms"}


@pytest.fixture
def jfk(recordings):
    return {"file": (recordings / "jfk.flac").read_bytes()}


@pytest.fixture
def lines():
    """The log so far, as it is written."""
    written = io.StringIO()
    handler = logging.StreamHandler(written)
    handler.setFormatter(JsonFormatter())
    root, level = logging.getLogger(), logging.getLogger().level
    root.addHandler(handler)
    root.setLevel(logging.DEBUG)
    yield lambda: [json.loads(line) for line in written.getvalue().splitlines()]
    root.removeHandler(handler)
    root.setLevel(level)


def request_line(lines):
    (line,) = [line for line in lines() if line["message"] == "request"]
    return line


def samples(text):
    """Values by name and labels."""
    found = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            found[sample.name, tuple(sorted(sample.labels.items()))] = sample.value
    return found


class TestLog:
    def test_a_request_says_where_its_time_went(self, client, jfk, lines):
        client.post(PATH, files=jfk, headers={"x-request-id": "mine"})
        line = request_line(lines)
        assert line["request_id"] == "mine"
        assert (line["route"], line["method"], line["status"], line["error"]) == (PATH, "POST", 200, None)
        assert (line["model"], line["audio_s"], line["clips"]) == ("fake", 11.0, 1)
        assert line["client"] == "127.0.0.1"
        assert line["body_bytes"] > len(jfk["file"])
        assert line["decode_ms"] > 1
        assert line["recognise_ms"] >= 0
        for stage in ("queue_ms", "decode_ms", "recognise_ms", "first_text_ms"):
            assert 0 <= line[stage] <= line["total_ms"], stage

    def test_what_does_no_work_has_no_figures_of_it(self, client, lines):
        client.get("/health")
        assert not FACTS & set(request_line(lines))

    def test_a_refusal_has_its_code_and_route(self, client, lines):
        client.post(PATH, files={"file": b"no recording"})
        line = request_line(lines)
        assert (line["status"], line["error"], line["route"]) == (400, "unsupported_audio", PATH)

    def test_a_stream_is_logged_at_its_end(self, make_client, engine, jfk, lines):
        client = make_client(engine)

        async def main():
            engine.hold = asyncio.Event()
            async with client.session() as http:
                sent = asyncio.create_task(http.post(STREAM, files=jfk, data={"model": "default", "stream": "true"}))
                async with asyncio.timeout(20):
                    while not engine.running:  # noqa: ASYNC110  what is waited for has no event
                        await asyncio.sleep(0.005)
                assert not [line for line in lines() if line["message"] == "request"]
                await asyncio.sleep(0.05)
                engine.hold.set()
                await sent

        asyncio.run(main())
        line = request_line(lines)
        assert (line["status"], line["audio_s"]) == (200, 11.0)
        assert line["recognise_ms"] >= 50
        assert line["total_ms"] >= line["first_text_ms"] >= 50

    def test_a_stream_that_fails_on_its_way_says_so(self, make_client, engine, recordings, lines):
        client = make_client(engine, audio={"clip_limit_s": 5})

        def answer(clip, ask):
            if clip.start > 7:
                raise EngineFailed("The model failed.")
            return Recognition("first words", "en")

        engine.answer = answer
        answer = client.post(
            STREAM,
            files={"file": (recordings / "jfk.flac").read_bytes()},
            data={"model": "default", "stream": "true"},
        )
        assert "first words" in answer.text
        line = request_line(lines)
        assert (line["status"], line["error"]) == (200, "engine_failed")
        assert 0 < line["audio_s"] < 11
        text = client.service.metrics.render().decode()
        assert samples(text)["tingdao_refusals_total", (("code", "engine_failed"),)] == 1

    def test_what_nobody_foresaw_is_not_taken_for_a_client_that_left(self, client, lines, monkeypatch):
        async def broken(*_):
            raise RuntimeError("broken")

        monkeypatch.setattr("tingdao.api.access.Access.admit", broken)
        assert client.get("/v1/models").status_code == 500
        assert (request_line(lines)["status"], request_line(lines)["error"]) == (500, "internal_error")

    @pytest.mark.parametrize("wanted", [False, True])
    def test_transcripts_only_where_asked_for(self, make_client, engine, jfk, lines, wanted):
        engine.answer = lambda clip, ask: Recognition("canary words", "en")
        make_client(engine, log={"transcripts": wanted}).post(PATH, files=jfk)
        assert ("canary" in json.dumps(lines())) is wanted
        assert request_line(lines).get("transcript") == ("canary words" if wanted else None)

    def test_keys_are_blanked_wherever_they_stand(self):
        record = logging.makeLogRecord({"msg": "path /td_0123456789abcdefghij?ticket=ek_0123456789abcdefghij"})
        assert json.loads(JsonFormatter().format(record))["message"] == "path /td_…?ticket=ek_…"


class TestLogFile:
    @pytest.fixture(autouse=True)
    def restored(self):
        root = logging.getLogger()
        handlers, level = root.handlers[:], root.level
        yield
        for handler in set(root.handlers) - set(handlers):
            handler.close()
        root.handlers[:] = handlers
        root.setLevel(level)

    def test_is_rotated_and_bounded(self, tmp_path, capsys, monkeypatch):
        monkeypatch.setattr("tingdao.observe.logs.MIB", 1000)
        file = tmp_path / "logs" / "tingdao.log"
        configure_logging(LogSettings(file=file, max_mib=2, keep=2))
        for number in range(100):
            logging.getLogger("tingdao.test").info("line %d 听到", number)
        assert sorted(each.name for each in file.parent.iterdir()) == [
            "tingdao.log", "tingdao.log.1", "tingdao.log.2",
        ]  # fmt: skip
        assert all(each.stat().st_size <= 2000 for each in file.parent.iterdir())
        last = file.read_text(encoding="utf-8").splitlines()[-1]
        assert json.loads(last)["message"] == "line 99 听到"
        assert capsys.readouterr().err == ""

    def test_that_cannot_be_written_is_refused_by_name(self, tmp_path):
        (tmp_path / "file").touch()
        with pytest.raises(SetupError, match=r"log\.file \(TINGDAO_LOG_FILE\)"):
            configure_logging(LogSettings(file=tmp_path / "file" / "tingdao.log"))

    def test_level(self, tmp_path):
        file = tmp_path / "tingdao.log"
        configure_logging(LogSettings(file=file, level="warning"))
        logging.getLogger("tingdao.test").info("quiet")
        logging.getLogger("tingdao.test").warning("loud")
        assert "loud" in file.read_text()
        assert "quiet" not in file.read_text()


class TestFigures:
    """Seconds of the clock on the wall, by a clock of the test."""

    @pytest.fixture
    def clock(self, monkeypatch):
        @dataclass
        class Clock:
            now: float = 100.0

            def monotonic(self):
                return self.now

            def time(self):
                return self.now

        clock = Clock()
        monkeypatch.setattr("tingdao.observe.request.time", clock)
        token = figures.set(Figures())
        yield clock
        figures.reset(token)

    def test_clips_side_by_side_are_counted_once(self, clock):
        first = during("recognise")
        clock.now += 2
        with during("recognise"):
            clock.now += 3
            first.end()
            clock.now += 1
        clock.now += 10
        assert figures.get().seconds("recognise") == 6

    def test_waiting_counts_while_nothing_is_recognised(self, clock):
        waiting = during("queue")
        clock.now += 2
        with during("recognise"):
            clock.now += 3
        assert figures.get().stages == ["queue"]
        clock.now += 4
        waiting.end()
        waiting.end()
        assert figures.get().seconds("queue") == 6
        assert figures.get().stages == []

    def test_a_stage_that_fails_is_over(self, clock):
        stage = during("align")
        clock.now += 1
        stage.__exit__(EngineFailed, EngineFailed("no"), None)
        assert figures.get().seconds("align") == 1
        assert figures.get().stages == []

    def test_requests_side_by_side_do_not_mix(self, make_client, recordings, lines):
        client = make_client()
        short = {"file": (recordings / "cards_001.flac").read_bytes()}
        long = {"file": (recordings / "jfk.flac").read_bytes()}

        async def main():
            async with client.session() as http:
                await asyncio.gather(*(http.post(PATH, files=files) for files in (short, long, short, long)))

        asyncio.run(main())
        seconds = sorted(line["audio_s"] for line in lines() if line["message"] == "request")
        assert seconds[0] == seconds[1] < seconds[2] == seconds[3] == 11.0


class TestMetrics:
    def test_tell_of_a_request(self, client, jfk):
        async def main():
            async with client.session() as http:
                await client.service.registry.load()
                await http.post(PATH, files=jfk)
                await http.post(PATH, files={"file": b"no recording"})
                return (await http.get("/metrics")).text

        found = samples(asyncio.run(main()))
        fake = (("model", "fake"),)
        assert found["tingdao_requests_total", (("route", PATH), ("status", "200"))] == 1
        assert found["tingdao_refusals_total", (("code", "unsupported_audio"),)] == 1
        for name, count in {"queue": 2, "decode": 2, "recognise": 1, "first_text": 1}.items():
            assert found[f"tingdao_{name}_seconds_count", fake] == count, name
        assert found["tingdao_audio_seconds_total", fake] == 11
        assert found["tingdao_real_time_factor_count", fake] == 1
        assert found["tingdao_model_ready", fake] == 1
        assert found["tingdao_model_failed", fake] == 0
        assert found["tingdao_model_loaded_at_seconds", fake] > 1e9
        assert found["tingdao_model_waiting", fake] == 0
        assert found["tingdao_in_flight", ()] == 0
        assert found["tingdao_disk_free_bytes", ()] > 0
        assert found["process_resident_memory_bytes", ()] == pytest.approx(memory.resident(), rel=0.5)
        assert found["process_open_fds", ()] > 3

    def test_size_of_batches(self):
        """Two clips of three steps, of which one joins for the last two of the other."""

        @dataclass(eq=False)
        class Work:
            steps: int
            ended: str | None = None

        class Model:
            def __init__(self):
                self.batch = []

            def cost(self, job):
                return 1

            def enter(self, job):
                self.batch.append(job)

            def step(self):
                for job in self.batch:
                    job.steps -= 1
                    job.ended = None if job.steps else "stop"
                return list(self.batch)

            def leave(self, job):
                self.batch.remove(job)

        metrics = Metrics()

        async def main():
            figures.set(Figures(metrics))
            batcher = Batcher(Model(), width=8, budget=100, wait=0.2, name="m")
            await asyncio.gather(batcher.run(Work(4)), batcher.run(Work(2)))
            await batcher.run(Work(1))
            await batcher.close()

        asyncio.run(main())
        found = samples(metrics.render().decode())
        label = (("model", "m"),)
        assert found["tingdao_batch_size_count", label] == 3
        assert found["tingdao_batch_size_sum", label] == pytest.approx((2 + 2 + 1 + 1) / 4 + 2 + 1)


def known_metrics(client):
    """Every name and label that `/metrics` can have."""
    names, labels = {"up"}, {"le", "instance", "job"}
    for family in client.service.metrics.registry.collect():
        ends = {"counter": ["_total"], "histogram": ["_bucket", "_sum", "_count"]}.get(family.type, [""])
        names |= {family.name + end for end in ends}
        labels |= {label for sample in family.samples for label in sample.labels}
    # Families without a sample yet tell their labels only here.
    for metric in vars(client.service.metrics).values():
        for each in metric.values() if isinstance(metric, dict) else [metric]:
            labels |= set(getattr(each, "_labelnames", ()))
    return names, labels | {"gpu", "model", "server"}


def wrong(expression, names, labels):
    """What of a PromQL expression this service does not have."""
    bare = re.sub(r'"[^"]*"', '""', expression)
    used = set(re.findall(r"\b(?:tingdao|process)_\w+", bare))
    grouped = re.findall(r"\b(?:by|on|without) \(([^)]*)\)", bare)
    matched = re.findall(r"(\w+)\s*(?:=~|=|!=|!~)\s*\"", bare)
    used_labels = {label.strip() for group in grouped for label in group.split(",")} | set(matched)
    assert used, expression
    return (used - names) | (used_labels - labels)


class TestDeploy:
    def test_the_dashboard_shows_metrics_that_exist(self, client):
        names, labels = known_metrics(client)
        dashboard = json.loads((DEPLOY / "grafana.json").read_text(encoding="utf-8"))
        panels = [panel for panel in dashboard["panels"] if panel["type"] != "row"]
        assert len({panel["id"] for panel in dashboard["panels"]}) == len(dashboard["panels"])
        for panel in panels:
            assert panel["targets"], panel["title"]
            for target in panel["targets"]:
                assert not wrong(target["expr"], names, labels), panel["title"]
        # Every metric of requests, models and keys has its place.
        shown = " ".join(target["expr"] for panel in panels for target in panel["targets"])
        for family in client.service.metrics.registry.collect():
            if family.name.startswith("tingdao_") and family.name not in UNSHOWN:
                assert family.name in shown, family.name

    def test_panels_do_not_overlap(self):
        taken = set()
        for panel in json.loads((DEPLOY / "grafana.json").read_text(encoding="utf-8"))["panels"]:
            grid = panel["gridPos"]
            cells = {(grid["x"] + x, grid["y"] + y) for x in range(grid["w"]) for y in range(grid["h"])}
            assert not cells & taken, panel["title"]
            assert max(x for x, _ in cells) < 24
            taken |= cells

    def test_alerts_are_about_metrics_that_exist(self, client):
        names, labels = known_metrics(client)
        rules = [
            rule
            for group in yaml.safe_load((DEPLOY / "alerts.yaml").read_text(encoding="utf-8"))["groups"]
            for rule in group["rules"]
        ]
        assert len({rule["alert"] for rule in rules}) == len(rules) >= 8
        for rule in rules:
            assert not wrong(rule["expr"], names, labels), rule["alert"]
            assert rule["labels"]["severity"] in {"page", "warn"}
            assert rule["annotations"]["summary"]
            # What the text refers to is still there after the aggregation.
            for label in re.findall(r"\$labels\.(\w+)", rule["annotations"]["summary"]):
                assert label in rule["expr"] or " by " not in rule["expr"], rule["alert"]

    def test_what_does_not_exist_is_found(self, client):
        names, labels = known_metrics(client)
        assert wrong('sum by (colour) (rate(tingdao_nothing_total{shade="x"}[5m]))', names, labels) == {
            "tingdao_nothing_total", "colour", "shade",
        }  # fmt: skip


UNSHOWN = {
    "tingdao_model_recordings",
    "tingdao_model_calls",
    "tingdao_model_loaded_at_seconds",
    "tingdao_unrecognised_seconds",
    "tingdao_aligner_failed",
}


class TestTraces:
    PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"

    @pytest.fixture
    def traced(self, make_client):
        """A client whose service is traced, and its spans."""
        exporter = InMemorySpanExporter()
        provider = TracerProvider()
        provider.add_span_processor(SimpleSpanProcessor(exporter))
        client = make_client()
        client.service.metrics.registry = Metrics().registry  # gauges are registered once
        client.app = app.create_app(client.settings, client.service, Traces(provider))
        return client, exporter.get_finished_spans

    def test_a_request_and_what_was_done_for_it(self, traced, jfk, lines):
        client, spans = traced
        client.post(PATH, files=jfk, headers={"x-request-id": "mine", "traceparent": self.PARENT})
        by_name = {span.name: span for span in spans()}
        root = by_name[f"POST {PATH}"]
        assert f"{root.context.trace_id:032x}" == "0af7651916cd43dd8448eb211c80319c"
        assert f"{root.parent.span_id:016x}" == "b7ad6b7169203331"
        assert {"decode", "recognise"} <= set(by_name)
        for name, span in by_name.items():
            if span is not root:
                assert span.parent.span_id == root.context.span_id, name
                assert root.start_time <= span.start_time <= span.end_time <= root.end_time, name
        attributes = dict(root.attributes)
        assert attributes["http.request.method"] == "POST"
        assert attributes["http.route"] == PATH
        assert attributes["http.response.status_code"] == 200
        assert attributes["tingdao.request_id"] == "mine"
        assert attributes["tingdao.model"] == "fake"
        assert dict(by_name["recognise"].attributes) == {
            "tingdao.start": pytest.approx(0, abs=0.5),
            "tingdao.seconds": pytest.approx(11, abs=1),
        }
        assert request_line(lines)["trace_id"] == "0af7651916cd43dd8448eb211c80319c"

    def test_a_failure_is_marked(self, traced, jfk):
        client, spans = traced
        client.engine.fail = EngineFailed("The model failed.")
        client.post(PATH, files=jfk)
        found = {span.name: span for span in spans()}
        assert found[f"POST {PATH}"].attributes["error.type"] == "engine_failed"
        assert found["recognise"].attributes["error.type"] == "EngineFailed"
        assert not found["recognise"].status.is_ok

    def test_no_transcript_and_nothing_of_those_who_only_look(self, make_client, engine, jfk, traced):
        client, spans = traced
        client.engine.answer = lambda clip, ask: Recognition("canary words", "en")
        client.get("/health")
        assert spans() == ()
        client.post(PATH, files=jfk)
        assert "canary" not in " ".join(span.to_json() for span in spans())

    def test_spans_reach_the_collector_that_the_variables_name(self, monkeypatch):
        received = []

        class Collector(BaseHTTPRequestHandler):
            def do_POST(self):
                received.append((self.path, self.rfile.read(int(self.headers["content-length"]))))
                self.send_response(200)
                self.end_headers()

            def log_message(self, *_):
                pass

        with ThreadingHTTPServer(("127.0.0.1", 0), Collector) as collector:
            threading.Thread(target=collector.serve_forever, daemon=True).start()
            monkeypatch.setenv("NO_PROXY", "127.0.0.1")
            monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{collector.server_port}")
            monkeypatch.setenv("OTEL_SERVICE_NAME", "night-shift")
            made = traces.from_environment()
            span = made.request("mine", "POST", PATH, {})
            span.child("decode", {}).end(None, {})
            span.end(None, {"status": 200})
            made.close()
            collector.shutdown()
        assert {path for path, _ in received} == {"/v1/traces"}
        body = b"".join(body for _, body in received)
        assert all(word in body for word in (b"decode", b"night-shift", PATH.encode(), b"mine"))

    def test_without_the_packages_it_serves_and_says_so(self, monkeypatch, lines):
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9")
        monkeypatch.setitem(sys.modules, "opentelemetry.sdk.trace", None)
        assert traces.from_environment() is None
        (line,) = [line for line in lines() if line["message"] == "no traces"]
        assert line["advice"] == "Run: pip install 'tingdao[otel]'"

    def test_nothing_is_imported_where_nothing_is_traced(self):
        program = (
            "import sys, tingdao.server; from tingdao.observe import traces; traces.from_environment();"
            "print([name for name in sys.modules if name.startswith(('opentelemetry.sdk', 'opentelemetry.exporter'))])"
        )
        clean = {name: value for name, value in os.environ.items() if not name.startswith("OTEL_")}
        assert subprocess.check_output([sys.executable, "-c", program], env=clean, text=True) == "[]\n"

    @pytest.mark.parametrize(
        "environment",
        [
            {},
            {"OTEL_EXPORTER_OTLP_ENDPOINT": ""},
            {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9", "OTEL_SDK_DISABLED": "true"},
            {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9", "OTEL_TRACES_EXPORTER": "none"},
        ],
    )
    def test_off(self, monkeypatch, environment):
        for name in (*traces.ENDPOINTS, "OTEL_SDK_DISABLED", "OTEL_TRACES_EXPORTER"):
            monkeypatch.delenv(name, raising=False)
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        assert traces.from_environment() is None


class TestGpus:
    """With a torch that says what the real one says; none of the test machines has a GPU."""

    @pytest.fixture
    def torch(self, monkeypatch):
        asked = []

        def mem_get_info(number):
            asked.append(number)
            return 30, 100

        cuda = SimpleNamespace(
            is_initialized=lambda: True,
            device_count=lambda: 2,
            memory_reserved=lambda number: 50 if number == 1 else 0,
            mem_get_info=mem_get_info,
        )
        monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(cuda=cuda))
        return cuda, asked

    def test_only_those_that_are_used_are_looked_at(self, torch, client):
        assert memory.gpus() == [memory.Gpu(1, used=70, reserved=50, total=100)]
        assert torch[1] == [1]
        found = samples(client.service.metrics.render().decode())
        assert found["tingdao_gpu_memory_used_bytes", (("gpu", "1"),)] == 70
        assert found["tingdao_gpu_memory_reserved_bytes", (("gpu", "1"),)] == 50
        assert found["tingdao_gpu_memory_total_bytes", (("gpu", "1"),)] == 100

    def test_nothing_where_no_model_is_on_one(self, torch, monkeypatch):
        torch[0].is_initialized = lambda: False
        assert memory.gpus() == []
        monkeypatch.delitem(sys.modules, "torch")
        assert memory.gpus() == []
