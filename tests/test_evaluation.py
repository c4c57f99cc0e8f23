"""Error rates and their intervals: computed by hand, and against another implementation."""

import random

import jiwer
import pytest

from tingdao import evaluation
from tingdao.evaluation import align, interval, normalised, rates, result, worst_first, written_language


def heard(said, text, language="en", name="a.wav"):
    return result(name, said, text, language=language, detected=language, duration=2.0, seconds=1.0)


def test_each_kind_of_mistake_is_counted_by_hand():
    # the cat sat on the mat: "sat" replaced, "the" missing, "today" added.
    (rate,) = rates([heard("The cat sat on the mat.", "the cat sits on mat today")])
    assert (rate.replaced, rate.missing, rate.added, rate.units) == (1, 1, 1, 6)
    assert rate.rate == 3 / 6
    assert rate.measure == "WER"


def test_chinese_is_counted_by_characters():
    (rate,) = rates([heard("近几年，不但我用书", "近几年 不但我用输了", "zh")])
    assert (rate.replaced, rate.added, rate.units, rate.measure) == (1, 1, 8, "CER")


def test_steps_are_in_order():
    assert align(list("abcd"), list("xacde")) == [
        (None, "x"), ("a", "a"), ("b", None), ("c", "c"), ("d", "d"), (None, "e"),
    ]  # fmt: skip


@pytest.mark.parametrize(("said", "text", "steps"), [
    ([], [], []), ([], ["a"], [(None, "a")]), (["a"], [], [("a", None)]), (["a"], ["b"], [("a", "b")]),
])  # fmt: skip
def test_nothing_said_or_heard(said, text, steps):
    assert align(said, text) == steps


@pytest.mark.parametrize("cells", [0, 50, evaluation.CELLS])
def test_the_distance_is_the_shortest_however_little_memory_is_used(monkeypatch, cells):
    monkeypatch.setattr(evaluation, "CELLS", cells)
    chance = random.Random(1)
    for _ in range(150):
        said, text = (chance.choices("abcd", k=chance.randint(1, 30)) for _ in range(2))
        steps = align(said, text)
        assert [unit for unit, _ in steps if unit is not None] == said
        assert [unit for _, unit in steps if unit is not None] == text
        score = jiwer.process_words(" ".join(said), " ".join(text))
        assert sum(a != b for a, b in steps) == score.substitutions + score.deletions + score.insertions


@pytest.mark.parametrize(("one", "other", "language"), [
    ("And so, my fellow Americans: ask NOT!", "and so my fellow americans ask not", "en"),
    ("What’s ill-disposed?", "'what's ill disposed'", "en"),
    ("Straße", "STRASSE", "de"),
    ("ＡＢＣ１２３，你好", "abc123 你 好。", "zh"),
    ("他說「你好」吧", "他说‘你好’吧", "zh"),
    ("ﾃｽﾄ", "テスト", "ja"),
    ("안녕 하세요", "안녕하세요.", "ko"),
    ("cafe\u0301 a\u200bb", "café ab", "fr"),
    ("नमस्ते।", "नमस्ते", "hi"),
])  # fmt: skip
def test_what_is_no_mistake_is_not_counted(one, other, language):
    assert normalised(one, language) == normalised(other, language) != ""


@pytest.mark.parametrize(("one", "other", "language"), [
    ("we're", "were", "en"), ("ten", "10", "en"), ("説", "说", "ja"), ("कि", "की", "hi"), ("resume", "résumé", "en"),
])  # fmt: skip
def test_what_is_a_mistake_stays_one(one, other, language):
    assert normalised(one, language) != normalised(other, language)


def test_without_opencc_scripts_differ(monkeypatch):
    monkeypatch.setattr(evaluation, "folds_scripts", lambda: False)
    assert normalised("說", "zh") != normalised("说", "zh")


@pytest.mark.parametrize(("text", "language"), [
    ("你好 world", "und"), ("你好，世界 ok", "zh"), ("日本語の話", "ja"), ("안녕", "ko"), ("สวัสดี", "th"),
    ("Bonjour", "und"), ("", "und"), ("123", "und"),
])  # fmt: skip
def test_the_letters_tell_how_an_unnamed_language_is_counted(text, language):
    assert written_language(text) == language


def test_the_interval_holds_the_rate_and_is_the_same_every_time():
    wrong, units = [0, 1, 5, 0, 2, 0, 3, 1], [10, 12, 9, 30, 8, 11, 10, 14]
    low, high = interval(wrong, units)
    assert 0 <= low < sum(wrong) / sum(units) < high < 1
    assert interval(wrong, units) == (low, high)
    # More of the same recordings say more.
    closer = interval(wrong * 16, units * 16)
    assert (closer[1] - closer[0]) == pytest.approx((high - low) / 4, rel=0.25)


def test_the_interval_of_alike_recordings_is_a_point():
    assert interval([1, 1, 1], [4, 4, 4]) == (0.25, 0.25)


def test_the_interval_covers_the_truth_about_as_often_as_it_says():
    chance = random.Random(2)
    covered = 0
    for _ in range(60):
        units = [chance.randint(5, 25) for _ in range(40)]
        low, high = interval([sum(chance.random() < 0.1 for _ in range(n)) for n in units], units)
        covered += low <= 0.1 <= high
    assert 50 <= covered <= 60


def test_one_recording_or_nothing_said_has_no_interval():
    assert interval([1], [4]) is None
    assert interval([1, 2], [0, 0]) is None
    (rate,) = rates([heard("", "thank you")])
    assert (rate.rate, rate.added, rate.interval) == (None, 2, None)


def test_languages_and_then_all_of_one_unit():
    found = rates([heard("a b", "a b"), heard("c d", "c x", "de"), heard("你好", "你们", "zh")])
    assert [(rate.language, rate.measure, rate.rate) for rate in found] == [
        ("de", "WER", 0.5), ("en", "WER", 0.0), (None, "WER", 0.25), ("zh", "CER", 0.5),
    ]  # fmt: skip
    assert rates([]) == []


def test_the_worst_comes_first():
    good, bad, worse = (heard("a b c d", text, name=text) for text in ("a b c d", "a b c x", "x"))
    assert worst_first([good, bad, worse]) == [worse, bad, good]
    assert (worse.rate, bad.rate, good.rate) == (1.0, 0.25, 0.0)
