"""Text → units, without torch and without nagisa, whose place a splitter by kinds of characters takes."""

import importlib.machinery
import re
import sys
import types
import unicodedata

import pytest

from tingdao.engines.aligner.words import LANGUAGES, Unit, require, split
from tingdao.errors import UnsupportedOption


def spoken(text, language="en"):
    return [unit.spoken for unit in split(text, language)]


def shown(text, language="en"):
    return [text[unit.begin : unit.end] for unit in split(text, language)]


@pytest.fixture
def nagisa(monkeypatch):
    """Normalises as nagisa does, and parts where the kind of character changes."""

    def wakati(text):
        plain = unicodedata.normalize("NFKC", text.rstrip()).replace("İ", "I").replace(" ", "\u3000")
        return re.findall(r"[一-鿿]+|[ぁ-ん]+|[ァ-ヿ]+|[A-Za-z]+|[0-9]|.", plain, re.DOTALL)

    module = types.ModuleType("nagisa")
    module.__spec__ = importlib.machinery.ModuleSpec("nagisa", None)
    module.wakati = wakati
    monkeypatch.setitem(sys.modules, "nagisa", module)


@pytest.fixture
def no_nagisa(monkeypatch):
    monkeypatch.setitem(sys.modules, "nagisa", None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)


def test_words_are_spoken_bare_and_shown_without_the_punctuation_around():
    text = "“Well,” he said: ill-disposed, isn't it? (3.5 km)"
    assert spoken(text) == ["Well", "he", "said", "illdisposed", "isn't", "it", "35", "km"]
    assert shown(text) == ["Well", "he", "said", "ill-disposed", "isn't", "it", "3.5", "km"]


def test_chinese_goes_by_character_and_latin_words_stay_whole():
    text = "我有2个iPhone 15，don't worry。"
    assert spoken(text, "zh") == ["我", "有", "2", "个", "iPhone", "15", "don't", "worry"]
    assert spoken(text, "yue") == spoken(text, "zh") == spoken(text, "en")


def test_words_do_not_melt_over_marks_that_take_no_space():
    assert spoken("用的是iPhone。Android更好", "zh") == ["用", "的", "是", "iPhone", "Android", "更", "好"]
    assert spoken("yes—no…maybe") == ["yes", "no", "maybe"]
    assert spoken("10～20、30", "zh") == ["10", "20", "30"]


def test_characters_outside_the_basic_plane_and_letters_among_the_marks():
    assert spoken("𠮷野家二〇二四", "zh") == ["𠮷", "野", "家", "二", "〇", "二", "四"]
    assert spoken("人々", "zh") == ["人", "々"]


def test_korean_goes_by_white_space():
    assert spoken("안녕하세요, 저는 學生입니다.", "ko") == ["안녕하세요", "저는", "學生입니다"]


def test_an_accent_of_its_own_is_shown():
    assert split("cafe\u0301 noir", "fr") == [Unit("cafe", 0, 5), Unit("noir", 6, 10)]


def test_curly_apostrophes_are_shown_and_not_spoken():
    assert (spoken("don’t"), shown("don’t")) == (["dont"], ["don’t"])


@pytest.mark.parametrize("text", ["", "  \n", "…", "。，！？", "-- !", "\u200b", "😀"])
def test_nothing_spoken(text):
    assert split(text, "zh") == []


def test_japanese_goes_by_the_words_of_nagisa(nagisa):
    text = "今日は、東京 タワーで ABC。"
    assert spoken(text, "ja") == ["今日", "は", "東京", "タワー", "で", "ABC"]
    assert shown(text, "ja") == spoken(text, "ja")


def test_japanese_is_spoken_normalised_and_shown_as_written(nagisa):
    text = "ｶﾞｷﾞ１２㌔ＡＢＣ、か\u3099"
    assert spoken(text, "ja") == ["ガギ", "1", "2", "キロ", "ABC", "が"]
    assert shown(text, "ja") == ["ｶﾞｷﾞ", "１", "２", "㌔", "ＡＢＣ", "か\u3099"]


def test_one_character_that_spells_two_words_is_one_unit(nagisa):
    assert split("½杯", "ja") == [Unit("12", 0, 1), Unit("杯", 1, 2)]


NASTY = [
    "　今日　",
    "a\u0315\u0300b",
    "İstanbul 今日",
    "한\u1100\u1161\u11a8국",
    "ﬁ①㌔½…",
    "\x00\ud800今",
    "👨‍👩‍👧家族",
    "«Où?» — l’été",
]


@pytest.mark.parametrize("language", ["zh", "en", "ko", "ja"])
@pytest.mark.parametrize("text", NASTY)
def test_every_unit_has_its_own_place_in_the_text(nagisa, text, language):
    units = split(text, language)
    assert units
    end = 0
    for unit in units:
        assert end <= unit.begin < unit.end <= len(text)
        assert unit.spoken
        # Found again by looking for one after the other, which is how segments are rebuilt.
        assert text.index(text[unit.begin : unit.end], end) == unit.begin
        end = unit.end


def test_a_language_that_is_not_timed():
    with pytest.raises(UnsupportedOption, match=r"'Arabic'.*de, en, es.*zh") as caught:
        split("مرحبا", "ar")
    assert caught.value.status == 400
    assert caught.value.param == "words"


def test_japanese_without_nagisa_says_what_to_install(no_nagisa):
    with pytest.raises(UnsupportedOption, match=r"pip install 'tingdao\[japanese\]'"):
        split("今日", "ja")
    for language in LANGUAGES - {"ja"}:
        require(language)
