"""What happens to text between the engine and the caller, step after step and clip after clip."""

import asyncio
import threading

import pytest

from tingdao.errors import BadRequest
from tingdao.settings import TextSettings, VocabularySettings
from tingdao.text.finish import Finishing, worked
from tingdao.text.vocabulary import Vocabulary
from tingdao.types import Options, Segment, Term


def finisher(options=None, text=None, vocabulary=None):
    finishing = Finishing(text or TextSettings(), vocabulary or VocabularySettings())
    options = options or Options()
    return finishing.finisher(options, finishing.vocabulary(options))


def said(text, start, end, language="en"):
    return Segment(text, start, end, language)


def texts(segments):
    return [segment.text for segment in segments]


def test_a_sentence_cut_between_clips_is_one_again():
    made = finisher()
    assert made.clip([said("I went to the.", 0, 2)]) == []
    assert made.opening().text == "I went to the"
    assert texts(made.clip([said("Market with her.", 2.3, 4)])) == ["I went to the"]
    assert texts(made.rest()) == ["Market with her."]
    assert made.rest() == []


def test_what_is_held_is_given_when_silence_follows():
    made = finisher()
    made.clip([said("I went to the.", 0, 2)])
    assert made.rest(0.5) == []
    assert texts(made.rest(10.0)) == ["I went to the."]


def test_an_opening_is_what_its_segment_begins_with():
    made = finisher(Options(script="traditional"))
    for number, text in enumerate(["我们去了很多的地方。", "因为今天下雨，", "他说好……", "结束！"]):
        opening = made.opening()
        ready = made.clip([said(text, 3 * number, 3 * number + 2.8, "zh")])
        for segment in ready[:1]:
            assert segment.text.startswith(opening.text)
    assert made.rest()[0].text == "結束！"


def test_numbers_wait_until_they_are_whole():
    made = finisher(Options(numbers=True))
    made.clip([said("一共一百二十三人。", 0, 2, "zh")])
    assert made.opening() is None
    assert texts(made.rest()) == ["一共123人。"]


def test_terms_come_before_numbers_and_stay_where_they_are():
    made = finisher(Options(numbers=True, terms=(Term("中介协会"),)))
    made.clip([said("一百二十三个中间协会。", 0, 3, "zh")])
    (segment,) = made.rest()
    assert segment.text == "123个中介协会。"
    (correction,) = segment.corrections
    assert segment.text[correction.at :].startswith(correction.written)


def test_settings_hold_where_a_request_does_not_say():
    text = TextSettings(numbers=True, script="traditional")
    made = finisher(text=text)
    made.clip([said("这里有一百二十三个。", 0, 2, "zh")])
    assert texts(made.rest()) == ["這裡有123個。"]
    made = finisher(Options(numbers=False, script="simplified"), text=text)
    made.clip([said("这里有一百二十三个。", 0, 2, "zh")])
    assert texts(made.rest()) == ["这里有一百二十三个。"]


def test_lists_of_the_settings_are_expected_beside_a_requests_own_words():
    lists = VocabularySettings(lists={"a": ["Kubernetes"], "b": ["Grafana", "Istio"]}, always=["a"])
    finishing = Finishing(TextSettings(), lists)
    vocabulary = finishing.vocabulary(Options(terms=(Term("Istio", weight=5),), vocabularies=("b",)))
    assert [term.word for term in vocabulary.terms] == ["Istio", "Grafana", "Kubernetes"]
    assert vocabulary.terms[0].weight == 5
    with pytest.raises(BadRequest, match=r"no word list 'c' here\. Lists: a, b"):
        finishing.vocabulary(Options(vocabularies=("c",)))


def test_a_list_that_is_always_expected_must_be_there():
    with pytest.raises(ValueError, match="always names the list 'x', which lists lacks"):
        VocabularySettings(always=["x"])


def test_only_what_takes_time_goes_to_a_thread():
    def light(text=None, vocabulary=None, **options):
        finishing = Finishing(text or TextSettings(), vocabulary or VocabularySettings())
        options = Options(**options)
        assert finishing.finisher(options, Vocabulary(())).light == finishing.light(options)
        return finishing.light(options)

    assert light()
    assert light(language="zh", context="Names.", words=True)
    assert not light(terms=(Term("Tingdao"),))
    assert not light(vocabularies=("team",))
    assert not light(vocabulary=VocabularySettings(lists={"team": ["Tingdao"]}, always=["team"]))
    assert not light(numbers=True)
    assert not light(script="simplified")
    assert not light(text=TextSettings(numbers=True))
    assert light(text=TextSettings(numbers=True), numbers=False)

    async def main():
        here = threading.get_ident()
        assert await worked(threading.get_ident, light=True) == here
        assert await worked(threading.get_ident, light=False) != here

    asyncio.run(main())
