import pytest

from tingdao.text.pinyin import accented, close, read, readings, syllables


def test_words_are_read_in_their_own_way():
    assert read("银行的行长") == ["yin", "hang", "de", "hang", "zhang"]
    assert read("重庆，绿色") == ["chong", "qing", "，", "lv", "se"]
    assert len(read("a，，𠀀好 𠀁")) == len("a，，𠀀好 𠀁")
    assert readings("a") == ()
    assert readings("行")[:2] == ("xing", "hang")


@pytest.mark.parametrize(
    ("spelling", "expected"),
    [
        ("bu er jia", ("bu", "er", "jia")),
        ("BÙ ÈR JIĀ", ("bu", "er", "jia")),
        ("bu4 er4 jia1", ("bu", "er", "jia")),
        ("lü se", ("lv", "se")),
        ("lu:4 se", ("lv", "se")),
        ("xi'an", ("xi", "an")),
        ("cooper netties", None),
        ("cube control", None),
        ("", None),
        ("不二家", None),
    ],
)
def test_spellings(spelling, expected):
    assert syllables(spelling) == expected


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("shi", "si"),
        ("lan", "nan"),
        ("xin", "xing"),
        ("xian", "xiang"),
        ("huan", "huang"),
        ("fei", "hei"),
        ("chen", "ceng"),
    ],
)
def test_accents(one, other):
    assert accented(one, other)
    assert accented(other, one)


@pytest.mark.parametrize(("one", "other"), [("jian", "jie"), ("shi", "shu"), ("ban", "pan"), ("wan", "wen")])
def test_not_every_likeness_is_an_accent(one, other):
    assert not accented(one, other)


def test_likeness():
    assert close("jian", "jie")
    assert close("ban", "pan")
    assert not close("ban", "pang")  # not both at once
    assert not close("jian", "ku")
