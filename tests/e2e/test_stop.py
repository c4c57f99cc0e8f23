"""What signals do: SIGTERM ends the service in order, SIGHUP has it read its settings again."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import time
from pathlib import Path

import httpx2
import pytest

from e2e.conftest import Server
from e2e.test_overload import BENCHMARKS, PATH

SPEECH = "/v1/audio/transcriptions"


@pytest.fixture
def short(recordings):
    return (recordings / "cards_001.flac").read_bytes()


def start(state: Path, seconds: float, **environment: str) -> Server:
    program = (str(BENCHMARKS / "timed_server.py"), "--seconds", str(seconds), "--width", "2")
    server = Server(state, program=program, **environment)
    server.wait_until_ready()
    return server


async def told(server: Server, http: httpx2.AsyncClient) -> httpx2.Response:
    """The answer of /ready once the service stops."""
    async with asyncio.timeout(5):
        while True:
            answer = await http.get(f"{server.url}/ready")
            if answer.status_code == 503:
                return answer
            await asyncio.sleep(0.02)


def test_a_stop_finishes_what_is_in_work_and_tells_newcomers(tmp_path, short):
    server = start(tmp_path, 3.0)

    async def main():
        async with httpx2.AsyncClient(timeout=30) as http:
            assert (await http.get(f"{server.url}/ready")).status_code == 200
            upload = asyncio.create_task(http.post(f"{server.url}{PATH}", files={"file": short}))
            stream = asyncio.create_task(
                http.post(f"{server.url}{SPEECH}", files={"file": short}, data={"model": "default", "stream": "true"})
            )
            await asyncio.sleep(1.5)
            began = time.monotonic()
            server.process.send_signal(signal.SIGTERM)
            unready = await told(server, http)
            assert time.monotonic() - began < 0.5
            assert unready.json()["reason"] == "The service is being stopped."
            assert unready.headers["connection"] == "close"
            large = b"x" * 5_000_000  # still being sent when the refusal comes
            for audio in (short, large):
                refused = await http.post(f"{server.url}{PATH}", files={"file": audio})
                assert (refused.status_code, refused.json()["error"]) == (503, "stopping")
                assert (refused.headers["connection"], refused.headers["retry-after"]) == ("close", "5")
            assert (await http.get(f"{server.url}/health")).status_code == 200
            done = await upload
            assert (done.status_code, done.headers["connection"]) == (200, "close")
            assert (await stream).text.endswith("data: [DONE]\n\n")

    asyncio.run(main())
    began = time.monotonic()
    assert server.process.wait(10) == 0
    assert time.monotonic() - began < 5
    with pytest.raises(httpx2.ConnectError):
        httpx2.get(f"{server.url}/health")
    assert "requests are ended unfinished" not in [line["message"] for line in server.lines()]


def test_what_takes_longer_than_the_drain_is_told_so(tmp_path, short):
    server = start(tmp_path, 60.0, TINGDAO_SERVER_DRAIN_TIMEOUT_S="1")

    async def main():
        async with httpx2.AsyncClient(timeout=30) as http:
            running = asyncio.create_task(http.post(f"{server.url}{PATH}", files={"file": short}))
            await asyncio.sleep(1)
            server.process.send_signal(signal.SIGTERM)
            answer = await running
            assert (answer.status_code, answer.json()["error"]) == (503, "stopping")

    began = time.monotonic()
    asyncio.run(main())
    assert server.process.wait(10) == 0
    assert time.monotonic() - began < 8


def test_an_idle_service_stops_at_once_whatever_is_connected(tmp_path):
    server = start(tmp_path, 0.1)
    host, port = server.url.split("/")[2].rsplit(":", 1)
    with socket.create_connection((host, int(port))) as silent, httpx2.Client() as kept:
        assert kept.get(f"{server.url}/health").status_code == 200
        silent.sendall(b"GET /hea")
        began = time.monotonic()
        assert server.stop(signal.SIGINT) == 0
        assert time.monotonic() - began < 4


def test_a_second_signal_does_not_wait(tmp_path, short):
    server = start(tmp_path, 60.0)

    async def main():
        async with httpx2.AsyncClient(timeout=30) as http:
            running = asyncio.create_task(http.post(f"{server.url}{PATH}", files={"file": short}))
            await asyncio.sleep(1)
            server.process.send_signal(signal.SIGTERM)
            await told(server, http)
            server.process.send_signal(signal.SIGTERM)
            await asyncio.gather(running, return_exceptions=True)

    began = time.monotonic()
    asyncio.run(main())
    assert server.process.wait(10) == 0
    assert time.monotonic() - began < 9


def test_a_hangup_applies_what_can_be_changed_and_names_the_rest(tmp_path, short):
    file = tmp_path / "tingdao.toml"
    file.write_text("[server]\nmax_upload_mib = 1\n")
    server = start(tmp_path / "state", 0.1, TINGDAO_CONFIG=str(file))

    def post(audio: bytes, **fields: str) -> httpx2.Response:
        return httpx2.post(f"{server.url}{PATH}", files={"file": audio}, data=fields, timeout=30)

    def hang_up(message: str) -> dict:
        before = len(server.lines())
        os.kill(server.process.pid, signal.SIGHUP)
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            for line in server.lines()[before:]:
                if line["message"] == message:
                    return line
            time.sleep(0.05)
        raise AssertionError(server.log.read_text())

    large = short + bytes(2_000_000)
    assert post(large).status_code == 413
    assert post(short, vocabularies="names").json()["error"] == "invalid_request"

    file.write_text("[server]\nmax_upload_mib = 1\nmax_upload = 7\n")
    assert "server.max_upload" in hang_up("the settings stay as they are")["reason"]
    file.write_text("[vocabulary]\nalways = ['nothing']\n")
    assert "nothing" in hang_up("the settings stay as they are")["reason"]
    file.write_text("this is no TOML")
    hang_up("the settings stay as they are")
    assert post(large).status_code == 413

    file.write_text(
        "[server]\nmax_upload_mib = 4\nport = 1\n[audio]\ndecoders = 3\n[vocabulary.lists]\nnames = ['Tingdao']\n"
        "[limits]\naddress_rate = '4/hour'\n[log]\nlevel = 'debug'\n"
    )
    applied = hang_up("settings applied")
    assert applied["needs_restart"] == ["audio.decoders"]  # the port is a flag here, and stays
    assert post(large).status_code != 413
    assert post(short, vocabularies="names").status_code == 200
    assert [post(short).status_code for _ in range(4)][-1] == 429
    assert server.stop() == 0
