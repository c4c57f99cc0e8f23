"""More than the service can do, and clients that take their time: the others hardly notice."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from e2e.conftest import Server

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
PATH = "/api/v1/transcribe"


@pytest.fixture
def timed(tmp_path):
    """Starts servers whose engine takes exactly as long as it is told; stopped at the end, with exit code 0."""
    running = []

    def start(seconds: float, width: int, **environment: str) -> Server:
        program = (str(BENCHMARKS / "timed_server.py"), "--seconds", str(seconds), "--width", str(width))
        running.append(Server(tmp_path / f"state{len(running)}", program=program, **environment))
        return running[-1]

    yield start
    for server in running:
        assert server.stop() == 0, server.log.read_text()


def test_ten_times_what_it_can_do():
    script = str(BENCHMARKS / "overload.py")
    done = subprocess.run([sys.executable, script, "--seconds", "20", "--json"], capture_output=True, timeout=120)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["sent"] == pytest.approx(result["capacity"] * 10 * 20, rel=0.01)
    assert result["broken"] == 0
    assert result["admitted"] > 0
    assert result["admitted_failed"] == 0
    assert result["refused"] > result["sent"] / 2
    assert result["share"] >= 0.95
    assert result["refused_p99_ms"] <= 100


class Slow:
    """A client that sends a byte every 0.3 s, of the head or of the body, and comes again when it is let go."""

    def __init__(self, server: Server, *, body: bool, address: str | None, again: bool) -> None:
        self.host, self.port = server.url.split("/")[2].rsplit(":", 1)
        head = f"POST {PATH} HTTP/1.1\r\nHost: {self.host}\r\n"
        if address:
            head += f"X-Forwarded-For: {address}\r\n"
        self.sent = head.encode()
        if body:
            self.sent += b"Content-Type: multipart/form-data; boundary=b\r\nContent-Length: 100000\r\n\r\n--b\r\n"
        self.again = again
        self.answers: list[bytes] = []
        self.closed = 0

    async def run(self) -> None:
        while True:
            await self._once()
            self.closed += 1
            if not self.again:
                return
            await asyncio.sleep(0.2)

    async def _once(self) -> None:
        """One connection, until the server closes it, or answers and is to be asked again."""
        try:
            reader, writer = await asyncio.open_connection(self.host, int(self.port))
        except OSError:
            return
        try:
            writer.write(self.sent)
            while not reader.at_eof():
                try:
                    async with asyncio.timeout(0.3):
                        self.answers.append(await reader.read(65536))
                except TimeoutError:
                    writer.write(b"x")
                    await writer.drain()
                else:
                    if self.again:
                        return
        except OSError:
            return
        finally:
            writer.close()


async def served(server: Server, recording: bytes, address: str | None, count: int) -> list[tuple[int, float]]:
    """Status and seconds of requests, each on a connection of its own."""
    import httpx2

    found = []
    for _ in range(count):
        began = time.monotonic()
        headers = {"x-forwarded-for": address} if address else {}
        async with httpx2.AsyncClient(timeout=30) as http:
            answer = await http.post(f"{server.url}{PATH}", files={"file": recording}, headers=headers)
        found.append((answer.status_code, time.monotonic() - began))
    return found


@pytest.mark.parametrize("again", [False, True], ids=["once", "again and again from another address"])
def test_500_slow_sockets_do_not_keep_others_out(timed, recordings, again):
    server = timed(
        0.1,
        4,
        TINGDAO_SERVER_TRUSTED_PROXIES='["127.0.0.1"]',
        TINGDAO_SERVER_HEADER_TIMEOUT_S="4",
        TINGDAO_SERVER_RECEIVE_TIMEOUT_S="6",
    )
    recording = (recordings / "cards_001.flac").read_bytes()
    theirs, ours = ("203.0.113.9", "198.51.100.7") if again else (None, None)

    async def main():
        assert [status for status, _ in await served(server, recording, ours, 2)] == [200, 200]
        slow = [Slow(server, body=number % 2 == 1, address=theirs, again=again) for number in range(500)]
        tasks = [asyncio.create_task(each.run()) for each in slow]
        await asyncio.sleep(2)
        found = await served(server, recording, ours, 10)
        assert [status for status, _ in found] == [200] * 10
        assert max(seconds for _, seconds in found) < 1.5
        if not again:
            async with asyncio.timeout(30):
                await asyncio.gather(*tasks)  # all were let go
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if not again:
            uploads = b"".join(b"".join(each.answers) for each in slow[1::2])
            assert uploads.count(b" 408 ") == 64  # the others found no place
            assert uploads.count(b" 503 ") == 250 - 64

    asyncio.run(main())


def test_a_thousand_idle_connections_make_room_for_newcomers(timed, recordings):
    server = timed(0.1, 4, TINGDAO_SERVER_MAX_CONNECTIONS="50", TINGDAO_SERVER_HEADER_TIMEOUT_S="60")
    recording = (recordings / "cards_001.flac").read_bytes()
    host, port = server.url.split("/")[2].rsplit(":", 1)

    async def main():
        idle = [await asyncio.open_connection(host, int(port)) for _ in range(200)]
        found = await served(server, recording, None, 5)
        assert [status for status, _ in found] == [200] * 5
        assert max(seconds for _, seconds in found) < 1.5
        open_still = [reader for reader, _ in idle if not reader.at_eof()]
        assert len(open_still) <= 51
        assert idle[-1][0] in open_still  # the first to come are the first to go
        for _, writer in idle:
            writer.close()

    asyncio.run(main())
