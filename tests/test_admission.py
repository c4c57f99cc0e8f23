"""Who is let in when there is much to do, what ends a request before its time, and that others hardly notice."""

import asyncio
import json
import time
from contextlib import suppress

import pytest

import media
from asgi import scope_of
from conftest import FakeEngine
from test_edge import PATH, multipart, until
from tingdao.api.admission import Admission, Upload
from tingdao.api.ready import LOADING
from tingdao.engines.base import Recognition
from tingdao.errors import DeadlineExceeded, Overloaded, Stopping, UploadTimeout
from tingdao.pipeline.load import Load
from tingdao.settings import ServerSettings

SPEECH = "/v1/audio/transcriptions"


class FakeLoad(Load):
    """A load that is what the test says."""

    wait = 0.0
    seconds = 0.0

    def __init__(self):
        super().__init__(lambda: True)

    def time_for(self, audio):
        return audio / 10


@pytest.fixture
def load():
    return FakeLoad()


def admission(load, **settings):
    return Admission(ServerSettings(**settings), load)


async def pending():
    await asyncio.Event().wait()


class Doorman:
    """Holds places for parties, within a running loop."""

    def __init__(self, door):
        self.door = door
        self.held = []

    def enter(self, party, seconds=None, upload=None):
        context = self.door.place(party, upload or Upload(0), seconds)
        place = context.__enter__()
        place.work = asyncio.ensure_future(pending())
        self.held.append((context, place))
        return place

    def leave(self, party):
        context, place = next(each for each in self.held if each[1].party == party)
        self.held.remove((context, place))
        place.work.cancel()
        context.__exit__(None, None, None)

    def count(self, party):
        return sum(place.party == party for _, place in self.held)


def test_one_alone_may_have_every_place(load):
    async def main():
        men = Doorman(admission(load, max_in_flight=8))
        for _ in range(8):
            men.enter("a")
        with pytest.raises(Overloaded):
            men.enter("a")

    asyncio.run(main())


def test_one_who_has_every_place_gives_way_as_soon_as_another_has_come(load):
    async def main():
        men = Doorman(admission(load, max_in_flight=8))
        for _ in range(8):
            men.enter("a")
        with pytest.raises(Overloaded):
            men.enter("b")
        men.leave("a")
        with pytest.raises(Overloaded, match="others"):
            men.enter("a")
        men.enter("b")

    asyncio.run(main())


def test_callers_who_want_everything_leave_room_for_one_who_wants_little(load):
    async def main():
        men = Doorman(admission(load, max_in_flight=12))
        men.enter("b")
        for _ in range(100):
            for party in ("a", "b"):
                with suppress(Overloaded):
                    men.enter(party)
        assert (men.count("a"), men.count("b")) == (4, 4)
        for _ in range(2):
            men.enter("c")
        assert men.count("c") == 2

    asyncio.run(main())


def test_a_party_that_has_not_come_for_a_minute_is_forgotten(load, monkeypatch):
    async def main():
        men = Doorman(admission(load, max_in_flight=4))
        men.enter("b")
        men.leave("b")
        now = time.monotonic()
        monkeypatch.setattr("tingdao.api.admission.time.monotonic", lambda: now + 61)
        for _ in range(4):
            men.enter("a")
        assert len(men.door._seen) == 1

    asyncio.run(main())


@pytest.mark.parametrize(
    ("wait", "seconds", "audio", "retry"),
    [(61.0, None, 0.0, 61), (30.0, 20.0, 0.0, 30), (5.0, None, 3 * 3600 + 500.0, 50)],
    ids=["wait", "deadline", "audio"],
)
def test_no_room_is_said_with_when_to_come_again(load, wait, seconds, audio, retry):
    load.wait, load.seconds = wait, audio
    door = admission(load, max_wait_s=60, max_audio_hours=3)
    with pytest.raises(Overloaded) as refused, door.place("a", Upload(0), seconds):
        pass
    assert refused.value.retry_after == pytest.approx(retry)
    assert door.in_flight == 0


def test_what_can_wait_is_let_in(load):
    load.wait, load.seconds = 59.0, 3 * 3600 - 1
    door = admission(load, max_wait_s=60, max_audio_hours=3)
    with door.place("a", Upload(0), 60.0):
        assert door.in_flight == 1
    assert door.in_flight == 0


def test_nobody_is_let_in_while_the_service_stops(load):
    door = admission(load)
    door.stop()
    with pytest.raises(Stopping), door.place("a", Upload(0), None):
        pass


def test_an_upload_that_dribbles_gives_its_place_up_and_one_that_flows_does_not(load, monkeypatch):
    async def main():
        now = time.monotonic()
        monkeypatch.setattr("tingdao.api.admission.time.monotonic", lambda: now)
        men = Doorman(admission(load, max_in_flight=2))
        slow, fast = Upload(1024), Upload(1024)
        with slow.waiting(), fast.waiting():
            slow.received, fast.received = 100, 10_000
            first = men.enter("a", upload=slow)
            men.enter("a", upload=fast)
            with pytest.raises(Overloaded):
                men.enter("b")
            now += 2.0
            men.enter("b")
            assert isinstance(first.ended, UploadTimeout)
            with pytest.raises(asyncio.CancelledError):
                await first.work
            with pytest.raises(Overloaded):
                men.enter("b")

    asyncio.run(main())


# Through HTTP, with the fake engine.


async def ask(http, path, audio, **extra):
    return await http.post(path, files={"file": audio}, **extra)


@pytest.fixture
def short(recordings):
    return (recordings / "cards_001.flac").read_bytes()


@pytest.mark.parametrize("how", ["header", "setting"])
def test_a_request_past_its_deadline_is_cancelled_down_to_the_engine(make_client, engine, short, how):
    client = make_client(engine, server={"deadline_s": 0.5 if how == "setting" else 0})
    headers = {"x-timeout": "0.5" if how == "header" else "100"}

    async def main():
        engine.hold = asyncio.Event()
        async with client.session() as http:
            began = time.monotonic()
            answer = await ask(http, PATH, short, headers=headers)
            assert time.monotonic() - began < 1.5
            assert (answer.status_code, answer.json()["error"]) == (504, "deadline_exceeded")
            assert (engine.running, engine.cancelled) == (0, 1)
            assert client.service.metrics.registry.get_sample_value("tingdao_in_flight") == 0
            engine.hold.set()
            assert (await ask(http, PATH, short, headers={"x-timeout": "30"})).status_code == 200

    asyncio.run(main())
    assert client.leftovers() == []


@pytest.mark.parametrize("seconds", ["soon", "0", "-1", "nan", "inf", ""])
def test_a_deadline_that_is_none_is_refused(client, short, seconds):
    answer = client.post(PATH, files={"file": short}, headers={"x-timeout": seconds})
    assert (answer.status_code, answer.json()["error"], answer.json()["param"]) == (
        400,
        "invalid_request",
        "X-Timeout",
    )


def stream_held_after_its_first_words(engine):
    """Let an engine answer the first clip and keep the others, in whatever order they come."""
    recognise, never = engine.recognise, asyncio.Event()

    async def held(clip, ask):
        engine.hold = never if clip.start > 1 else None
        return await recognise(clip, ask)

    engine.answer = lambda clip, ask: Recognition("Ask not what your country can do.", "en")
    engine.recognise = held


def test_a_stream_past_its_deadline_ends_with_an_error_event(make_client, recordings):
    engine = FakeEngine(width=1, clip_limit=5.0)
    client = make_client(engine)
    body, content_type = form((recordings / "jfk.flac").read_bytes(), stream="true", model="whisper-1")
    stream_held_after_its_first_words(engine)

    async def main():
        messages: asyncio.Queue[dict] = asyncio.Queue()
        messages.put_nowait({"type": "http.request", "body": body, "more_body": False})
        sent = []

        async def send(message):
            sent.append(message)

        async with client.session():
            request = asyncio.create_task(client.app(scope_of(SPEECH, content_type), messages.get, send))
            await until(lambda: engine.running and len(sent) > 1)  # past the first words, at whatever speed
            (place,) = client.door.admission._places
            place.end(DeadlineExceeded("too late"))
            await asyncio.wait_for(request, 1.0)
            text = b"".join(message.get("body", b"") for message in sent).decode()
            events = [line.removeprefix("data: ") for line in text.split("\n\n") if line]
            assert sent[0]["status"] == 200
            assert json.loads(events[0])["type"] == "transcript.text.delta"
            assert json.loads(events[-1])["error"]["code"] == "deadline_exceeded"
            assert sent[-1].get("more_body", False) is False
            assert (engine.running, bool(engine.cancelled)) == (0, True)
            assert client.service.metrics.registry.get_sample_value("tingdao_in_flight") == 0

    asyncio.run(main())


def form(recording, **fields):
    body, headers = multipart(recording)
    parts = b"".join(
        f'--b\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'.encode()
        for name, value in fields.items()
    )
    return parts + body, headers["content-type"]


def chat(recording):
    import base64

    url = "data:audio/flac;base64," + base64.b64encode(recording).decode()
    content = [{"type": "audio_url", "audio_url": {"url": url}}]
    return json.dumps({"model": "default", "messages": [{"role": "user", "content": content}]}).encode()


@pytest.mark.parametrize("kind", ["upload", "json", "stream"])
def test_a_client_that_leaves_frees_the_engine_within_a_second(make_client, recordings, kind):
    engine = FakeEngine(width=1, clip_limit=5.0)
    client = make_client(engine)
    recording = (recordings / "jfk.flac").read_bytes()
    if kind == "json":
        path, body, content_type = "/v1/chat/completions", chat(recording), "application/json"
    elif kind == "stream":
        path, (body, content_type) = SPEECH, form(recording, stream="true", model="whisper-1")
        stream_held_after_its_first_words(engine)
    else:
        path, (body, content_type) = PATH, form(recording)

    async def main():
        if kind != "stream":
            engine.hold = asyncio.Event()
        messages: asyncio.Queue[dict] = asyncio.Queue()
        messages.put_nowait({"type": "http.request", "body": body, "more_body": False})
        sent = []

        async def send(message):
            sent.append(message)

        async with client.session():
            request = asyncio.create_task(client.app(scope_of(path, content_type), messages.get, send))
            # A stream has then shown its first words, and the engine keeps the next ones.
            await until(lambda: engine.running and (kind != "stream" or len(sent) > 1))
            messages.put_nowait({"type": "http.disconnect"})
            began = time.monotonic()
            await until(lambda: not engine.running, 1.0)
            await asyncio.wait_for(request, 1.0)
            assert time.monotonic() - began < 1.0
            assert engine.cancelled >= 1
            assert bool(sent) == (kind == "stream")

    asyncio.run(main())
    assert client.leftovers() == []


def test_reading_and_operating_are_never_refused(make_client, engine, short):
    client = make_client(engine, server={"max_in_flight": 1})

    async def main():
        engine.hold = asyncio.Event()
        async with client.session() as http:
            running = asyncio.create_task(ask(http, PATH, short))
            await until(lambda: engine.running)
            assert (await ask(http, PATH, short)).status_code == 503
            for path in ("/health", "/ready", "/v1/models", "/admin/status", "/metrics"):
                assert (await http.get(path)).status_code == 200, path
            assert (await http.post("/admin/load-model")).status_code == 200
            engine.hold.set()
            assert (await running).status_code == 200

    asyncio.run(main())


def test_not_ready_while_loading_while_failed_and_while_stopping(make_client, engine, short):
    client = make_client(engine)

    async def main():
        async with client.session() as http:
            first = await http.get("/ready")
            assert (first.status_code, first.json()["reason"]) == (503, LOADING)
            assert (await ask(http, PATH, short)).status_code == 200
            ready = await http.get("/ready")
            assert (ready.status_code, ready.json()) == (200, {"ready": True, "model": "fake", "reason": None})
            client.door.admission.stop()
            stopping = await http.get("/ready")
            assert (stopping.status_code, stopping.json()["reason"]) == (503, "The service is being stopped.")
            assert stopping.headers["connection"] == "close"
            refused = await ask(http, PATH, short)
            assert (refused.status_code, refused.json()["error"]) == (503, "stopping")
            assert (refused.headers["connection"], refused.headers["retry-after"]) == ("close", "5")
            assert (await http.get("/health")).status_code == 200

    asyncio.run(main())


def test_not_ready_when_the_model_cannot_be_loaded(make_client, engine):
    client = make_client(engine)

    def fail():
        raise RuntimeError("no such luck")

    for served in client.service.registry._served.values():
        vars_of = served.slot.offer
        served.slot.offer = type(vars_of)(vars_of.name, fail)

    async def main():
        async with client.session() as http:
            await until(lambda: client.service.registry.state().state == "failed")
            answer = await http.get("/ready")
            assert answer.status_code == 503
            assert "could not be loaded" in answer.json()["reason"]

    asyncio.run(main())


def test_what_is_in_work_when_time_is_up_is_told_so(make_client, engine, short):
    client = make_client(engine)

    async def main():
        engine.hold = asyncio.Event()
        async with client.session() as http:
            running = asyncio.create_task(ask(http, PATH, short))
            await until(lambda: engine.running)
            client.door.admission.stop()
            client.door.admission.end_all()
            answer = await running
            assert (answer.status_code, answer.json()["error"]) == (503, "stopping")
            assert engine.running == 0

    asyncio.run(main())


def test_a_slow_upload_is_let_go_however_steadily_it_dribbles(make_client):
    client = make_client(server={"receive_timeout_s": 0.5, "min_upload_kib_s": 1})
    body, headers = multipart(b"x" * 1000)

    async def main():
        bytes_of = iter([body[:200], *(bytes([byte]) for byte in body[200:])])

        async def receive():
            await asyncio.sleep(0.1)
            return {"type": "http.request", "body": next(bytes_of), "more_body": True}

        sent = []

        async def send(message):
            sent.append(message)

        async with client.session():
            began = time.monotonic()
            await asyncio.wait_for(client.app(scope_of(PATH, headers["content-type"]), receive, send), 5)
            assert sent[0]["status"] == 408
            assert time.monotonic() - began < 2

    asyncio.run(main())


def test_a_short_recording_does_not_wait_for_a_long_one(make_client, recordings):
    engine = FakeEngine(width=1, clip_limit=5.0)
    client = make_client(engine)
    long = media.wav(media.pcm() * 6)  # 66 s, more than 12 clips
    short = (recordings / "cards_001.flac").read_bytes()
    original = engine.recognise

    async def slowly(clip, ask):
        await asyncio.sleep(0.1)
        return await original(clip, ask)

    engine.recognise = slowly

    async def main():
        async with client.session() as http:
            running = asyncio.create_task(ask(http, PATH, long))
            await until(lambda: len(engine.asked) == 2)
            assert (await ask(http, PATH, short)).status_code == 200
            assert not running.done()
            assert (await running).status_code == 200
            durations = [clip.duration for clip, _ in engine.asked]
            assert len(durations) > 12
            assert min(range(len(durations)), key=durations.__getitem__) < 12

    asyncio.run(main())


def test_one_callers_hundred_requests_do_not_keep_out_anothers_one(make_client, recordings):
    engine = FakeEngine(width=1)
    client = make_client(engine, server={"max_in_flight": 200})
    body, content_type = form((recordings / "cards_001.flac").read_bytes())
    original, ended = engine.recognise, []

    async def slowly(clip, ask):
        await asyncio.sleep(0.02)
        return await original(clip, ask)

    engine.recognise = slowly

    async def one(address):
        scope = scope_of(PATH, content_type) | {"client": (address, 1)}
        messages = asyncio.Queue()
        messages.put_nowait({"type": "http.request", "body": body, "more_body": False})
        statuses = []

        async def send(message):
            statuses.append(message.get("status"))

        await client.app(scope, messages.get, send)
        ended.append((address, statuses[0]))

    async def main():
        async with client.session():
            many = [asyncio.create_task(one("10.0.0.1")) for _ in range(99)]
            await until(lambda: engine.asked)
            await one("10.0.0.2")
            await asyncio.gather(*many)

    asyncio.run(main())
    assert ended.index(("10.0.0.2", 200)) < 20
    assert [status for _, status in ended] == [200] * 100


def test_who_would_wait_too_long_is_refused_at_once_and_told_how_long(make_client):
    engine = FakeEngine(width=1, clip_limit=5.0)
    client = make_client(engine, server={"max_wait_s": 0.2})
    body, content_type = form(media.wav(media.pcm() * 6))  # 66 s
    original = engine.recognise

    async def slowly(clip, ask):
        await asyncio.sleep(0.05)
        return await original(clip, ask)

    engine.recognise = slowly

    async def main():
        async with client.session() as http:
            load = client.service.load
            headers = {"content-type": content_type}
            running = [asyncio.create_task(http.post(PATH, content=body, headers=headers)) for _ in range(4)]
            await until(lambda: load.wait > 0.3)
            began = time.monotonic()
            refused = await http.post(PATH, content=body, headers=headers)
            assert time.monotonic() - began < 0.1
            assert (refused.status_code, refused.json()["error"]) == (503, "overloaded")
            assert refused.headers["retry-after"] == "1"
            assert [(await task).status_code for task in running] == [200] * 4
            # At most 5 s of audio in 0.05 s, two clips at a time.
            assert 20 < load.speed < 220
            assert load.wait == 0
            assert (await http.post(PATH, content=body, headers=headers)).status_code == 200

    asyncio.run(main())
