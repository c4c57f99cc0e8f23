"""The official JavaScript client and plain fetch, run by Node (`js/clients.test.mjs`)."""

from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path

import pytest

from conftest import RECORDINGS

FOLDER = Path(__file__).parent / "js"


@pytest.fixture(scope="session")
def packages():
    """What `package.json` pins, installed beside it."""
    wanted = json.loads((FOLDER / "package.json").read_text())["dependencies"]["openai"]
    installed = FOLDER / "node_modules/openai/package.json"
    if not installed.is_file() or json.loads(installed.read_text())["version"] != wanted:
        subprocess.run(["npm", "ci", "--no-progress"], cwd=FOLDER, check=True, timeout=300)


@pytest.mark.timeout(660)
def test_javascript_clients(server, packages):
    ran = subprocess.run(
        ["node", "--test", "--test-reporter=tap", "clients.test.mjs"],
        cwd=FOLDER,
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
