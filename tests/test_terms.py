import json

import pytest

from tingdao.errors import BadRequest
from tingdao.text.terms import (
    LONGEST_SOUND,
    LONGEST_WORD,
    MOST_SOUNDS,
    MOST_TERMS,
    from_hotwords,
    from_keywords,
    from_prompt,
    from_vocabulary,
    merged,
)
from tingdao.types import Term


def words(terms):
    return [term.word for term in terms]


def test_vocabulary_takes_words_sounds_and_weights():
    assert from_vocabulary(
        [{"word": "不二家", "sounds_like": ["bu er jia"]}, {"word": " Kubernetes ", "weight": 3}, "Istio"]
    ) == (Term("不二家", ("bu er jia",)), Term("Kubernetes", (), 3.0), Term("Istio"))
    assert from_vocabulary([]) == ()
    assert from_vocabulary([{"word": "A", "sounds_like": "ay"}]) == (Term("A", ("ay",)),)
    assert from_vocabulary([{"word": "A", "sounds_like": None, "weight": None}]) == (Term("A"),)


@pytest.mark.parametrize(
    ("value", "param"),
    [
        ("word", "custom_vocabulary_word"),
        (None, "custom_vocabulary_word"),
        ({"word": "A"}, "custom_vocabulary_word"),
        ([1], "custom_vocabulary_word[0]"),
        ([{"word": "A"}, {"words": "B"}], "custom_vocabulary_word[1]"),
        ([{}], "custom_vocabulary_word[0].word"),
        ([{"word": 5}], "custom_vocabulary_word[0].word"),
        ([{"word": "  "}], "custom_vocabulary_word[0]"),
        ([{"word": "。"}], "custom_vocabulary_word[0]"),
        ([{"word": "x" * (LONGEST_WORD + 1)}], "custom_vocabulary_word[0]"),
        ([{"word": "A", "sounds_like": {"a": 1}}], "custom_vocabulary_word[0].sounds_like"),
        ([{"word": "A", "sounds_like": [1]}], "custom_vocabulary_word[0].sounds_like"),
        ([{"word": "A", "sounds_like": ["a"] * (MOST_SOUNDS + 1)}], "custom_vocabulary_word[0].sounds_like"),
        ([{"word": "A", "sounds_like": ["a" * (LONGEST_SOUND + 1)]}], "custom_vocabulary_word[0].sounds_like"),
        ([{"word": "A", "weight": "heavy"}], "custom_vocabulary_word[0].weight"),
        ([{"word": "A", "weight": True}], "custom_vocabulary_word[0].weight"),
        ([{"word": "A", "weight": float("inf")}], "custom_vocabulary_word[0].weight"),
        ([f"term {number}" for number in range(MOST_TERMS + 1)], "custom_vocabulary_word"),
    ],
)
def test_what_is_wrong_is_named(value, param):
    with pytest.raises(BadRequest) as caught:
        from_vocabulary(value)
    assert caught.value.param == param
    assert repr(param) in caught.value.message


def test_limits_are_allowed():
    longest = {"word": "x" * LONGEST_WORD, "sounds_like": [chr(97 + n) * LONGEST_SOUND for n in range(MOST_SOUNDS)]}
    assert len(from_vocabulary([longest])[0].sounds_like) == MOST_SOUNDS
    assert len(from_keywords(f"term {number}" for number in range(MOST_TERMS))) == MOST_TERMS


def test_keywords():
    assert from_keywords(["Kubernetes", " 不二家", "Kubernetes"]) == (Term("Kubernetes"), Term("不二家"))
    with pytest.raises(BadRequest) as caught:
        from_keywords(["A", ""], "keywords[]")
    assert caught.value.param == "keywords[][1]"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", ()),
        ("阿里巴巴 20\n达摩院 30", (Term("阿里巴巴", (), 20.0), Term("达摩院", (), 30.0))),
        ("阿里巴巴 20 达摩院 30", (Term("阿里巴巴", (), 20.0), Term("达摩院", (), 30.0))),
        ("交易 停滞", (Term("交易"), Term("停滞"))),
        ("lamb photograph", (Term("lamb"), Term("photograph"))),
        ("Hugging Face, Istio", (Term("Hugging Face"), Term("Istio"))),
        ("甲、乙，丙;丁|戊", tuple(map(Term, "甲乙丙丁戊"))),
        ("魔搭", (Term("魔搭"),)),
        ('["甲", {"word": "乙", "weight": 2}]', (Term("甲"), Term("乙", (), 2.0))),
        ('{"阿里巴巴": 20, "通义": 30}', (Term("阿里巴巴", (), 20.0), Term("通义", (), 30.0))),
    ],
)
def test_hotwords(text, expected):
    assert from_hotwords(text) == expected


@pytest.mark.parametrize("text", ["[1]", "[", '{"甲": "x"}', '{"甲": {"a": 1}}', "甲,。", "x" * 65, json.dumps([[]])])
def test_hotwords_that_are_wrong(text):
    with pytest.raises(BadRequest) as caught:
        from_hotwords(text)
    assert caught.value.param.startswith("hotwords")


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("Glossary: Kubernetes, Istio", ["Kubernetes", "Istio"]),
        ("glossary : Kubernetes.", ["Kubernetes"]),
        ("Keywords: Hugging Face; vLLM", ["Hugging Face", "vLLM"]),
        ("热词：达摩院、不二家", ["达摩院", "不二家"]),
        ("专有名词：\n达摩院\n不二家。", ["达摩院", "不二家"]),
        ("Kubernetes, Istio, Hugging Face", ["Kubernetes", "Istio", "Hugging Face"]),
        ("ZyntriQix, Digique Plus, CynapseFive", ["ZyntriQix", "Digique Plus", "CynapseFive"]),
        ("骨质疏松症，二甲双胍", ["骨质疏松症", "二甲双胍"]),
        ("", []),
        ("Kubernetes", []),
        ("Hello, my name is Bob.", []),
        ("The speaker talks about cats, dogs", []),
        ("So we met, and he said hello", []),
        ("今天天气不错，我们去公园吧", []),
        ("以下是普通话的句子。", []),
        ("这是一段会议录音，讨论预算", []),
        ("First sentence. Second, sentence", []),
    ],
)
def test_only_a_plain_list_in_a_prompt_is_terms(prompt, expected):
    assert words(from_prompt(prompt)) == expected


def test_a_prompt_too_long_to_be_a_list_is_none():
    assert from_prompt("Glossary: " + ", ".join(f"Term{number}" for number in range(MOST_TERMS + 1))) == ()


def test_merging_keeps_each_word_once_with_all_it_sounds_like():
    assert merged([Term("A", ("ay",), 1.0)], [Term("B"), Term("A", ("eh", "ay"), 5.0)]) == (
        Term("A", ("ay", "eh"), 5.0),
        Term("B"),
    )
    with pytest.raises(BadRequest) as caught:
        merged([Term(f"a{n}") for n in range(MOST_TERMS)], [Term("b")], field="vocabularies")
    assert caught.value.param == "vocabularies"
