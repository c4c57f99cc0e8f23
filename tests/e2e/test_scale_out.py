"""nginx over two instances over two servers: what they do together, and that none of them is missed."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import httpx2
import pytest

import upstream
from e2e.conftest import Server
from e2e.front import Front
from e2e.test_overload import PATH
from e2e.test_postgres import Postgres

FAST, SLOW = 36.0, 12.0
"""Seconds of audio per second at each server, one clip after another: so little that no core is short of time."""
CALLERS = 16
SAID = "In eighteen thirteen."


class Upstream:
    """A double of a vLLM server, in a process of its own."""

    def __init__(self, speed: float) -> None:
        settings = json.dumps({"speed": speed})
        self.process = subprocess.Popen([sys.executable, upstream.__file__, settings], stdout=subprocess.PIPE)
        assert self.process.stdout
        self.url = f"http://127.0.0.1:{int(self.process.stdout.readline())}"

    def audio_done(self) -> float:
        """Seconds of audio that it has answered."""
        return httpx2.get(f"{self.url}/counters").json()["audio_done"]

    def stop(self) -> None:
        self.process.kill()
        self.process.wait(10)
        self.process.stdout.close()


class Layout:
    """nginx over two instances over a fast and a slow server."""

    def __init__(self, folder: Path, **environment: str) -> None:
        self._stops = []
        try:
            self.fast, self.slow = self._stopped(Upstream(FAST)), self._stopped(Upstream(SLOW))
            environment |= {
                "TINGDAO_VLLM_UPSTREAMS": json.dumps([self.fast.url, self.slow.url]),
                "TINGDAO_SERVER_TRUSTED_PROXIES": '["127.0.0.1"]',
            }
            self.instances = [self._stopped(Server(folder / name, **environment)) for name in ("one", "two")]
            for instance in self.instances:
                instance.wait_until_ready()
            self.url = self._stopped(Front(folder / "nginx", self.instances)).url
        except BaseException:
            self.stop()
            raise

    def _stopped(self, part):
        self._stops.append(part.stop)
        return part

    def stop(self) -> None:
        for stop in reversed(self._stops):
            stop()

    def done(self) -> list[float]:
        """Seconds of audio that the fast and the slow server have answered."""
        return [each.audio_done() for each in (self.fast, self.slow)]


@pytest.fixture
def layout(tmp_path):
    running = Layout(tmp_path)
    yield running
    running.stop()


async def call_for(url: str, audio: bytes, seconds: float) -> list[tuple[float, str]]:
    """Callers who ask again and again for so long: when each answer came (monotonic), and what it was."""
    end = time.monotonic() + seconds
    answers = []

    async def caller() -> None:
        async with httpx2.AsyncClient(timeout=60) as http:
            while time.monotonic() < end:
                try:
                    answer = await http.post(f"{url}{PATH}", files={"file": audio})
                    said = answer.json()["data"]["text"] if answer.status_code == 200 else f"{answer.status_code}"
                except httpx2.TransportError as error:
                    said = repr(error)
                answers.append((time.monotonic(), said))

    await asyncio.gather(*(caller() for _ in range(CALLERS)))
    return answers


@pytest.fixture
def audio(recordings):
    return (recordings / "leopard_de.flac").read_bytes()  # 5.3 s


def test_both_servers_are_kept_busy_by_two_instances_that_know_nothing_of_each_other(layout, audio):
    async def main():
        load = asyncio.create_task(call_for(layout.url, audio, 14))
        await asyncio.sleep(4)  # until the paces are known
        before, began = await asyncio.to_thread(layout.done), time.monotonic()
        await asyncio.sleep(9)
        after, seconds = await asyncio.to_thread(layout.done), time.monotonic() - began
        return await load, [(now - then) / seconds for now, then in zip(after, before, strict=True)]

    answers, (fast, slow) = asyncio.run(main())
    assert Counter(said for _, said in answers).keys() == {SAID}
    assert fast + slow >= 0.9 * (FAST + SLOW), (fast, slow)
    assert fast <= FAST * 1.1
    assert slow >= 0.7 * SLOW
    for instance in layout.instances:
        assert sum(line["message"] == "request" for line in instance.lines()) > len(answers) / 4


@pytest.mark.parametrize("which", ["an instance told to stop", "an instance killed", "a server killed"])
def test_no_caller_notices_when_one_goes(layout, audio, which):
    one = layout.instances[0].process

    async def main():
        load = asyncio.create_task(call_for(layout.url, audio, 7))
        await asyncio.sleep(3)
        if which == "a server killed":
            layout.fast.process.kill()
        else:
            one.send_signal(signal.SIGTERM if which == "an instance told to stop" else signal.SIGKILL)
        return time.monotonic(), await load

    gone, answers = asyncio.run(main())
    assert Counter(said for _, said in answers).keys() == {SAID}
    assert sum(moment > gone + 2 for moment, _ in answers) > CALLERS
    if which == "an instance told to stop":
        assert one.wait(5) == 0
        messages = [line["message"] for line in layout.instances[0].lines()]
        assert "stopping" in messages
        assert "requests are ended unfinished" not in messages


def test_two_full_instances_say_so_themselves(tmp_path, audio):
    layout = Layout(tmp_path, TINGDAO_SERVER_MAX_IN_FLIGHT="2")

    async def main():
        async with httpx2.AsyncClient(timeout=60) as http:
            asked = [http.post(f"{layout.url}{PATH}", files={"file": audio}) for _ in range(CALLERS)]
            return await asyncio.gather(*asked)

    try:
        answers = asyncio.run(main())
        assert layout.instances[0].stop() == 0
        left = httpx2.post(f"{layout.url}{PATH}", files={"file": audio}, timeout=60)
    finally:
        layout.stop()
    assert sum(answer.status_code == 200 for answer in answers) >= 4  # both were filled
    refused = [answer for answer in answers if answer.status_code != 200]
    assert refused
    assert {(answer.status_code, answer.json()["error"]) for answer in refused} == {(503, "overloaded")}
    assert all(int(answer.headers["retry-after"]) > 0 for answer in refused)
    assert left.status_code == 200


def test_a_key_and_its_rate_hold_at_both_instances(tmp_path, audio):
    postgres = Postgres()
    layout = None
    try:
        shared = {"TINGDAO_KEYS_DATABASE": postgres.url}
        made = subprocess.run(
            [sys.executable, "-m", "tingdao.cli", "keys", "add", "web", "--rate", "5/day"],
            env={**os.environ, **shared, "TINGDAO_STATE_DIR": str(tmp_path)},
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        layout = Layout(tmp_path, **shared)
        url, files = f"{layout.url}{PATH}", {"file": audio}
        assert httpx2.post(url, files=files).status_code == 401
        key = {"authorization": f"Bearer {made.stdout.strip()}"}
        answers = [httpx2.post(url, files=files, headers=key, timeout=60).status_code for _ in range(8)]
        assert answers == [200] * 5 + [429] * 3
        assert all(any(line.get("key") == "web" for line in instance.lines()) for instance in layout.instances)
    finally:
        if layout:
            layout.stop()
        postgres.stop()
        shutil.rmtree(postgres.folder)
