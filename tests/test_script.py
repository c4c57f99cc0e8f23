import subprocess
import sys
import time

import pytest

from tingdao.errors import UnsupportedOption
from tingdao.text import script
from tingdao.text.script import in_script

PAIRS = [
    ("zh", "这个软件的界面很好，头发发现了", "這個軟件的界面很好，頭髮發現了"),
    ("zh", "皇后在后面，干部很干净", "皇后在後面，幹部很乾淨"),
    ("zh", "着急的人看着他，著名作家", "著急的人看著他，著名作家"),
    ("zh", "里面有一只鸡，只有三公里", "裡面有一隻雞，只有三公里"),
    ("zh", 'he said "你们好"，OK?', 'he said "你們好"，OK?'),
    ("yue", "里面有什么", "裏面有什麼"),
]


@pytest.mark.parametrize(("language", "simplified", "traditional"), PAIRS)
def test_both_ways_and_twice(language, simplified, traditional):
    assert in_script(simplified, "traditional", language) == traditional
    assert in_script(traditional, "traditional", language) == traditional
    assert in_script(traditional, "simplified", language) == simplified
    assert in_script(simplified, "simplified", language) == simplified


def test_traditional_text_is_not_taken_for_simplified():
    text = "余先生說：皇后在軟件後面"
    assert in_script(text, "traditional", "zh") == text


def test_hong_kong_and_taiwan_forms_become_simplified():
    assert in_script("説著裏面的臺灣", "simplified", "yue") == "说着里面的台湾"
    assert in_script("說著裡面的臺灣", "simplified", "zh") == "说着里面的台湾"


@pytest.mark.parametrize("language", ["ja", "ko", "en", None])
def test_other_languages_stay(language):
    assert in_script("軟件软件 発音 學", "simplified", language) == "軟件软件 発音 學"
    assert in_script("軟件软件 発音 學", "traditional", language) == "軟件软件 発音 學"


def test_every_character_stays_one():
    text = "".join(chr(code) for code in range(0x4E00, 0x9FFF)) + "𠮷😀"
    for wanted in ("simplified", "traditional"):
        for language in ("zh", "yue"):
            assert len(in_script(text, wanted, language)) == len(text)


def test_a_thousand_characters_take_less_than_a_millisecond():
    text = "这个软件的界面很好，头发发现了" * 67
    in_script(text, "traditional", "zh")
    began = time.perf_counter()
    for _ in range(10):
        in_script(text[:1000], "traditional", "zh")
    assert (time.perf_counter() - began) / 10 < 0.02  # 0.2 ms; the machine may be busy


def test_without_opencc_the_option_is_refused_with_what_to_type(monkeypatch):
    script._converter.cache_clear()
    monkeypatch.setitem(sys.modules, "opencc", None)
    with pytest.raises(UnsupportedOption, match=r"pip install 'tingdao\[text\]'") as refused:
        in_script("软件", "traditional", "zh")
    assert refused.value.param == "script"
    with pytest.raises(UnsupportedOption):
        script.check_installed()


def test_nothing_heavy_loads_before_it_is_used():
    code = (
        "import sys, tingdao.text.numbers, tingdao.text.script, tingdao.text.punctuation, "
        "tingdao.text.joins\nprint([name for name in ('wetext', 'opencc', 'onnxruntime', 'yaml', 'numpy') "
        "if name in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"
