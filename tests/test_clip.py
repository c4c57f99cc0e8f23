"""One clip: retried in parts when the model loops, timed by an aligner when words are asked for."""

import asyncio

import numpy as np
import pytest

from conftest import FakeEngine
from tingdao.audio.speech import ClipSpan, Span
from tingdao.engines.aligner.engine import Alignment
from tingdao.engines.base import Ask, Recognition
from tingdao.errors import UnsupportedOption
from tingdao.pipeline.clip import Listener
from tingdao.pipeline.segments import aligned_segments
from tingdao.turns import Turns
from tingdao.types import Segment, Usage, Word

S = 16_000


class FakeSpool:
    def read(self, start, end):
        return np.arange(start, end, dtype=np.float32)


class FakeAligner:
    """Gives each character 0.1 s, from 1 s on."""

    async def align(self, clip, text, language):
        letters = [letter for letter in text if letter.isalnum()]
        return Alignment(
            tuple(Word(letter, 1 + at / 10, 1.1 + at / 10) for at, letter in enumerate(letters)), ("",) * len(letters)
        )


def span(*speech, start=0, end=30):
    return ClipSpan(start * S, end * S, tuple(Span(round(a * S), round(b * S)) for a, b in speech))


def hear(engine, clip, aligner=None, *, ask=None, languages=(), must_time=True):
    listener = Listener(FakeSpool(), engine, Turns(2).lane("a"), ask or Ask(), languages, aligner, must_time)
    return asyncio.run(listener.hear(clip))


def test_a_loop_is_heard_again_in_parts_cut_at_the_longest_pause():
    engine = FakeEngine()

    def answer(clip, ask):
        if clip.duration > 20:
            return Recognition("and and and", "en", usage=Usage(10, 50), ended="loop")
        return Recognition(f"part at {clip.start:g}", "en", usage=Usage(5, 5))

    engine.answer = answer
    heard = hear(engine, span((1, 8), (8.5, 14), (16, 29)))
    assert [(segment.text, segment.start, segment.end, segment.flags) for segment in heard.segments] == [
        ("part at 0", 1, 14, ("retried",)),
        ("part at 15", 16, 29, ("retried",)),
    ]
    assert heard.usage == Usage(20, 60)


def test_what_loops_however_short_is_collapsed_and_flagged():
    engine = FakeEngine()
    engine.answer = lambda clip, ask: Recognition("go on " * 20, "en", ended="loop")
    heard = hear(engine, span((1, 8), (9, 14), (16, 20), (22, 23), (25, 29)))
    assert [segment.text for segment in heard.segments] == ["go on"] * 3
    assert all(segment.flags == ("looped", "retried") for segment in heard.segments)
    assert len(engine.asked) == 5


def test_without_a_pause_there_is_nothing_to_cut_at():
    engine = FakeEngine()
    engine.answer = lambda clip, ask: Recognition("it goes on", "en", ended="length")
    heard = hear(engine, span((0, 30)))
    assert [(segment.text, segment.flags) for segment in heard.segments] == [("it goes on", ("cut_off",))]
    assert len(engine.asked) == 1


def test_words_come_from_the_aligner():
    engine = FakeEngine()
    engine.answer = lambda clip, ask: Recognition("你好。再见！", "zh")
    heard = hear(engine, span((101, 104), start=100, end=110), FakeAligner())
    assert [(s.text, round(s.start, 2), round(s.end, 2), len(s.words)) for s in heard.segments] == [
        ("你好。", 101.0, 101.2, 2),
        ("再见！", 101.2, 101.4, 2),
    ]


def test_silence_is_not_aligned():
    engine = FakeEngine()
    engine.answer = lambda clip, ask: Recognition("", None)
    assert hear(engine, span((1, 2)), FakeAligner()).segments == []


class StrangerAligner(FakeAligner):
    async def align(self, clip, text, language):
        raise UnsupportedOption("not this language")


def test_text_that_the_aligner_cannot_time_fails_only_when_words_were_asked_for():
    engine = FakeEngine()
    with pytest.raises(UnsupportedOption):
        hear(engine, span((1, 2)), StrangerAligner())
    (segment,) = hear(engine, span((1, 2)), StrangerAligner(), must_time=False).segments
    assert (segment.start, segment.end, segment.words) == (1, 2, None)


def test_a_leaked_context_is_heard_again_without():
    engine = FakeEngine()
    terms = "Kubernetes, Postgres, Tingdao, Grafana, Prometheus"
    engine.answer = lambda clip, ask: Recognition(ask.context or "well", "en", usage=Usage(7, 5))
    heard = hear(engine, span((1, 2)), ask=Ask(context=terms))
    assert [(segment.text, segment.flags) for segment in heard.segments] == [("well", ("context_leaked",))]
    assert heard.usage == Usage(14, 10)
    assert [ask.context for _, ask in engine.asked] == [terms, ""]


def test_what_is_said_with_a_context_stays():
    engine = FakeEngine()
    engine.answer = lambda clip, ask: Recognition("We moved Postgres to Kubernetes last week.", "en")
    heard = hear(engine, span((1, 8)), ask=Ask(context="Kubernetes, Postgres, Tingdao, Grafana, Prometheus"))
    assert [segment.flags for segment in heard.segments] == [()]
    assert len(engine.asked) == 1


@pytest.mark.parametrize(
    ("detected", "languages", "answer"),
    [("de", ("zh", "en"), "zh"), ("en", ("zh", "en"), "en"), (None, ("zh", "en"), None), ("de", (), "de")],
)
def test_only_expected_languages_come_out(detected, languages, answer):
    engine = FakeEngine()
    engine.answer = lambda clip, ask: Recognition("text", ask.language or detected)
    (segment,) = hear(engine, span((1, 2)), languages=languages).segments
    assert segment.language == answer
    assert segment.flags == (("language_forced",) if answer != detected else ())


def aligned(text, *words, flags=None):
    timed = tuple(Word(word, start, end) for word, start, end in words)
    return aligned_segments(Segment(text, 10, 40, "en"), Alignment(timed, flags or ("",) * len(timed)), 10)


@pytest.mark.parametrize(
    ("text", "words", "pieces"),
    [
        ("Yes. No.", [("Yes", 0, 1), ("No", 1.1, 2)], ["Yes.", "No."]),
        ("It is 3.5 now", [("It", 0, 1), ("is", 1, 2), ("3.5", 2, 3), ("now", 3, 4)], ["It is 3.5 now"]),
        ("one two three", [("one", 0, 1), ("two", 1.1, 2), ("three", 2.9, 4)], ["one two", "three"]),
        ("“Why?” he said.", [("Why", 0, 1), ("he", 1, 2), ("said", 2, 3)], ["“Why?”", "he said."]),
        ("a b", [("a", 0, 9), ("b", 9, 18)], ["a", "b"]),
        ("¿Qué?", [("Qué", 0, 1)], ["¿Qué?"]),
        ("…", [], ["…"]),
    ],
)
def test_sentences(text, words, pieces):
    segments = aligned(text, *words)
    assert [segment.text for segment in segments] == pieces
    if words:
        assert (segments[0].start, segments[-1].end) == (10 + words[0][1], 10 + words[-1][2])


def test_doubtful_times_are_flagged_on_their_segment():
    segments = aligned("Yes. No.", ("Yes", 0, 1), ("No", 1, 1), flags=("", "untimed"))
    assert [segment.flags for segment in segments] == [(), ("untimed",)]
