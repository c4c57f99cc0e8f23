"""Keys on a real server, as operators and OpenAI's client meet them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import httpx2
import openai
import pytest

from conftest import RECORDINGS
from e2e.conftest import Server

JFK = RECORDINGS / "jfk.flac"


def tingdao(state, *arguments, **environment):
    return subprocess.run(
        [sys.executable, "-m", "tingdao.cli", *arguments],
        env={**os.environ, "TINGDAO_STATE_DIR": str(state), **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def make_key(state, *arguments):
    made = tingdao(state, "keys", "add", *arguments)
    assert made.returncode == 0, made.stderr
    return made.stdout.strip()


@pytest.fixture(scope="module")
def own(tmp_path_factory, weights):
    folder = tmp_path_factory.mktemp("keys")
    make_key(folder, "first")
    server = Server(folder, TINGDAO_EMBEDDED_PATH=str(weights), TINGDAO_LIMITS_ADDRESS_RATE="100/hour")
    server.wait_until_ready()
    yield server
    assert server.stop() == 0


def client(server, key, **options):
    return openai.OpenAI(base_url=f"{server.url}/v1", api_key=key, **options)


def test_strangers_are_not_served_by_accident(tmp_path):
    refused = tingdao(tmp_path, "serve", "--host", "0.0.0.0", "--port", "0")
    assert refused.returncode == 2
    assert "tingdao keys add NAME" in refused.stderr
    assert "TINGDAO_SERVER_KEYLESS=true" in refused.stderr


def test_openais_client_with_a_key_and_without(own):
    key = make_key(own.state, "sdk")
    time.sleep(1.1)
    with client(own, key, max_retries=0) as good, JFK.open("rb") as recording:
        assert "fellow Americans" in good.audio.transcriptions.create(model="default", file=recording).text
    with client(own, "sk-nonsense", max_retries=0) as bad, pytest.raises(openai.AuthenticationError) as caught:
        bad.models.list()
    assert caught.value.code == "invalid_api_key"
    assert tingdao(own.state, "keys", "revoke", "sdk").returncode == 0
    time.sleep(1.1)
    with client(own, key, max_retries=0) as gone, pytest.raises(openai.AuthenticationError, match="revoked"):
        gone.models.list()


def test_openais_client_waits_as_long_as_it_is_told(own):
    key = make_key(own.state, "hasty", "--rate", "1/second")
    time.sleep(1.1)
    with client(own, key, max_retries=5) as hasty:
        began = time.monotonic()
        assert all(hasty.models.list().data for _ in range(3))
        assert time.monotonic() - began > 1.5


def test_openais_client_does_not_insist_on_a_spent_quota(own):
    key = make_key(own.state, "spent", "--quota", "5s/day")
    time.sleep(1.1)
    with client(own, key, max_retries=3) as spent, JFK.open("rb") as recording:
        began = time.monotonic()
        with pytest.raises(openai.RateLimitError) as caught:
            spent.audio.transcriptions.create(model="default", file=recording)
        assert caught.value.code == "quota_exceeded"
        assert time.monotonic() - began < 10
    own.wait_for("request", 10, key="spent")
    requests = [line for line in own.lines() if line.get("key") == "spent" and line["message"] == "request"]
    assert [line["error"] for line in requests] == ["quota_exceeded"]


def test_nobody_can_say_who_he_is(own):
    """Without trusted proxies, `X-Forwarded-For` means nothing, also from the loopback."""
    with httpx2.Client() as http:
        found = {
            http.get(
                f"{own.url}/v1/models", headers={"x-forwarded-for": f"10.0.{number // 250}.{number % 250}"}
            ).status_code
            for number in range(120)
        }
    assert found == {401, 429}


def test_use_survives_kill(tmp_path, weights):
    state = tmp_path / "own"
    key = {"authorization": f"Bearer {make_key(state, 'web', '--quota', '1h/day')}"}
    for used in (11.0, 22.0):
        server = Server(state, TINGDAO_EMBEDDED_PATH=str(weights))
        server.wait_until_ready()
        assert httpx2.post(f"{server.url}/api/v1/transcribe", files={"file": JFK.read_bytes()}, headers=key,
                           timeout=60).status_code == 200  # fmt: skip
        time.sleep(1.6)
        server.stop(signal.SIGKILL)
        assert f"{used:g}s" in tingdao(state, "keys", "list").stdout
