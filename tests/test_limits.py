"""Buckets: what they let through, when, and what is forgotten."""

import asyncio
import random
import time

import pytest

from tingdao.limits import Ask, MemoryLimits
from tingdao.rates import Rate

MINUTE = Rate.requests("60/minute")


@pytest.fixture
def clock(monkeypatch):
    """A clock that stands still until it is moved."""

    class Clock:
        now = 1000.0

    monkeypatch.setattr(time, "monotonic", lambda: Clock.now)
    return Clock


def take(limits, *asks):
    return asyncio.run(limits.take(asks))


def test_all_at_once_and_then_evenly(clock):
    limits = MemoryLimits()
    for left in range(59, -1, -1):
        (stand,) = take(limits, Ask("a", MINUTE))
        assert stand.wait == 0
        assert stand.remaining == pytest.approx(left)
    (refused,) = take(limits, Ask("a", MINUTE))
    assert refused.wait == pytest.approx(1)
    assert refused.reset == pytest.approx(60)
    clock.now += 0.9
    assert take(limits, Ask("a", MINUTE))[0].wait == pytest.approx(0.1)
    clock.now += 0.1
    assert take(limits, Ask("a", MINUTE))[0].wait == 0
    assert take(limits, Ask("a", MINUTE))[0].wait == pytest.approx(1)
    clock.now += 1000
    assert take(limits, Ask("a", MINUTE))[0].remaining == pytest.approx(59)


def test_who_waits_as_long_as_told_is_let_in(clock):
    """Over a thousand random visits, never more than the amount in any period beyond the first burst."""
    chance = random.Random(7)
    limits, rate, granted = MemoryLimits(), Rate.requests("5/second"), []
    for _ in range(1000):
        clock.now += chance.expovariate(8)
        (stand,) = take(limits, Ask("a", rate))
        if stand.wait:
            clock.now += stand.wait
            (stand,) = take(limits, Ask("a", rate))
        assert stand.wait == 0
        granted.append(clock.now)
    span = granted[-1] - granted[0]
    assert len(granted) <= 5 * span + 6
    assert all(later - earlier >= 1 - 1e-3 for earlier, later in zip(granted, granted[10:], strict=False))


def test_callers_do_not_share_buckets(clock):
    limits, rate = MemoryLimits(), Rate.requests("1/minute")
    assert take(limits, Ask("a", rate))[0].wait == 0
    assert take(limits, Ask("b", rate))[0].wait == 0
    assert take(limits, Ask("a", rate))[0].wait > 0


def test_refused_by_one_is_charged_by_none(clock):
    limits, wide, narrow = MemoryLimits(), Rate.requests("10/minute"), Rate.requests("1/minute")
    take(limits, Ask("wide", wide), Ask("narrow", narrow))
    for _ in range(5):
        first, second = take(limits, Ask("wide", wide), Ask("narrow", narrow))
        assert first.wait == 0
        assert second.wait == pytest.approx(60)
    assert take(limits, Ask("wide", wide, charge=0))[0].remaining == pytest.approx(9)


def test_audio_goes_into_debt_and_is_paid_by_waiting(clock):
    limits, rate = MemoryLimits(), Rate.audio("10m/minute")
    look = Ask("a", rate, charge=0)
    assert take(limits, look)[0].wait == 0
    limits.charge("a", rate, 3600)  # an hour: six times what a minute allows
    (stand,) = take(limits, look)
    assert stand.remaining == pytest.approx(-3000)
    assert stand.wait == pytest.approx(300 + 0.1)
    clock.now += 300.2
    assert take(limits, look)[0].wait == 0


def test_a_rate_below_one_can_be_met(clock):
    limits, rate = MemoryLimits(), Rate.audio("0.5s/second")
    assert take(limits, Ask("a", rate, charge=0))[0].wait == 0
    limits.charge("a", rate, 0.5)
    assert 0 < take(limits, Ask("a", rate, charge=0))[0].wait <= 1


def test_memory_is_bounded_and_the_least_used_is_forgotten(clock):
    limits = MemoryLimits(capacity=100)
    once = Rate.requests("1/day")
    for number in range(1000):
        take(limits, Ask("always there", once))
        limits.charge("always there", once, 0)
        take(limits, Ask(f"visitor {number}", once))
    assert len(limits._full_at) == 100
    assert take(limits, Ask("always there", once))[0].wait > 0
    assert take(limits, Ask("visitor 0", once))[0].wait == 0
    assert take(limits, Ask("visitor 999", once))[0].wait > 0
