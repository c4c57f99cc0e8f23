"""`tingdao eval`, as somebody calls it on recordings of their own."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time

import pytest

from conftest import RECORDINGS
from e2e.conftest import ENGINE


def environment(state):
    return {**os.environ, **ENGINE.environment, "TINGDAO_STATE_DIR": str(state)}


@pytest.fixture
def evaluate(state, weights):
    def run(*arguments, fails=0):
        done = subprocess.run(
            [sys.executable, "-m", "tingdao.cli", "eval", "--model", ENGINE.name, *map(str, arguments)],
            env=environment(state), capture_output=True, text=True, timeout=180,
        )  # fmt: skip
        assert done.returncode == fails, done.stderr
        return done

    return run


def test_recordings_with_transcripts(evaluate, tmp_path):
    told = evaluate(RECORDINGS / "manifest.tsv", "--json", tmp_path / "e.json", "--html", tmp_path / "e.html",
                    "--concurrency", 2).stdout  # fmt: skip
    said = json.loads((tmp_path / "e.json").read_text(encoding="utf-8"))
    by_language = {rate["language"]: rate for rate in said["rates"]}
    english, chinese = by_language["en"], by_language["zh"]
    assert english["measure"] == "WER"
    assert chinese["measure"] == "CER"
    assert english["interval"][0] <= english["rate"] <= english["interval"][1]
    assert (english["interval"][0] > 0) is not ENGINE.exact
    assert english["rate"] < 0.2
    assert chinese["rate"] < 0.3
    assert english["recordings"] + chinese["recordings"] + by_language["de"]["recordings"] == 18
    assert said["failed"] == {}
    assert 0 < said["real_time_factor"] < 10
    assert len(said["recordings"]) == 18
    assert f"{english['rate']:.1%}" in told
    page = (tmp_path / "e.html").read_text(encoding="utf-8")
    worst = said["recordings"][0]
    assert page.index(worst["name"]) == min(page.index(each["name"]) for each in said["recordings"])
    replaced = next((a, b) for each in said["recordings"] for a, b in each["mistakes"] if a and b)
    assert re.search(rf"<del>[^<]*{re.escape(replaced[0])}", page)
    assert "<ins>" in page


def test_what_cannot_be_measured_is_listed_and_the_rest_counts(evaluate, tmp_path):
    (tmp_path / "broken.wav").write_bytes(b"RIFF" + b"\0" * 100)
    good = RECORDINGS / "cards_001.flac"
    (tmp_path / "m.tsv").write_text(f"file\ttext\n{good}\tten of clubs\nlost.wav\tx\nbroken.wav\ty\n\tz\n")
    done = evaluate(tmp_path / "m.tsv", "--json", tmp_path / "e.json", fails=1)
    said = json.loads((tmp_path / "e.json").read_text())
    assert set(said["failed"]) == {"line 5", "lost.wav", "broken.wav"}
    assert [rate["language"] for rate in said["rates"]] == ["und"]
    assert "lost.wav: there is no such file" in done.stderr
    assert "Not counted: 3" in done.stderr


def test_what_is_wrong_from_the_start_is_said_before_anything_runs(evaluate, tmp_path):
    (tmp_path / "m.tsv").write_text("file\ttext\nlost.wav\tx\n")
    assert "None of the files" in evaluate(tmp_path / "m.tsv", fails=2).stderr
    assert "is not one this model" in evaluate(RECORDINGS / "manifest.tsv", "-l", "tlh", fails=2).stderr
    assert "cannot be written" in evaluate(RECORDINGS / "manifest.tsv", "--json", tmp_path / "no" / "e", fails=2).stderr


def test_what_was_measured_until_it_is_stopped_is_kept(state, weights, tmp_path):
    file = tmp_path / "e.json"
    heading, *rows = (RECORDINGS / "manifest.tsv").read_text(encoding="utf-8").splitlines()
    many = [f"{RECORDINGS}/{row}" for row in rows] * 20
    (tmp_path / "m.tsv").write_text("\n".join([heading, *many]), encoding="utf-8")
    command = ["eval", "--model", ENGINE.name, str(tmp_path / "m.tsv"), "--json", str(file)]
    process = subprocess.Popen(
        [sys.executable, "-m", "tingdao.cli", *command],
        env=environment(state),
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        # Whoever runs the tests in the background has it ignored.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )  # fmt: skip
    deadline = time.monotonic() + 60
    while not file.exists():
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)
    time.sleep(6)
    process.send_signal(signal.SIGINT)
    _, told = process.communicate(timeout=60)
    assert process.returncode == 130
    measured = len(json.loads(file.read_text(encoding="utf-8"))["recordings"])
    assert 0 <= measured < len(many)
    assert f"Stopped after {measured} recordings." in told
