"""An answer that several servers give together: what was shown to a caller stays as it is."""

from __future__ import annotations

import pytest

from tingdao.engines.base import Ask
from tingdao.engines.vllm.answer import Answer
from tingdao.engines.vllm.wire import Broken, Piece

TAG = "language English<asr_text>"
FORCED = pytest.mark.parametrize(("ask", "tag"), [(Ask(), TAG), (Ask(language="en"), "")])


def end(answer):
    answer.take([Piece("", [], finish="stop", ended_itself=True)])
    return answer.turn(tag_only=False)


def begun(ask, tag):
    """An answer of whose text "one two" was shown when its server failed."""
    answer = Answer(ask, 50)
    assert answer.take([Piece(f"{tag}one", [1, 2]), Piece(" two", [3])]).endswith("one two")
    answer.restart()
    return answer


@FORCED
def test_a_server_that_can_goes_on_from_it(ask, tag):
    answer = begun(ask, tag)
    assert answer.lead == f"{TAG}one two"
    assert answer.take([Piece(" three", [4])]) == " three"
    assert end(answer) == ""
    assert (answer.recognition().text, answer.tokens) == ("one two three", 4)


@FORCED
def test_one_that_cannot_says_it_again_unheard(ask, tag):
    answer = begun(ask, tag)
    answer.say_again()
    assert answer.budget_left == 50
    assert answer.take([Piece(f"{tag}o", None)]) == ""
    assert answer.take([Piece("ne two th", None)]) == " th"
    assert answer.take([Piece("ree", None)]) == "ree"
    answer.take([Piece("", None, finish="stop"), Piece("", None, prompt_tokens=9, completion_tokens=5)])
    assert answer.turn(tag_only=False) == ""
    recognition = answer.recognition()
    assert (recognition.text, recognition.usage.prompt_tokens, answer.tokens) == ("one two three", 9, 4)


def say(answer, *pieces):
    """A server that tells no ids says all this, and ends."""
    for piece in pieces:
        assert answer.take([Piece(piece, None)]) == ""
    end(answer)


@FORCED
@pytest.mark.parametrize("pieces", [["{}one three four"], ["{}on"], ["{}", "one too"], ["no language"], [""]])
def test_what_it_says_otherwise_is_a_failure_and_what_was_shown_stands(ask, tag, pieces):
    answer = begun(ask, tag)
    answer.say_again()
    with pytest.raises(Broken):
        say(answer, *(piece.format(tag) for piece in pieces))
    answer.restart()
    assert answer.ended is None
    assert (answer.lead, answer.tokens) == (f"{TAG}one two", 3)
    assert answer.take([Piece(" three", [4])]) == " three"
    assert end(answer) == ""
    assert answer.recognition().text == "one two three"


def test_one_that_fails_while_it_says_it_again_changes_nothing():
    answer = begun(Ask(), TAG)
    for _ in range(2):
        answer.say_again()
        assert answer.take([Piece(f"{TAG}on", None)]) == ""
        answer.restart()
    assert (answer.lead, answer.tokens) == (f"{TAG}one two", 3)
