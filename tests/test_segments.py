"""Times of segments: from the clip to the recording, and out of silence."""

import pytest

from tingdao.audio.speech import ClipSpan, Span
from tingdao.engines.base import Recognition
from tingdao.pipeline.segments import segments_of
from tingdao.types import Evidence, Segment, Word

S = 16_000
# A clip from 100 s to 112 s with speech at 100.3-104 s and at 106-111.5 s.
CLIP = ClipSpan(100 * S, 112 * S, (Span(1003 * S // 10, 104 * S), Span(106 * S, 1115 * S // 10)))


def times(*segments):
    return [(s.start, s.end) for s in segments_of(CLIP, Recognition("x", "en", segments=segments))]


@pytest.mark.parametrize(
    ("heard", "snapped"),
    [
        ((0.0, 12.0), (100.3, 111.5)),
        ((0.0, 5.0), (100.3, 104.0)),
        ((1.0, 3.0), (101.0, 103.0)),
        ((4.0, 11.0), (106.0, 111.0)),
        ((5.0, 11.9), (106.0, 111.5)),
        ((3.0, 7.0), (103.0, 107.0)),
        ((4.5, 5.5), (104.5, 105.5)),
    ],
)
def test_ends_in_silence_move_to_speech(heard, snapped):
    assert times(Segment("x", *heard)) == [pytest.approx(snapped)]


def test_words_stay_within_their_segment():
    words = (Word("a", 0.0, 0.6), Word("b", 0.6, 1.0), Word("c", 4.2, 4.9))
    (segment,) = segments_of(CLIP, Recognition("a b c", "en", segments=(Segment("a b c", 0.0, 5.0, "en", words),)))
    assert [(w.start, w.end) for w in segment.words] == [
        pytest.approx(t) for t in [(100.3, 100.6), (100.6, 101.0), (104.0, 104.0)]
    ]


def test_without_times_the_speech_bounds_the_text():
    (segment,) = segments_of(CLIP, Recognition("hello", "en"))
    assert (segment.start, segment.end, segment.language) == (100.3, 111.5, "en")


def test_no_text_is_no_segment():
    assert segments_of(CLIP, Recognition("", None)) == []
    assert segments_of(CLIP, Recognition(" ", "en", segments=(Segment(" ", 1, 2),))) == []


def test_seek_counts_from_the_start_of_the_recording():
    evidence = Evidence(0, (), 0.0, 0.0, 1.0, 0.0)
    (segment,) = segments_of(CLIP, Recognition("x", "en", segments=(Segment("x", 1, 2, "en", evidence=evidence),)))
    assert segment.evidence.seek == 10_000
