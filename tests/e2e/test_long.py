"""Ten hours in one piece: constant memory, and times that are right at the end."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from conftest import RECORDINGS
from e2e.conftest import Server

sys.path.insert(0, str(Path(__file__).parent.parent.parent / "benchmarks"))

import long


@pytest.mark.timeout(900)
def test_ten_hours(weights, tmp_path):
    server = Server(tmp_path / "own", TINGDAO_EMBEDDED_PATH=str(weights))
    try:
        server.wait_until_ready()
        speech = long.a_law(RECORDINGS / "jfk.flac")
        landmark = "fellow America"
        minute = long.measure(server.url, server.process.pid, speech, 1 / 60, 60, landmark, tmp_path)
        # Speech every ten minutes keeps the recognition short; decoding and listening work through all ten hours.
        whole = long.measure(server.url, server.process.pid, speech, 10, 600, landmark, tmp_path)
        assert whole.heard == whole.repetitions == 60
        assert whole.last == pytest.approx(9 * 3600 + 50 * 60 + minute.first, abs=0.2)
        assert whole.worst_drift <= 0.2
        assert whole.memory - minute.memory <= 300
        assert server.temporary_files() == []
    finally:
        server.stop()
