"""Nothing that this service is made of reports home: not by Python, and not by what leaves traces of that on disk."""

import os
import subprocess
import sys

import pytest

WATCH = """
import sys
def watch(event, args):
    if event in ("socket.connect", "socket.getaddrinfo", "socket.sendto"):
        print("went out:", event, args, flush=True)
sys.addaudithook(watch)
"""
SPEECH = """
import numpy, tingdao.audio.silero as silero
from tingdao.audio.speech import SpeechDetector
from tingdao.settings import AudioSettings
SpeechDetector(AudioSettings())
"""
GRAPHS = """
import tingdao.engines.openvino.graph
"""


@pytest.mark.parametrize("code", [SPEECH, GRAPHS, "import tingdao.cli, tingdao.app"])
def test_no_library_tells_anybody(code, tmp_path):
    home = {"HOME": str(tmp_path), "PATH": os.environ["PATH"], "PYTHONPATH": os.environ.get("PYTHONPATH", "")}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", WATCH + code], env=home, capture_output=True, text=True, timeout=100
    )
    assert done.returncode == 0, done.stderr
    assert "went out" not in done.stdout
    assert not list(tmp_path.rglob("*"))
