"""Terms that the embedded model really writes wrongly become right when they are given."""

from __future__ import annotations

import httpx2
import pytest

from conftest import RECORDINGS
from tingdao.text.vocabulary import Vocabulary, corrected
from tingdao.types import Segment, Term

CASES = {
    "aishell_BAC009S0724W0121.flac": ["中介协会"],
    "thchs30_masr_test.flac": ["压岁钱", "压岁书"],
    "audioeval_zh_nihao_shijie.flac": ["你好世界"],
}


def transcribe(server, name, **fields):
    with (RECORDINGS / name).open("rb") as recording:
        answer = httpx2.post(f"{server.url}/api/v1/transcribe", files={"file": recording}, data=fields, timeout=120)
    return answer.json()["data"]


@pytest.mark.parametrize("name", CASES)
def test_a_term_that_was_misheard_is_right_when_it_is_expected(server, name):
    words = CASES[name]
    plain = transcribe(server, name)
    assert not any(word in plain["text"] for word in words)
    expected = transcribe(server, name, **{"keywords[]": words})
    assert all(word in expected["text"] for word in words), expected
    assert expected["vocabulary"]["hinted"] == words


def test_correction_alone_does_it_for_engines_that_take_no_context(server):
    heard = transcribe(server, "aishell_BAC009S0724W0121.flac")["text"]
    (word,) = CASES["aishell_BAC009S0724W0121.flac"]
    after = corrected(Segment(heard, 0, 4, "zh"), Vocabulary([Term(word)]))
    assert word in after.text
    assert [(made.heard, made.written) for made in after.corrections] == [("中间协会", word)]
