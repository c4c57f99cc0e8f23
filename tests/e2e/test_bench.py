"""`tingdao bench` against a real server, as an operator calls it."""

from __future__ import annotations

import json
import subprocess
import sys

from conftest import RECORDINGS


def bench(server, *options):
    command = [sys.executable, "-m", "tingdao.cli", "bench", server.url, "--seconds", "2", *options]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout


def test_measures_and_advises(server):
    said = json.loads(bench(server, "--concurrency", "1,3", "--json", "-r", str(RECORDINGS / "cards_001.flac")))
    one, three = said["levels"]
    assert [one["concurrency"], three["concurrency"]] == [1, 3]
    for level in (one, three):
        assert level["errors"] == {}
        assert level["requests"] >= level["concurrency"]
        assert 0 < level["first_text_p50_ms"] <= level["p50_ms"] <= level["p95_ms"] <= level["p99_ms"]
        assert level["rtfx"] > 0.1
        assert level["memory_bytes"] > 100_000_000
    assert "in flight" in said["recommendation"]


def test_answers_do_not_wait_for_acknowledgements(server):
    """Without TCP_NODELAY each answer on a kept connection takes 40 ms."""
    (level,) = json.loads(bench(server, "--concurrency", "1", "--json"))["levels"]
    assert level["null_mean_ms"] < 25
