"""Predicted steps → times that never run backwards."""

import random
import time
from itertools import pairwise

import pytest

from tingdao.engines.aligner.times import Span, spans


def times(steps, duration=10.0):
    return [(span.start, span.end, span.flag) for span in spans(steps, 80, duration)]


def test_what_is_in_order_is_believed():
    assert times([5, 8, 8, 20, 30, 31]) == [(0.4, 0.64, ""), (0.64, 1.6, ""), (2.4, 2.48, "")]


def test_no_words():
    assert times([]) == []


def test_start_and_end_in_one_step_is_no_time():
    assert times([5, 8, 12, 12, 14, 15])[1] == (0.96, 0.96, "untimed")


def test_one_that_is_out_of_order_takes_the_time_before_it():
    assert times([5, 8, 90, 20, 30, 31])[1] == (0.64, 1.6, "retimed")


def test_two_out_of_order_take_the_times_on_either_side():
    assert times([5, 8, 90, 3, 30, 31])[1] == (0.64, 2.4, "retimed")


def test_more_are_spread_between_the_times_on_either_side():
    assert times([5, 10, 90, 3, 89, 2, 35, 36, 40, 41]) == [
        (0.4, 0.8, ""),
        (1.2, 1.6, "retimed"),
        (2.0, 2.4, "retimed"),
        (2.8, 2.88, ""),
        (3.2, 3.28, ""),
    ]


def test_what_is_odd_at_the_ends_takes_the_nearest_time():
    assert times([90, 91, 95, 10, 20, 21, 22, 3, 4, 5])[0] == (0.8, 0.8, "untimed")
    assert times([5, 6, 7, 8, 1, 2])[-1] == (0.64, 0.64, "untimed")


def test_a_time_past_the_end_is_never_believed():
    assert times([5, 8, 9, 5000], duration=1.0) == [(0.4, 0.64, ""), (0.72, 0.72, "untimed")]
    assert times([4000, 4001, 4000, 4002], duration=1.0) == [(0.0, 0.0, "untimed")] * 2


def test_the_last_step_may_reach_over_the_end_and_is_cut_there():
    assert times([0, 6, 7, 13], duration=1.0) == [(0.0, 0.48, ""), (0.56, 1.0, "")]


def test_a_clip_without_sound():
    assert times([0, 3], duration=0.0) == [(0.0, 0.0, "untimed")]


def longest(steps):
    """Length of the longest run that never falls, the plain way."""
    best = []
    for place, step in enumerate(steps):
        best.append(1 + max((best[before] for before in range(place) if steps[before] <= step), default=0))
    return max(best)


@pytest.mark.parametrize("seed", range(200))
def test_whatever_is_predicted(seed):
    dice = random.Random(seed)
    count, top = dice.randint(1, 20), dice.choice([3, 30, 300])
    steps = [dice.randint(0, top) for _ in range(2 * count)]
    found = spans(steps, 80, top * 0.08)
    flat = [moment for span in found for moment in (span.start, span.end)]
    assert all(a <= b for a, b in pairwise([0.0, *flat, top * 0.08 + 1e-9]))
    assert all((span.flag == "untimed") == (span.start == span.end) for span in found)
    # As many as possible are as they were predicted.
    kept = sum(round(moment / 0.08, 6) == step for moment, step in zip(flat, steps, strict=True))
    assert kept >= longest(steps)
    for span, start, end in zip(found, steps[::2], steps[1::2], strict=True):
        if span.flag == "":
            assert span == Span(start * 80 / 1000, end * 80 / 1000)


def test_many_words_take_little_time():
    dice = random.Random(0)
    steps = [dice.randint(0, 5000) for _ in range(40_000)]
    begun = time.process_time()
    spans(steps, 80, 400.0)
    assert time.process_time() - begun < 2
