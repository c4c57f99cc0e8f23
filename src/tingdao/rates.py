"""How much in how long: `60/minute`, `10h/day`. Settings, keys and limits all write and read it like this."""

from __future__ import annotations

import re
from dataclasses import dataclass

PERIODS = {"second": 1, "minute": 60, "hour": 3600, "day": 86_400}
UNITS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86_400}
_WRITTEN = re.compile(rf"(\d+(?:\.\d+)?)\s*([smhd]?)\s*/\s*({'|'.join(PERIODS)})")


@dataclass(frozen=True, slots=True)
class Rate:
    """An amount (requests, or seconds of audio) per period in seconds."""

    amount: float
    period: float

    @classmethod
    def requests(cls, text: str) -> Rate:
        """Read `60/minute`. Raises ValueError."""
        found = _WRITTEN.fullmatch(text.strip().lower())
        if not found or found[2] or float(found[1]) < 1:
            raise ValueError(f"{text!r} is not a rate of requests, such as 60/minute (second, minute, hour or day)")
        return cls(float(found[1]), PERIODS[found[3]])

    @classmethod
    def audio(cls, text: str) -> Rate:
        """Read `10m/minute` or `600s/minute`: audio per time. Raises ValueError."""
        found = _WRITTEN.fullmatch(text.strip().lower())
        if not found or not found[2] or not float(found[1]):
            raise ValueError(f"{text!r} is not an amount of audio per time, such as 600s/minute, 30m/hour or 10h/day")
        return cls(float(found[1]) * UNITS[found[2]], PERIODS[found[3]])

    @classmethod
    def quota(cls, text: str) -> Rate:
        """Read `10h/day`: audio per day, which is all that quotas are counted in. Raises ValueError."""
        rate = cls.audio(text)
        if rate.period != PERIODS["day"]:
            raise ValueError(f"{text!r} is not a quota: it is audio per day, such as 10h/day or 90m/day")
        return rate

    def __str__(self) -> str:
        """As requests: `60/minute`."""
        return f"{self.amount:.15g}/{self._per}"

    @property
    def as_audio(self) -> str:
        """As audio: `10h/day`."""
        return f"{duration(self.amount)}/{self._per}"

    @property
    def _per(self) -> str:
        return next(name for name, seconds in PERIODS.items() if seconds == self.period)


def duration(seconds: float) -> str:
    """Seconds in the largest unit that fits: `90m`, `10h`, `12.5s`."""
    for unit in ("h", "m"):
        if seconds and not seconds % UNITS[unit]:
            return f"{seconds / UNITS[unit]:.15g}{unit}"
    return f"{seconds:.15g}s"
