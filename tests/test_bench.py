"""The bench, against the application with a fake engine: what it counts, what it advises, what it admits of itself."""

import asyncio
import io
import json
import re
import wave
from collections import Counter

import httpx2
import pytest
from click.testing import CliRunner

from tingdao import bench, cli
from tingdao.bench import Bench, Level, advice, as_json, default_recording, overhead, percentile, table
from tingdao.engines.base import Recognition
from tingdao.errors import EngineFailed, SetupError


def level(concurrency, rtfx, times=(1.0,), **errors):
    return Level(concurrency, wall=10.0, audio=rtfx * 10, times=list(times), errors=Counter(errors), null_mean=0.004)


@pytest.fixture
def measure(make_client, engine):
    """Run the bench against a service in this process."""

    def run(concurrencies=(1, 2), seconds=0.3, key=None, recordings=None, **sections):
        client = make_client(engine, **sections)
        told = []

        async def main():
            async with client.session():
                await client.service.registry.load()
                made = Bench(
                    "http://127.0.0.1",
                    key,
                    "default",
                    seconds,
                    lambda what, done: told.append((what, done)),
                    httpx2.ASGITransport(client.app, raise_app_exceptions=False),
                )
                return await made.run(recordings or [default_recording()], concurrencies), made, told

        return asyncio.run(main())

    return run


@pytest.mark.parametrize(
    ("share", "value"), [(0, 1), (1, 1), (50, 50), (50.5, 51), (95, 95), (99, 99), (99.1, 100), (100, 100)]
)
def test_percentile_is_the_nearest_rank(share, value):
    assert percentile(list(range(100, 0, -1)), share) == value
    assert percentile([], share) is None
    assert percentile([7.0], share) == 7.0


def test_the_default_recording_is_ten_seconds_of_speech():
    name, data = default_recording()
    with wave.open(io.BytesIO(data)) as file:
        assert 9 < file.getnframes() / file.getframerate() < 11
    assert name


class TestMeasuring:
    def test_counts_requests_and_seconds(self, measure, engine):
        levels, made, told = measure()
        assert [each.concurrency for each in levels] == [1, 2]
        for each in levels:
            assert each.failed == 0
            assert each.audio == pytest.approx(len(each.times) * 10.198, rel=0.01)
            assert len(each.first_texts) == len(each.times) >= each.concurrency
            assert all(first <= whole for first, whole in zip(each.first_texts, each.times, strict=True))
            assert each.wall >= 0.3
            assert each.rtfx == pytest.approx(each.audio / each.wall)
            assert each.memory > 10_000_000
            assert each.gpu is None
            assert 0 < each.null_mean <= each.null_p99 < 1
            assert each.busy > 0
        assert made.shows_memory
        assert {what for what, _ in told} == {"warming up", "1 at once", "2 at once"}

    def test_keeps_so_many_in_flight(self, measure, engine):
        at_once = engine.recognise

        async def slowly(clip, ask):
            engine.running += 1
            await asyncio.sleep(0.02)
            engine.running -= 1
            return await at_once(clip, ask)

        engine.recognise = slowly
        measure(concurrencies=(2,))
        assert engine.most_running == 2

    def test_refusals_are_errors_and_are_not_sent_again_at_once(self, measure):
        (one, three), _, _ = measure(concurrencies=(1, 3), server={"max_in_flight": 1})
        assert one.failed == 0
        assert 1 <= three.errors["overloaded"] <= 6
        assert three.times

    def test_a_stream_that_breaks_off_is_an_error(self, measure, engine):
        calls = []

        def answer(clip, ask):
            calls.append(clip.start)
            if len(calls) > 3 and clip.start > 5:
                raise EngineFailed("The model failed.")
            return Recognition("words", "en")

        engine.answer = answer
        ((one),), _, _ = measure(concurrencies=(1,), seconds=0.1, audio={"clip_limit_s": 5})
        assert one.errors["cut_stream"] == one.failed >= 1

    def test_a_service_without_the_key_is_said_before_measuring(self, measure):
        with pytest.raises(SetupError, match="refuses the canary"):
            measure(recordings=[("the canary", b"no recording")])

    def test_memory_is_left_out_where_it_is_not_shown(self, measure, tmp_path):
        from tingdao.database import Database
        from tingdao.keys import KeyStore

        (tmp_path / "state").mkdir()
        database = Database(None, tmp_path / "state")
        store = KeyStore(database)
        key = store.add("somebody")
        database.close()
        levels, made, _ = measure(concurrencies=(1,), key=key)
        assert not made.shows_memory
        assert levels[0].memory is None
        assert levels[0].times

    def test_nobody_there(self):
        with pytest.raises(SetupError, match="does not answer"):
            asyncio.run(
                Bench("http://127.0.0.1:1", None, "default", 1, lambda *_: None).run([default_recording()], [1])
            )

    def test_another_service(self):
        transport = httpx2.MockTransport(lambda request: httpx2.Response(200, text="hello"))
        other = Bench("http://127.0.0.1", None, "default", 1, lambda *_: None, transport)
        with pytest.raises(SetupError, match="not as Tingdao does"):
            asyncio.run(other.run([default_recording()], [1]))


class TestAdvice:
    def test_where_throughput_stops_growing(self):
        said = advice([level(1, 10), level(2, 19), level(4, 30), level(8, 31, [4.0]), level(16, 31, [8.0])])
        assert said.startswith("Keep about 4 in flight: 30.0 seconds of audio per second")
        assert "With 16 it does 31.0, and half of the answers take up to 8.00 s" in said

    def test_where_errors_begin(self):
        said = advice([level(1, 10), level(8, 60), level(16, 70, overloaded=30, ReadTimeout=2)])
        assert "Keep about 8 in flight" in said
        assert said.endswith("Errors begin with 16 at once (30 × overloaded, 2 × ReadTimeout).")

    def test_that_there_is_more_to_measure(self):
        assert "measure with more at once" in advice([level(1, 10), level(2, 20)])

    def test_nothing_but_errors(self):
        assert advice([level(4, 0, [], internal_error=9)]) == "Errors begin with 4 at once (9 × internal_error)."

    def test_a_dip_on_the_way_is_not_the_end(self):
        assert "Keep about 8 " in advice([level(1, 10), level(2, 9), level(4, 25), level(8, 40)])


def test_table_and_json_say_the_same():
    levels = [level(1, 10, [0.5, 1.5, 2.5]), level(2, 12, [0.25], rate_limited=1)]
    levels[0].memory, levels[0].first_texts = 512 * 2**20, [0.125]
    head, first, second = table(levels).splitlines()
    assert head.split()[:2] == ["at", "once"]
    assert re.split(r"\s{2,}", first.strip()) == [
        "1", "3", "0", "1.50 s", "1.50 s", "2.50 s", "2.50 s", "125 ms", "10.0", "512 MiB", "–", "4.0 ms"
    ]  # fmt: skip
    assert second.split()[:5] == ["2", "2", "1", "250", "ms"]
    said = json.loads(as_json("http://x", ["a"], levels))
    assert said["levels"][0] | {"bench_cpu": 0} == {
        "concurrency": 1, "requests": 3, "errors": {}, "mean_ms": 1500.0, "p50_ms": 1500.0, "p95_ms": 2500.0,
        "p99_ms": 2500.0, "first_text_p50_ms": 125.0, "rtfx": 10.0, "memory_bytes": 512 * 2**20,
        "gpu_memory_bytes": None, "null_mean_ms": 4.0, "null_p99_ms": 0.0, "bench_cpu": 0,
    }  # fmt: skip
    assert said["recommendation"] == advice(levels)
    assert "4.0 ms" in overhead(levels)


class TestCommand:
    @pytest.mark.parametrize("numbers", ["0", "1,x", "", "2000", "1,,2"])
    def test_wrong_concurrencies_are_refused(self, numbers):
        done = CliRunner().invoke(cli.main, ["bench", "http://127.0.0.1:1", "--concurrency", numbers])
        assert done.exit_code == 2
        assert "such as 1,2,4,8,16" in done.stderr

    def test_says_when_nobody_is_there(self):
        done = CliRunner().invoke(cli.main, ["bench", "http://127.0.0.1:1"])
        assert done.exit_code == 2
        assert "http://127.0.0.1:1 does not answer" in done.stderr

    @pytest.mark.parametrize("flags", [[], ["--json"]])
    def test_prints_the_table_and_the_advice(self, monkeypatch, flags):
        asked = []

        async def run(self, recordings, concurrencies):
            asked.append((recordings[0][0], concurrencies))
            return [level(each, each * 10.0) for each in concurrencies]

        monkeypatch.setattr(bench.Bench, "run", run)
        done = CliRunner().invoke(cli.main, ["bench", "http://127.0.0.1:1", "--concurrency", "4,1,4", *flags])
        assert done.exit_code == 0
        assert asked == [("the canary, five times", (1, 4))]
        assert "Keep about 4 in flight" in done.stdout
        assert (done.stdout[0] == "{") is bool(flags)
