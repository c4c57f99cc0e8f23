import time

import pytest

import punctuation_model
from tingdao.engines.punctuation import PunctuationModel
from tingdao.text.joins import joined
from tingdao.text.punctuation import Punctuator, in_full_width, punctuated
from tingdao.types import Word

BARE = [
    ("en", "the meeting starts at nine tomorrow", "The meeting starts at nine tomorrow."),
    ("en", "where is the nearest station", "Where is the nearest station?"),
    ("en", "do you know the way to the station", "Do you know the way to the station?"),
    ("en", "what happened next is well known", "What happened next is well known."),
    ("en", "the version is 3.14 of it", "The version is 3.14 of it."),
    ("de", "warum ist das so teuer", "Warum ist das so teuer?"),
    ("de", "wir treffen uns morgen um neun", "Wir treffen uns morgen um neun."),
    ("fr", "est-ce que vous venez demain", "Est-ce que vous venez demain?"),
    ("fr", "nous partons demain matin", "Nous partons demain matin."),
    ("es", "dónde está la estación", "¿Dónde está la estación?"),
    ("es", "la estación está muy lejos", "La estación está muy lejos."),
    ("ru", "мы поехали в москву на поезде", "Мы поехали в москву на поезде."),
    ("zh", "今天天气非常好我们去公园吧", "今天天气非常好我们去公园吧。"),
    ("zh", "你明天有空跟我们一起去吗", "你明天有空跟我们一起去吗？"),
    ("zh", "你们为什么不早点告诉我们", "你们为什么不早点告诉我们？"),
    ("zh", "我不知道为什么他没有来上班", "我不知道为什么他没有来上班。"),
    ("zh", "近几年不但我用书给女儿压岁", "近几年不但我用书给女儿压岁。"),
    ("yue", "你今日食咗飯未呀我想知係咩", "你今日食咗飯未呀我想知係咩？"),
    ("ja", "明日の会議は何時からですか", "明日の会議は何時からですか？"),
    ("ja", "明日の会議は九時からです", "明日の会議は九時からです。"),
    ("ko", "내일 회의는 몇 시에 시작합니까", "내일 회의는 몇 시에 시작합니까?"),
    ("ko", "내일 회의는 아홉 시에 시작합니다", "내일 회의는 아홉 시에 시작합니다."),
    ("hi", "कल की बैठक नौ बजे है", "कल की बैठक नौ बजे है।"),
]
KEPT = [
    ("en", "The meeting starts at nine."),
    ("en", "well, the meeting starts at nine"),
    ("en", "ten of clubs"),
    ("en", "OK"),
    ("en", ""),
    ("zh", "好的"),
    ("zh", "今天天气非常好，我们去公园"),
    ("zh", "砸自己的脚"),
    ("th", "วันนี้อากาศดีมากไปสวนสาธารณะกันเถอะ"),
    (None, "the meeting starts at nine tomorrow"),
]


@pytest.fixture(scope="module")
def punctuator(tmp_path_factory):
    return Punctuator(PunctuationModel.load(punctuation_model.write(tmp_path_factory.mktemp("punctuation"))))


def words(text, *times):
    return [Word(word, start, end) for word, (start, end) in zip(text, times, strict=True)]


@pytest.mark.parametrize(("language", "bare", "expected"), BARE)
def test_bare_text_gets_what_is_certain(language, bare, expected):
    assert punctuated(bare, language) == expected
    assert punctuated(expected, language) == expected


@pytest.mark.parametrize(("language", "text"), KEPT)
def test_what_has_marks_or_is_short_stays(language, text):
    assert punctuated(text, language) == text


def test_pauses_between_words_become_commas():
    spoken = words(
        ["when", "it", "rains", "i", "stay", "at", "home"],
        (0, 0.2), (0.2, 0.4), (0.4, 0.8), (1.4, 1.5), (1.5, 1.8), (1.8, 1.9), (2.6, 3.0),
    )  # fmt: skip
    # After "at" the speaker paused too, but no sentence has a comma there.
    assert punctuated("when it rains i stay at home", "en", spoken) == "When it rains, i stay at home."
    text = "下雨的时候我在家里看书"
    spoken = words(list(text), *((n * 0.2 + (n > 4), n * 0.2 + 0.2 + (n > 4)) for n in range(len(text))))
    assert punctuated(text, "zh", spoken) == "下雨的时候，我在家里看书。"


def test_words_that_are_not_in_the_text_do_no_harm():
    spoken = words(["this", "other", "words"], (0, 1), (5, 6), (9, 10))
    assert punctuated("this is a longer text", "en", spoken) == "This, is a longer text."


def test_a_model_punctuates_what_it_knows(punctuator):
    bare = "我去了但是你们去了吗hello world我们去"
    assert punctuated(bare, "zh", None, punctuator) == "我去了，但是你们去了吗？hello，world我们去。"
    assert punctuator.restore("你去 hello 我们", "zh") == "你去 hello，我们。"
    assert punctuator.restore("我去了。你们", "zh") == "我去了。你们"
    assert punctuator.restore("hello we go", "en") == "hello we go"
    assert punctuator.restore("", "zh") == ""
    assert punctuated("hello we go to town", "en", None, punctuator) == "Hello we go to town."


def test_a_model_changes_no_letters_and_nothing_twice(punctuator):
    for text in ("我去了 café 但是 naïve 了吗 OK", "  我们去了  ", "我去了\n但是你𠮷去了吗", "hello hello hello"):
        once = punctuator.restore(text, "zh")
        assert [c for c in once if c.isalnum()] == [c for c in text if c.isalnum()]
        assert "café" not in text or "café" in once
        assert punctuator.restore(once, "zh") == once


def test_a_model_says_which_mark_stands_at_a_border(punctuator):
    assert punctuator.mark_between("我们去了。", "但是你们没有。") == "，"
    assert punctuator.mark_between("我们去了，", "你们没有。") == "。"
    assert punctuator.mark_between("我们去。", "你们没有。") == ""
    assert punctuator.mark_between("我们去吗。", "你们没有。") == "？"
    assert punctuator.mark_between("", "你们没有。") == ""
    assert punctuator.mark_between("我们去。", "。") == "。"
    mark = punctuator.mark_between("我们去了。", "但是你们没有。")
    assert [edit.new for edit in joined("我们去了。", "但是你们没有。", "zh", 1.0, mark)[0]] == ["，"]


def test_a_thousand_characters_take_a_few_milliseconds():
    text = "我们今天来讨论一下这个项目的进展情况" * 56
    began = time.perf_counter()
    for _ in range(10):
        punctuated(text[:1000], "zh")
    assert (time.perf_counter() - began) / 10 < 0.02  # 0.2 ms; the machine may be busy


@pytest.mark.parametrize(
    ("text", "language", "written"),
    [
        ("近几年,不但我用书.", "zh", "近几年，不但我用书。"),
        ("你好, 世界!", "zh", "你好，世界！"),
        ("他说:好;走吧?", "yue", "他说：好；走吧？"),
        ("はい,そうです.", "ja", "はい，そうです。"),
        ("版本3.5, 很好", "zh", "版本3.5, 很好"),
        ("用Python,很好", "zh", "用Python,很好"),
        ("那么...好", "zh", "那么...好"),
        ("Yes, 好, no.", "en", "Yes, 好, no."),
        ("好,3个", "zh", "好,3个"),
        ("好", None, "好"),
    ],
)
def test_marks_of_the_own_script(text, language, written):
    assert in_full_width(text, language) == written
    assert in_full_width(written, language) == written
