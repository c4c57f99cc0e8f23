"""The files of `deploy/`, each run or checked by its own tool."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import httpx2
import pytest

from .conftest import Server
from .front import Front

DEPLOY = Path(__file__).parents[2] / "deploy"


@pytest.fixture(scope="module")
def proxied(state, weights, tmp_path_factory):
    folder = tmp_path_factory.mktemp("nginx")
    trusted = {"TINGDAO_SERVER_TRUSTED_PROXIES": '["127.0.0.1"]'}
    instances = [Server(folder / name, TINGDAO_EMBEDDED_PATH=str(weights), **trusted) for name in ("one", "two")]
    try:
        for instance in instances:
            instance.wait_until_ready()
        front = Front(folder, instances)
        try:
            yield front.url, instances
        finally:
            front.stop()
    finally:
        for instance in instances:
            instance.stop()


def requests_at(instance: Server) -> int:
    return sum(line["message"] == "request" and line["path"].startswith("/v1/") for line in instance.lines())


def test_nginx_shares_requests_between_two_instances(proxied, recordings):
    url, instances = proxied
    audio = (recordings / "cards_001.flac").read_bytes()
    for _ in range(6):
        answer = httpx2.post(
            f"{url}/v1/audio/transcriptions", files={"file": audio}, data={"model": "default"}, timeout=60
        )
        assert answer.status_code == 200
    assert all(requests_at(instance) for instance in instances)


def test_nginx_passes_events_on_as_they_come(proxied, recordings):
    url, _ = proxied
    data = {"model": "default", "stream": "true"}
    files = {"file": (recordings / "jfk.flac").read_bytes()}
    with httpx2.stream("POST", f"{url}/v1/audio/transcriptions", files=files, data=data, timeout=60) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        lines = [line for line in answer.iter_lines() if line]
    assert "transcript.text.done" in lines[-2]
    assert lines[-1] == "data: [DONE]"


def test_nginx_leaves_refusals_to_the_service(proxied):
    url, _ = proxied
    answer = httpx2.post(f"{url}/v1/audio/transcriptions", files={"file": b"no audio" * 100}, data={"model": "default"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "unsupported_audio")
    assert httpx2.get(f"{url}/metrics").status_code == 200  # this client is the machine itself


def test_one_instance_stops_and_the_other_serves(proxied, recordings):
    url, instances = proxied
    audio = (recordings / "cards_001.flac").read_bytes()
    assert instances[0].stop() == 0
    for _ in range(4):
        answer = httpx2.post(
            f"{url}/v1/audio/transcriptions", files={"file": audio}, data={"model": "default"}, timeout=60
        )
        assert answer.status_code == 200


@pytest.mark.parametrize("name", ["Dockerfile", "Dockerfile.cuda"])
def test_dockerfiles_pass_hadolint(name):
    checked = subprocess.run(
        [Path(sys.executable).with_name("hadolint"), DEPLOY / name], capture_output=True, text=True, check=False
    )
    assert checked.returncode == 0, checked.stdout


def test_systemd_unit_is_valid(tmp_path):
    unit = tmp_path / "tingdao.service"
    # The only thing missing here is the installed command.
    unit.write_text((DEPLOY / "tingdao.service").read_text().replace("/opt/tingdao/bin/tingdao", "/bin/true"))
    checked = subprocess.run(["systemd-analyze", "verify", unit], capture_output=True, text=True, check=False)
    assert (checked.returncode, checked.stderr) == (0, "")
