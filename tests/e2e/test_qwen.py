"""Qwen3-ASR in process, served: the tiny models know their recordings, so text is exact and words have known times."""

from __future__ import annotations

import asyncio
import csv
import io
import json
import os
import random
import re
import subprocess
import sys
import time
import wave
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection
from itertools import pairwise
from pathlib import Path

import av
import httpx2
import numpy as np
import pytest

from conftest import RECORDINGS
from e2e.conftest import Server
from tingdao.engines.aligner.engine import Aligner
from tingdao.settings import AlignerSettings
from tingdao.types import Clip

FIXTURES = RECORDINGS.parent / "fixtures"
MODEL, ALIGNER = FIXTURES / "tiny-qwen3-asr", FIXTURES / "tiny-aligner"
ORIGINAL_LAYOUT = RECORDINGS.parent.parent / "tools" / "original_layout.py"

with (RECORDINGS / "manifest.tsv").open(encoding="utf-8", newline="") as stream:
    ROWS = [row for row in csv.DictReader(stream, delimiter="\t") if row["language"] in {"en", "zh"}]
SAID = {row["file"]: row["text"] for row in ROWS}
with (ALIGNER / "words.tsv").open(encoding="utf-8", newline="") as stream:
    TAUGHT: dict[str, list[tuple[str, float, float]]] = {}
    for row in csv.DictReader(stream, delimiter="\t", quoting=csv.QUOTE_NONE):
        TAUGHT.setdefault(row["file"], []).append((row["word"], float(row["start"]), float(row["end"])))
MEAN, WORST = 0.05, 0.2
"""Seconds that the words of a recording may be off from those that the tiny aligner was taught."""


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    running = Server(
        tmp_path_factory.mktemp("qwen"),
        TINGDAO_MODEL=str(MODEL),
        TINGDAO_QWEN_DTYPE="float32",
        TINGDAO_ALIGNER_PATH=str(ALIGNER),
        TINGDAO_ALIGNER_DTYPE="float32",
    )
    running.wait_until_ready(120)
    yield running
    assert running.stop() == 0, running.log.read_text()


def send(server, recording, **fields):
    data = recording if isinstance(recording, bytes) else (RECORDINGS / recording).read_bytes()
    answer = httpx2.post(f"{server.url}/api/v1/transcribe", files={"file": data}, data=fields, timeout=120)
    assert answer.status_code == 200, answer.text
    return answer.json()["data"]


def send_openai(server, recording, **fields):
    answer = httpx2.post(
        f"{server.url}/v1/audio/transcriptions",
        files={"file": (RECORDINGS / recording).read_bytes()},
        data={"model": "default", "response_format": "verbose_json", "timestamp_granularities[]": "word"} | fields,
        timeout=120,
    )
    assert answer.status_code == 200, answer.text
    return answer.json()


def spoken(text: str) -> str:
    """A word as the aligner takes it: without punctuation, in it too."""
    return "".join(filter(lambda character: character.isalnum() or character == "'", text))


def assert_as_taught(words, recording):
    """Words, as (text, start, end), against the times that the aligner was taught."""
    assert [spoken(text) for text, _, _ in words] == [text for text, _, _ in TAUGHT[recording]]
    got, taught = (np.array([times for _, *times in known]) for known in (words, TAUGHT[recording]))
    off = np.abs(got - taught)
    assert off.mean() <= MEAN, off
    assert off.max() <= WORST, off


def assert_in_order(words):
    edges = [time for _, start, end in words for time in (start, end)]
    assert all(before <= after for before, after in pairwise(edges)), edges


def as_wav(samples: np.ndarray) -> bytes:
    held = io.BytesIO()
    with wave.open(held, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(16_000)
        file.writeframes((samples * 32767).astype(np.int16).tobytes())
    return held.getvalue()


def samples_of(name: str) -> np.ndarray:
    with av.open(str(RECORDINGS / name)) as source:
        resampler = av.AudioResampler(format="flt", layout="mono", rate=16_000)
        frames = [part for frame in source.decode(audio=0) for part in resampler.resample(frame)]
    return np.concatenate([frame.to_ndarray()[0] for frame in [*frames, *resampler.resample(None)]])


def test_the_real_model_is_no_stand_in(server):
    health = httpx2.get(f"{server.url}/health").json()
    assert (health["status"], health["model"], health["stand_in"]) == ("ok", "tiny-qwen3-asr", False)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row["file"])
def test_each_recording_is_exact(server, row):
    data = send(server, row["file"])
    assert (data["text"], data["language"], data["model"]) == (row["text"], row["language"], "tiny-qwen3-asr")


@pytest.mark.parametrize("seed", range(3))
def test_batched_together_in_any_order(server, seed):
    order = random.Random(seed).sample(sorted(SAID), len(SAID))
    with ThreadPoolExecutor(len(order)) as pool:
        texts = list(pool.map(lambda name: send(server, name)["text"], order))
    assert texts == [SAID[name] for name in order]


def test_a_forced_language_and_a_prompt_do_not_change_what_was_said(server):
    assert send(server, "jfk.flac", language="en", prompt="Kennedy, inauguration")["text"] == SAID["jfk.flac"]
    data = send(server, "thchs30_masr_test.flac", language="zh")
    assert (data["text"], data["language"]) == (SAID["thchs30_masr_test.flac"], "zh")


def test_silence_and_noise_give_nothing(server):
    noise = 0.001 * np.random.default_rng(0).standard_normal(16_000 * 5)
    for samples in (np.zeros(16_000 * 3), noise):
        assert send(server, as_wav(samples)) == {
            "text": "",
            "language": None,
            "duration_sec": len(samples) / 16_000,
            "model": "tiny-qwen3-asr",
        }


def test_a_loop_is_stopped_and_flagged(server):
    # Played backwards, this recording makes the tiny model write "and and and …" without end.
    backwards = samples_of("librivox_ss_0880.flac")[::-1]
    data = send(server, as_wav(backwards), segments="true")
    assert len(data["text"]) < 100
    flags = {flag for segment in data["segments"] for flag in segment["flags"]}
    assert flags & {"looped", "retried"}


def words_of(data):
    """(text, start, end) of each word in a native answer."""
    return [(word["word"], word["start"], word["end"]) for part in data["segments"] for word in part["words"]]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row["file"])
def test_words_are_where_they_are_said(server, row):
    data = send(server, row["file"], words="true")
    assert (data["text"], data["language"]) == (row["text"], row["language"])
    words = words_of(data)
    assert_as_taught(words, row["file"])
    assert_in_order(words)
    assert words[0][1] >= 0
    assert words[-1][2] <= data["duration_sec"]
    for part in data["segments"]:
        assert "untimed" in part["flags"] or all(word["end"] > word["start"] for word in part["words"])
        assert (part["start"], part["end"]) == (part["words"][0]["start"], part["words"][-1]["end"])


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row["file"])
def test_openai_words_are_the_same(server, row):
    answer = send_openai(server, row["file"])
    assert answer["text"] == row["text"]
    assert "segments" not in answer
    words = [(word["word"], word["start"], word["end"]) for word in answer["words"]]
    assert words == words_of(send(server, row["file"], words="true"))


def test_words_and_transcripts_asked_for_at_the_same_time(server):
    names = sorted(SAID)

    def words(name):
        return words_of(send(server, name, words="true"))

    alone = [words(name) for name in names]
    with ThreadPoolExecutor(16) as pool:
        texts = [pool.submit(send, server, name) for name in names]
        together = list(pool.map(words, names))
        assert [text.result()["text"] for text in texts] == [SAID[name] for name in names]
    for one, other in zip(together, alone, strict=True):
        # Sums in another order may tip the scales between two neighbouring steps.
        assert [text for text, _, _ in one] == [text for text, _, _ in other]
        assert np.allclose([times for _, *times in one], [times for _, *times in other], atol=0.081)


def test_words_move_with_the_recording(server):
    quiet = np.zeros(16_000 * 4, np.float32)
    data = send(server, as_wav(np.concatenate([quiet, samples_of("jfk.flac")])), words="true")
    assert_as_taught([(text, start - 4, end - 4) for text, start, end in words_of(data)], "jfk.flac")


def test_words_in_a_language_the_aligner_lacks_are_refused(server):
    audio = (RECORDINGS / "jfk.flac").read_bytes()
    native = httpx2.post(
        f"{server.url}/api/v1/transcribe", files={"file": audio}, data={"words": "true", "language": "sv"}, timeout=60
    )
    body = native.json()
    assert (native.status_code, body["error"], body["param"]) == (400, "unsupported_option", "words")
    assert "'Swedish'" in body["message"]

    openai = httpx2.post(
        f"{server.url}/v1/audio/transcriptions",
        files={"file": audio},
        data={
            "model": "default",
            "response_format": "verbose_json",
            "timestamp_granularities[]": "word",
            "language": "sv",
        },
        timeout=60,
    )
    assert (openai.status_code, openai.json()["error"]["code"]) == (400, "unsupported_option")
    # It is the words that are refused, not the language.
    assert send(server, "jfk.flac", language="sv")["language"] == "sv"


def test_subtitles_have_the_times_of_words_where_these_are_known(server):
    def subtitles(**fields):
        return httpx2.post(
            f"{server.url}/v1/audio/transcriptions",
            files={"file": (RECORDINGS / "jfk.flac").read_bytes()},
            data={"model": "default", "response_format": "srt"} | fields,
            timeout=60,
        )

    clocks = re.findall(r"^00:00:(\d\d),(\d{3}) -->", subtitles().text, re.MULTILINE)
    starts = [int(seconds) + int(thousandths) / 1000 for seconds, thousandths in clocks]
    assert len(starts) > 1
    said = [start for _, start, _ in TAUGHT["jfk.flac"]]
    assert all(min(abs(start - at) for at in said) < 0.3 for start in starts)
    # Nobody asked for words, so a language without them is no error.
    assert subtitles(language="sv").status_code == 200


def test_silence_has_no_words(server):
    assert send(server, as_wav(np.zeros(16_000 * 3)), words="true")["segments"] == []


def test_both_layouts_of_the_aligner_give_the_same_times(tmp_path):
    subprocess.run([sys.executable, str(ORIGINAL_LAYOUT), str(ALIGNER), str(tmp_path)], check=True, timeout=120)
    assert "thinker_config" in json.loads((tmp_path / "config.json").read_text(encoding="utf-8"))

    async def aligned(folder):
        aligner = Aligner.load(folder, AlignerSettings(device="cpu", dtype="float32"))
        try:
            return [await aligner.align(Clip(samples_of(row["file"])), row["text"], row["language"]) for row in ROWS]
        finally:
            await aligner.close()

    native, original = asyncio.run(aligned(ALIGNER)), asyncio.run(aligned(tmp_path))
    assert original == native
    for row, alignment in zip(ROWS, native, strict=True):
        assert_as_taught([(word.text, word.start, word.end) for word in alignment.words], row["file"])
        assert all(
            flag == "untimed" or word.end > word.start
            for word, flag in zip(alignment.words, alignment.flags, strict=True)
        )


def test_without_an_aligner_words_say_how_to_get_one(tmp_path):
    own = Server(tmp_path / "own", TINGDAO_MODEL=str(MODEL))
    try:
        own.wait_until_ready(120)
        audio = {"file": (RECORDINGS / "jfk.flac").read_bytes()}
        answer = httpx2.post(f"{own.url}/api/v1/transcribe", files=audio, data={"words": "true"}, timeout=60)
        assert (answer.status_code, answer.json()["error"]) == (400, "unsupported_option")
        assert "tingdao download aligner" in answer.json()["message"]

        fields = {"model": "default", "response_format": "verbose_json", "timestamp_granularities[]": "word"}
        answer = httpx2.post(f"{own.url}/v1/audio/transcriptions", files=audio, data=fields, timeout=60)
        assert (answer.status_code, answer.json()["error"]["code"]) == (400, "unsupported_option")
    finally:
        own.stop()


def test_command_line(tmp_path):
    names = ["jfk.flac", "thchs30_masr_test.flac", "cards_001.flac"]
    done = subprocess.run(
        [sys.executable, "-m", "tingdao.cli", "transcribe", "--model", str(MODEL), "--dtype", "float32",
         *(str(RECORDINGS / name) for name in names), "-o", str(tmp_path / "out"), "--format", "json"],
        capture_output=True, check=False, timeout=120,
        env={"PATH": "/usr/bin:/bin", "TINGDAO_STATE_DIR": str(tmp_path)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr.decode()

    for name in names:
        text = json.loads((tmp_path / "out" / f"{Path(name).stem}.json").read_text(encoding="utf-8"))["text"]
        assert text == SAID[name]


def test_a_client_that_hangs_up_frees_the_models(server):
    def worked() -> float:
        """Seconds of processor time that the server process has taken."""
        times = Path(f"/proc/{server.process.pid}/stat").read_text().rpartition(")")[2].split()[11:13]
        return sum(map(int, times)) / os.sysconf("SC_CLK_TCK")

    def works(at_least: float, seconds: float) -> bool:
        """Whether it takes so much processor time within the next seconds."""
        end, before = time.monotonic() + seconds, worked()
        while time.monotonic() < end and worked() - before < at_least:
            time.sleep(0.05)
        return worked() - before >= at_least

    minutes = as_wav(np.tile(samples_of("jfk.flac"), 110))  # 20 of them, for which it would take half a minute
    request = httpx2.Request("POST", f"{server.url}/api/v1/transcribe", files={"file": minutes}, data={"words": "true"})
    line = HTTPConnection(request.url.host, request.url.port)
    line.request("POST", request.url.path, request.read(), dict(request.headers))
    assert works(2, 60)
    line.close()
    assert not all(works(0.3, 1) for _ in range(5))
    assert not works(0.3, 2)
    assert send(server, "cards_001.flac")["text"] == SAID["cards_001.flac"]


@pytest.mark.timeout(600)  # a thousand requests
def test_memory_does_not_grow(server):
    def resident() -> float:
        status = Path(f"/proc/{server.process.pid}/status").read_text()
        return int(status.split("VmRSS:")[1].split()[0]) / 1024

    audio = (RECORDINGS / "cards_001.flac").read_bytes()

    def rounds(count):
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda number: send(server, audio, words=str(number % 2 == 0)), range(count)))

    rounds(200)  # buffers, pools and threads come to their size
    before = resident()
    rounds(800)
    assert resident() - before < 40
