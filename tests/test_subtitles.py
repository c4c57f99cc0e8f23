import html
import json
import random
import re

import pytest

from tingdao.pipeline.cues import cues
from tingdao.pipeline.subtitles import WRITERS
from tingdao.types import Segment, Transcript, Word


def transcript(*segments, duration=100.0, language="en"):
    return Transcript(tuple(segments), language, duration, "whisper-base")


def test_srt():
    given = transcript(Segment("Hello there.", 0.0, 1.5), Segment("General Kenobi!", 1.5, 3.25))
    assert WRITERS["srt"](given) == (
        "1\n00:00:00,000 --> 00:00:01,500\nHello there.\n\n2\n00:00:01,500 --> 00:00:03,250\nGeneral Kenobi!\n"
    )


def test_vtt():
    given = transcript(Segment("Hello there.", 0.0, 1.5), Segment("General Kenobi!", 1.5, 3.25))
    assert WRITERS["vtt"](given) == (
        "WEBVTT\n\n00:00:00.000 --> 00:00:01.500\nHello there.\n\n00:00:01.500 --> 00:00:03.250\nGeneral Kenobi!\n"
    )


def test_tsv():
    given = transcript(Segment("a\tb\nc", 0.0004, 1.5), Segment("  ", 1.5, 2), Segment("你好", 35999.9996, 36000.2))
    assert WRITERS["tsv"](given) == "start_ms\tend_ms\ttext\n0\t1500\ta b c\n36000000\t36000200\t你好\n"


def test_json():
    given = transcript(
        Segment("你好", 0.12345, 1.0, language="zh", words=(Word("你", 0.12345, 0.5), Word("好", 0.5, 1.0))),
        Segment("world", 1.0, 2.0, flags=("loop_removed",)),
        duration=2.00049,
        language="zh",
    )
    written = WRITERS["json"](given)
    assert "你好" in written
    assert json.loads(written) == {
        "language": "zh",
        "duration": 2.0,
        "text": "你好world",
        "model": "whisper-base",
        "segments": [
            {
                "id": 0,
                "start": 0.123,
                "end": 1.0,
                "text": "你好",
                "language": "zh",
                "words": [
                    {"text": "你", "start": 0.123, "end": 0.5},
                    {"text": "好", "start": 0.5, "end": 1.0},
                ],
            },
            {"id": 1, "start": 1.0, "end": 2.0, "text": "world", "flags": ["loop_removed"]},
        ],
    }


@pytest.mark.parametrize(
    ("segments", "language", "expected"),
    [
        ([("One.", 0, 1), ("Two.", 2, 3)], "en", "One. Two.\n"),
        ([("One.", 0, 1), ("Two.", 3, 4)], "en", "One.\n\nTwo.\n"),
        ([("你好。", 0, 1), ("再见。", 1.5, 3)], "zh", "你好。再见。\n"),
        ([("你好。", 0, 1), ("  ", 1, 5), ("再见。", 9, 9.5)], "zh", "你好。\n\n再见。\n"),
        (
            [("x" * 900 + ",", 0, 1), ("still the same sentence.", 1, 2), ("A new one.", 2, 3)],
            "en",
            "x" * 900 + ", still the same sentence.\n\nA new one.\n",
        ),
    ],
    ids=["together", "pause", "chinese", "blank segment", "long paragraph"],
)
def test_txt_paragraphs(segments, language, expected):
    assert WRITERS["txt"](transcript(*(Segment(*s) for s in segments), language=language)) == expected


@pytest.mark.parametrize(
    ("name", "expected"),
    [("srt", ""), ("vtt", "WEBVTT\n\n"), ("txt", ""), ("tsv", "start_ms\tend_ms\ttext\n")],
)
@pytest.mark.parametrize("segments", [(), (Segment(" \n\x00 ", 1, 2),)], ids=["none", "blank"])
def test_empty(name, expected, segments):
    assert WRITERS[name](transcript(*segments, language=None)) == expected


def test_empty_json():
    assert json.loads(WRITERS["json"](transcript(language=None))) == {
        "language": None,
        "duration": 100.0,
        "text": "",
        "model": "whisper-base",
        "segments": [],
    }


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        (0.0, "00:00:00,000"),
        (0.0004, "00:00:00,000"),
        (59.9996, "00:01:00,000"),
        (3599.9999, "01:00:00,000"),
        (36000.2, "10:00:00,200"),
        (359999.999, "99:59:59,999"),
        (360000.0, "100:00:00,000"),
        (-0.3, "00:00:00,000"),
    ],
)
def test_clock(seconds, expected):
    written = WRITERS["srt"](transcript(Segment("x", seconds, seconds + 2), duration=1e6))
    assert written.split("\n")[1].split(" --> ")[0] == expected


NASTY = "a & b < c > d --> e\n\n\x00\x07f\u2028g\r\nh\u3000i <b>j</b>"


def test_vtt_escapes():
    written = WRITERS["vtt"](transcript(Segment(NASTY, 0, 7)))
    body = written.split("\n", 3)[3]
    assert " ".join(body.split()) == "a &amp; b &lt; c &gt; d --&gt; e f g h i &lt;b&gt;j&lt;/b&gt;"
    assert written.count("-->") == 1


def test_srt_text_cannot_look_like_a_time_line():
    written = WRITERS["srt"](transcript(Segment("00:00:01,000 --> 00:00:02,000", 0, 3)))
    assert written == "1\n00:00:00,000 --> 00:00:03,000\n00:00:01,000 -> 00:00:02,000\n"


@pytest.mark.parametrize("name", ["srt", "vtt"])
def test_no_blank_line_inside_a_cue(name):
    written = WRITERS[name](transcript(Segment(NASTY, 0, 7), Segment("\n\nnext\n\n", 8, 9)))
    assert "\n\n\n" not in written
    assert len(re.findall("-->", written)) == 2
    assert len(written.strip().split("\n\n")) == (2 if name == "srt" else 3)


@pytest.mark.parametrize("seed", range(20))
def test_what_is_written_reads_back_as_the_cues(seed):
    rng = random.Random(seed)
    texts = ["你好，世界。" * 9, "Fish & <chips>, if you like. " * 6, "ok", "", "1984", NASTY]
    starts = sorted(rng.uniform(0, 40_000) for _ in range(300))
    given = transcript(*(Segment(rng.choice(texts), at, at + rng.random() * 20) for at in starts))
    shown = [(cue.start, cue.end, list(cue.lines)) for cue in cues(given)]

    blocks = WRITERS["srt"](given).rstrip("\n").split("\n\n")
    assert [int(block.split("\n")[0]) for block in blocks] == list(range(1, len(shown) + 1))
    assert [read(block.split("\n")[1:], ",") for block in blocks] == [
        (start, end, [line.replace("-->", "->") for line in lines]) for start, end, lines in shown
    ]

    heading, *blocks = WRITERS["vtt"](given).rstrip("\n").split("\n\n")
    assert heading == "WEBVTT"
    assert [read(html.unescape(block).split("\n"), ".") for block in blocks] == shown


def read(lines, point):
    time = rf"(\d\d):([0-5]\d):([0-5]\d)\{point}(\d{{3}})"
    parts = [int(part) for part in re.fullmatch(f"{time} --> {time}", lines[0]).groups()]
    return clock(*parts[:4]), clock(*parts[4:]), lines[1:]


def clock(hours, minutes, seconds, milliseconds):
    return ((hours * 60 + minutes) * 60 + seconds) * 1000 + milliseconds
