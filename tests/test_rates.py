"""Rates are read and written alike."""

import pytest

from tingdao.rates import Rate, duration


@pytest.mark.parametrize(
    ("text", "amount", "period"),
    [("60/minute", 60, 60), ("5/second", 5, 1), (" 1000000/Day ", 1_000_000, 86_400), ("100 / hour", 100, 3600)],
)
def test_requests(text, amount, period):
    rate = Rate.requests(text)
    assert (rate.amount, rate.period) == (amount, period)
    assert Rate.requests(str(rate)) == rate


@pytest.mark.parametrize(
    ("text", "amount", "period"),
    [("600s/minute", 600, 60), ("10m/minute", 600, 60), ("1.5h/hour", 5400, 3600), ("0.1s/second", 0.1, 1),
     ("2d/day", 172_800, 86_400)],
)  # fmt: skip
def test_audio(text, amount, period):
    rate = Rate.audio(text)
    assert (rate.amount, rate.period) == (amount, period)
    assert Rate.audio(rate.as_audio) == rate


def test_quotas_are_audio_per_day():
    assert Rate.quota("10h/day").as_audio == "10h/day"
    with pytest.raises(ValueError, match="per day"):
        Rate.quota("10h/hour")


@pytest.mark.parametrize("text", ["", "60", "60/", "/minute", "0/minute", "-1/minute", "60/fortnight", "60s/minute"])
def test_what_is_no_rate_of_requests(text):
    with pytest.raises(ValueError, match="such as 60/minute"):
        Rate.requests(text)


@pytest.mark.parametrize("text", ["", "10", "10/day", "0h/day", "10h", "tenh/day", "10h/day/day", "1e3s/day"])
def test_what_is_no_amount_of_audio(text):
    with pytest.raises(ValueError, match="10h/day"):
        Rate.quota(text)


@pytest.mark.parametrize(("seconds", "text"), [(36_000, "10h"), (5400, "90m"), (61, "61s"), (0, "0s"), (12.5, "12.5s")])
def test_durations(seconds, text):
    assert duration(seconds) == text
