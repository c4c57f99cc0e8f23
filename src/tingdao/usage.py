"""What keys use: requests and seconds of audio per day (UTC), kept for the record and held against their quota.

    work.reserve(total so far) ──► held, refused past the quota
    work.reach(done so far)    ──► used, written within a second

Use is counted in memory and written by the database's own thread, which also reads what other instances wrote. So a
crash loses at most the last second, and a quota that instances share can be overdrawn by what they do in a second.
Work that ends early counts as far as it came; what it had reserved beyond that is free again.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from math import ceil, floor
from types import MappingProxyType, TracebackType

from tingdao.caller import Caller, Work
from tingdao.database import Database, usage
from tingdao.errors import ModelNotAllowed, QuotaExceeded
from tingdao.limits import Limits
from tingdao.observe import Metrics
from tingdao.rates import Rate, duration

DAY = 86_400


@dataclass(frozen=True, slots=True)
class Use:
    """Requests, and seconds of audio."""

    requests: int = 0
    seconds: float = 0.0

    def __add__(self, other: Use) -> Use:
        return Use(self.requests + other.requests, self.seconds + other.seconds)


class Ledger:
    """Today's use of every key. Safe to call from any thread."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._lock = threading.Lock()
        self._written: dict[str, Use] = {}  # today, by all instances, as of the last write
        self._unwritten: dict[tuple[str, str], Use] = {}  # by name and day
        self._held: dict[str, float] = {}
        self._day = today()
        self._write()

    def used(self, name: str) -> Use:
        """What a key has used today."""
        with self._lock:
            self._turn_the_page()
            return self._written.get(name, Use()) + self._unwritten.get((name, self._day), Use())

    def left(self, name: str, quota: Rate) -> float:
        """Seconds of audio that a key may still begin today; what is in work counts as used."""
        return quota.amount - self.used(name).seconds - self._held.get(name, 0.0)

    def count(self, name: str, use: Use) -> None:
        """Note what a key has used."""
        with self._lock:
            entry = (name, today())
            self._unwritten[entry] = self._unwritten.get(entry, Use()) + use
        self._database.soon(self._write)

    def hold(self, name: str, seconds: float) -> None:
        """Keep some of the quota for work that has begun; a negative number gives it back."""
        with self._lock:
            self._held[name] = self._held.get(name, 0.0) + seconds
            if self._held[name] < 1e-6:
                del self._held[name]

    def history(self, day: str) -> dict[str, Use]:
        """What every key used on a day (`2026-11-22`), as the database has it."""
        with self._database.engine.connect() as connection:
            rows = connection.execute(usage.select().where(usage.c.day == day))
            return {row.name: Use(row.requests, row.seconds) for row in rows}

    def _write(self) -> None:
        with self._lock:
            self._turn_the_page()
            batch, day = dict(self._unwritten), self._day
        with self._database.engine.begin() as connection:
            for (name, when), use in sorted(batch.items()):
                row = {"name": name, "day": when, "requests": use.requests, "seconds": use.seconds}
                more = {
                    "requests": usage.c.requests + use.requests,
                    "seconds": usage.c.seconds + use.seconds,
                }
                first = self._database.insert(usage).values(row)
                connection.execute(first.on_conflict_do_update(index_elements=["name", "day"], set_=more))
        written = self.history(day)
        with self._lock:
            for entry, use in batch.items():
                left = Use(self._unwritten[entry].requests - use.requests, self._unwritten[entry].seconds - use.seconds)
                if left.requests or left.seconds > 1e-9:
                    self._unwritten[entry] = left
                else:
                    del self._unwritten[entry]
            if day == self._day:
                self._written = written

    def _turn_the_page(self) -> None:
        if self._day != (day := today()):
            self._day, self._written = day, {}


class Account(Caller):
    """A caller whose work counts.

    name: of the key; None for somebody without one, who has no quota.
    models: real names of those allowed; None for all.
    audio: buckets that seconds of audio are charged to, and the rate of each.
    """

    def __init__(
        self,
        name: str | None,
        ledger: Ledger,
        limits: Limits,
        metrics: Metrics,
        *,
        admin: bool,
        models: frozenset[str] | None = None,
        quota: Rate | None = None,
        audio: Mapping[str, Rate] = MappingProxyType({}),
    ) -> None:
        self.name = name
        self.admin = admin
        self.models = models
        self.quota = quota
        self._ledger = ledger
        self._limits = limits
        self._metrics = metrics
        self._audio = audio

    def allowed(self, models: list[str]) -> list[str]:
        """Those of these models that the key was made for. Raises ModelNotAllowed when that is none of them."""
        if self.models is None:
            return models
        found = [name for name in models if name in self.models]
        if not found:
            raise ModelNotAllowed(
                f"This key may not use {models[0]!r}. It may use: {', '.join(sorted(self.models))}.", param="model"
            )
        return found

    def require_quota(self, seconds: float = 0.0) -> None:
        """Raise QuotaExceeded when less than this many seconds of audio, or nothing at all, is left for today."""
        if self.name is None or self.quota is None:
            return
        left = self._ledger.left(self.name, self.quota)
        if left <= 0 or left < seconds:
            needed = f", and this recording needs at least {duration(ceil(seconds))} more" if left > 0 else ""
            raise QuotaExceeded(
                f"The quota of this key, {self.quota.as_audio}, has {duration(floor(max(0.0, left)))} left{needed}. "
                "It is full again at midnight UTC.",
                retry_after=DAY - time.time() % DAY,
            )

    def work(self) -> Work:
        """Begin a piece of work that counts."""
        return _Counted(self)

    def hold(self, seconds: float) -> None:
        """Keep some of the quota for work that has begun; a negative number gives it back."""
        if self.name is not None:
            self._ledger.hold(self.name, seconds)

    def spend(self, seconds: float) -> None:
        """Note seconds of audio that were worked on."""
        if self.name is not None:
            self._ledger.count(self.name, Use(seconds=seconds))
            self._metrics.key_audio_seconds.labels(self.name).inc(seconds)
        for bucket, rate in self._audio.items():
            self._limits.charge(bucket, rate, seconds)


class _Counted(Work):
    """Work of an account. Both figures only grow, and what is reached need not have been reserved."""

    def __init__(self, account: Account) -> None:
        self._account = account
        self._held = 0.0
        self._reserved = 0.0
        self._reached = 0.0

    def reserve(self, seconds: float) -> None:
        more = seconds - max(self._reserved, self._reached)
        if more <= 0:
            return
        self._account.require_quota(more)
        self._reserved = seconds
        self._hold(seconds - self._reached)

    def reach(self, seconds: float) -> None:
        more = seconds - self._reached
        if more <= 0:
            return
        self._reached = seconds
        self._account.spend(more)
        self._hold(max(0.0, self._reserved - seconds))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._hold(0.0)

    def _hold(self, seconds: float) -> None:
        self._account.hold(seconds - self._held)
        self._held = seconds


def today() -> str:
    """The day that is counted now: `2026-11-22`, in UTC."""
    return time.strftime("%Y-%m-%d", time.gmtime())
