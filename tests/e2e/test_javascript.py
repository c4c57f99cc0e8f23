"""The official JavaScript client and plain fetch, run by Node (`js/clients.test.mjs`)."""

from __future__ import annotations

import os
import re
import subprocess

import pytest

from conftest import RECORDINGS
from e2e.conftest import JAVASCRIPT


@pytest.mark.timeout(660)
def test_javascript_clients(server, packages):
    ran = subprocess.run(
        ["node", "--test", "--test-reporter=tap", "clients.test.mjs"],
        cwd=JAVASCRIPT,
        env={**os.environ, "SERVICE": server.url, "RECORDINGS": str(RECORDINGS), "NO_PROXY": "127.0.0.1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    counted = {
        kind: int(number) for kind, number in re.findall(r"^# (pass|fail|skipped) (\d+)$", ran.stdout, re.MULTILINE)
    }
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert counted == {"pass": 12, "fail": 0, "skipped": 0}, ran.stdout
