"""Limits, ids, cancelling and errors at the edge."""

import asyncio
import errno
import json
import logging
import re

import pytest

from asgi import scope_of
from tingdao.observe import JsonFormatter

PATH = "/api/v1/transcribe"


async def until(condition, seconds=10.0):
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110  what is waited for has no event
            await asyncio.sleep(0.005)


def multipart(body: bytes) -> tuple[bytes, dict[str, str]]:
    head = b'--b\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n'
    return head + body + b"\r\n--b--\r\n", {"content-type": "multipart/form-data; boundary=b"}


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/nothing/here", 404, "not_found"),
        ("GET", "/v1/nothing", 404, "not_found"),
        ("GET", "/api/v1/transcribe", 405, "method_not_allowed"),
        ("DELETE", "/v1/models", 405, "method_not_allowed"),
    ],
)
def test_wrong_paths_and_methods_have_the_shape_of_their_dialect(client, method, path, status, code):
    answer = client.request(method, path)
    assert answer.status_code == status
    body = answer.json()
    assert (body["error"] if path.startswith("/api/") else body["error"]["code"]) == code


@pytest.mark.parametrize("declared", [True, False])
def test_a_body_past_the_limit_is_refused_while_it_comes(make_client, declared):
    client = make_client(server={"max_upload_mib": 1})
    body, headers = multipart(b"x" * 3_000_000)
    sent = 0

    async def parts():
        nonlocal sent
        for start in range(0, len(body), 65536):
            sent += 65536
            yield body[start : start + 65536]

    answer = client.post(PATH, content=body if declared else parts(), headers=headers)
    assert (answer.status_code, answer.json()["error"]) == (413, "too_large")
    assert client.leftovers() == []


def test_a_client_that_stops_sending_is_let_go(make_client):
    client = make_client(server={"receive_timeout_s": 0.1})
    body, headers = multipart(b"x" * 1000)

    async def parts():
        yield body[:500]
        await asyncio.sleep(30)

    # The transport of the test ends the upload itself, so the parts are awaited by the edge.
    answer = client.post(PATH, content=parts(), headers=headers)
    assert (answer.status_code, answer.json()["error"]) == (408, "upload_timeout")


def test_no_more_requests_in_work_than_allowed(make_client, engine, recordings):
    client = make_client(engine, server={"max_in_flight": 2})
    audio = (recordings / "cards_001.flac").read_bytes()

    async def main():
        engine.hold = asyncio.Event()
        async with client.session() as http:
            running = [asyncio.create_task(http.post(PATH, files={"file": audio})) for _ in range(2)]
            await until(lambda: engine.running == 2)
            refused = await http.post(PATH, files={"file": audio})
            assert (refused.status_code, refused.json()["error"]) == (503, "overloaded")
            assert int(refused.headers["retry-after"]) >= 1
            assert (await http.get("/health")).status_code == 200
            engine.hold.set()
            assert [(await task).status_code for task in running] == [200, 200]
            assert (await http.post(PATH, files={"file": audio})).status_code == 200

    asyncio.run(main())


def test_a_client_that_leaves_cancels_its_work(make_client, engine, recordings):
    client = make_client(engine)
    body, headers = multipart((recordings / "jfk.flac").read_bytes())
    scope = scope_of(PATH, headers["content-type"])

    async def main():
        engine.hold = asyncio.Event()
        messages: asyncio.Queue[dict] = asyncio.Queue()
        messages.put_nowait({"type": "http.request", "body": body, "more_body": False})
        sent = []

        async def send(message):
            sent.append(message)

        async with client.session():
            request = asyncio.create_task(client.app(scope, messages.get, send))
            await until(lambda: engine.running)
            messages.put_nowait({"type": "http.disconnect"})
            await asyncio.wait_for(request, 5)
            assert (engine.running, engine.cancelled) == (0, 1)
            assert sent == []

    asyncio.run(main())
    assert client.leftovers() == []


def test_ids_come_back_when_harmless_and_are_made_otherwise(client):
    assert client.get("/health", headers={"x-request-id": "my-id.1"}).headers["x-request-id"] == "my-id.1"
    made = client.get("/health", headers={"x-request-id": "bad id\t" + "x" * 100}).headers["x-request-id"]
    assert len(made) == 32


def test_pages_may_load_nothing_from_elsewhere(client):
    assert client.get("/health").headers["content-security-policy"].startswith("default-src 'self'")


def test_metrics_count_requests_and_refusals(client, recordings):
    client.post(PATH, files={"file": (recordings / "cards_001.flac").read_bytes()})
    client.post(PATH, files={"file": b"not audio at all"})
    text = client.get("/metrics").text
    assert f'tingdao_requests_total{{route="{PATH}",status="200"}} 1.0' in text
    assert 'tingdao_refusals_total{code="unsupported_audio"} 1.0' in text
    seconds = re.search(r'tingdao_audio_seconds_total{model="fake"} (.*)', text)
    assert float(seconds[1]) == pytest.approx(1.1, abs=0.01)


def test_logs_are_json_with_the_request_and_without_the_transcript(make_client, engine, recordings, caplog):
    from tingdao.engines.base import Recognition

    engine.answer = lambda clip, ask: Recognition("canary words", "en")
    with caplog.at_level(logging.DEBUG):
        make_client(engine).post(PATH, files={"file": (recordings / "cards_001.flac").read_bytes()})
    lines = [json.loads(JsonFormatter().format(record)) for record in caplog.records]
    request = next(line for line in lines if line["message"] == "request")
    assert (request["status"], request["path"]) == (200, PATH)
    assert request["total_ms"] > 0
    assert "canary" not in caplog.text


def test_a_full_disk_is_a_507(client, recordings, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("starlette.datastructures.UploadFile.write", full)
    answer = client.post(PATH, files={"file": (recordings / "cards_001.flac").read_bytes()})
    assert (answer.status_code, answer.json()["error"]) == (507, "storage_full")
