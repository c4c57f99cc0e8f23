"""The OpenAPI document is true: whatever is sent, the answer is one that the document has, and never a 5xx.

Schemathesis makes the requests, against a real server with the real model. A minute here;
`FUZZ_SECONDS=600` makes it ten (`make fuzz`).
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import httpx2
import pytest

from e2e.conftest import ENGINE, Server

HERE = Path(__file__).parent
SECONDS = int(os.environ.get("FUZZ_SECONDS", "60"))
CHECKS = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_headers_conformance",
    "response_schema_conformance",
)

CONFIGURATION = """
[[operations]]
include-path = "/ready"
checks.not_a_server_error.expected-statuses = ["2xx", "4xx", "503"]
"""
"""What `/ready` is there to say, whenever another made-up request has unloaded the model."""


@pytest.fixture(scope="module")
def fuzzed(tmp_path_factory, state, weights):
    # Nothing that is made up is fetched.
    running = Server(state, TINGDAO_FETCH_ENABLED="false")
    running.wait_until_ready()
    yield running
    assert running.stop() == 0, running.log.read_text()


@pytest.mark.timeout(SECONDS + 120)
def test_every_answer_is_in_the_document(fuzzed, tmp_path):
    (tmp_path / "schemathesis.toml").write_text(CONFIGURATION)
    command = [Path(sys.executable).with_name("schemathesis"), "--no-color", "run", f"{fuzzed.url}/openapi.json"]
    command += ["--checks", ",".join(CHECKS), "--max-time", str(SECONDS), "--continue-on-failure"]
    done = subprocess.run(
        [*command, "--request-timeout", "30"],
        cwd=tmp_path,
        env={**os.environ, "SCHEMATHESIS_HOOKS": "schema_hooks", "MODEL": ENGINE.name, "PYTHONPATH": str(HERE)},
        capture_output=True,
        text=True,
        timeout=SECONDS + 100,
    )
    assert done.returncode == 0, done.stdout[-20_000:] + done.stderr[-2000:]
    # It tried every operation, and enough of each kind of answer came for the checks to have had something to check.
    tested = re.search(r"Tested: (\d+)", done.stdout)
    operations = sum(len(path) for path in httpx2.get(f"{fuzzed.url}/openapi.json").json()["paths"].values())
    assert tested is not None
    assert int(tested[1]) == operations
    statuses = {line["status"] for line in fuzzed.lines() if line["message"] == "request" and line["method"] == "POST"}
    assert {200, 400} <= statuses
    assert not {status for status in statuses if status >= 500}
    assert not [line for line in fuzzed.lines() if line["level"] == "error"]
    heard = [
        line for line in fuzzed.lines() if line.get("route") == "/v1/audio/transcriptions" and line["status"] == 200
    ]
    assert heard, "no recording was ever transcribed"
