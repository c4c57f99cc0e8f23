"""How texts are joined, at once or as they come."""

import pytest

from tingdao.types import Joined, Segment, Transcript, join_texts


@pytest.mark.parametrize(
    ("parts", "whole"),
    [
        ([], ""),
        ([("Hello,", "en"), (" world. ", "en"), ("  ", "en"), ("Yes.", "en")], "Hello, world. Yes."),
        ([("今天", "zh"), ("開會", "yue"), ("です", "ja")], "今天開會です"),
        ([("今天", "zh"), ("meeting", "en"), ("on", "en"), ("好", "zh")], "今天meeting on好"),
        ([("", "zh"), ("a", "en"), ("b", "en")], "a b"),
        ([("好", "zh"), ("吧", None), ("a", "en"), ("b", None)], "好吧a b"),
        ([("a", None), ("b", None)], "a b"),
    ],
)
def test_texts_are_joined_as_their_scripts_ask(parts, whole):
    assert join_texts(parts) == whole
    joined = Joined()
    assert "".join(joined.add(text, language) for text, language in parts) == whole
    segments = tuple(Segment(text, 0.0, 1.0, language) for text, language in parts)
    assert Transcript(segments, "zh", 1.0, "m").text == whole
