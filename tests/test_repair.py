"""Loops are collapsed; speech that repeats itself is not."""

import pytest

from tingdao.pipeline.repair import collapse_loops


@pytest.mark.parametrize(
    ("text", "repaired"),
    [
        ("I said " + "and then " * 12, "I said and then"),
        ("好的" + "谢谢观看" * 20, "好的谢谢观看"),
        ("one " * 8 + "two", "one two"),
        ("go on, " * 30 + "go o", "go on,"),
        ("A. " * 9 + "B. " * 9, "A. B."),
        ("嗯" * 100, "嗯"),
    ],
)
def test_loops_are_collapsed(text, repaired):
    assert collapse_loops(text) == (repaired, True)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "no no no no, not that",
        "ha ha ha ha ha ha",
        "10000000000",
        "一二三四五六七八九十",
        "bye bye bye",
        "哈哈哈哈哈哈哈哈",
    ],
)
def test_speech_is_left_alone(text):
    assert collapse_loops(text) == (text, False)


@pytest.mark.timeout(100)  # quadratic time would be many minutes
def test_long_text_takes_linear_time():
    text = " ".join(f"word{number}" for number in range(20_000))
    assert collapse_loops(text) == (text, False)
