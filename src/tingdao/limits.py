"""Rate limits: who may come how often, and with how much audio.

Each limit is a bucket, and a bucket is one number: the moment `full_at` from which all of its permission is back
(GCRA, ITU-T I.371, the virtual scheduling form). With an amount N per period P, one unit costs P/N seconds:

    level = max(0, full_at - now)        remaining = (P - level) / (P/N)        charge c: full_at = now + level + c·P/N

So a caller may use N at once, and then N per period, evenly. A bucket may go into debt: how long a recording is turns
out while it is worked on, so audio is charged then, and the next request waits until the debt is paid.

Buckets are in memory, the least used forgotten past `CAPACITY`; or in the database that instances share, which falls
back to memory while the database does not answer. (`limits`, the usual library, knows no debt, no bound on its memory
and no Postgres.)
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import sqlalchemy as sql

from tingdao.database import Database, buckets
from tingdao.errors import Unavailable
from tingdao.rates import Rate

CAPACITY = 65_536
"""Buckets kept in memory, about 10 MB; one forgotten is full again."""
SWEEP_EVERY = 600.0
"""Seconds between two removals of full buckets from the shared database."""


@dataclass(frozen=True, slots=True)
class Ask:
    """What a request wants of one bucket: to find `need` in it, and to take `charge` from it."""

    bucket: str
    rate: Rate
    need: float = 1.0
    charge: float = 1.0


@dataclass(frozen=True, slots=True)
class Standing:
    """How a bucket stands after an ask.

    remaining: what is left, below 0 in debt. reset: seconds until it is full. wait: seconds until the ask would be
    granted; 0 when it was, or when another ask of the same request was refused.
    """

    rate: Rate
    remaining: float
    reset: float
    wait: float


class Limits(Protocol):
    """All buckets of a service."""

    async def take(self, asks: Sequence[Ask]) -> list[Standing]:
        """Grant all asks or none; how each bucket stands now."""

    def charge(self, bucket: str, rate: Rate, amount: float) -> None:
        """Take from a bucket whatever is in it."""


class MemoryLimits:
    """Buckets of this process."""

    def __init__(self, capacity: int = CAPACITY) -> None:
        self._capacity = capacity
        self._full_at: OrderedDict[str, float] = OrderedDict()

    async def take(self, asks: Sequence[Ask]) -> list[Standing]:
        """See `Limits.take`."""
        now = time.monotonic()
        levels = [max(0.0, self._full_at.get(ask.bucket, now) - now) for ask in asks]
        granted = not any(_wait(ask, level) for ask, level in zip(asks, levels, strict=True))
        if granted:
            for ask in asks:
                self.charge(ask.bucket, ask.rate, ask.charge)
        return [_standing(ask, level, granted=granted) for ask, level in zip(asks, levels, strict=True)]

    def charge(self, bucket: str, rate: Rate, amount: float) -> None:
        """See `Limits.charge`."""
        now = time.monotonic()
        self._full_at[bucket] = max(self._full_at.get(bucket, now), now) + _cost(rate, amount)
        self._full_at.move_to_end(bucket)
        if len(self._full_at) > self._capacity:
            self._full_at.popitem(last=False)


class SharedLimits:
    """Buckets in the database that several instances share; its clock is the one that counts."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._alone = MemoryLimits()
        self._unsaved: dict[str, float] = {}  # seconds by bucket
        self._lock = threading.Lock()  # of the line above
        self._swept = time.monotonic()

    async def take(self, asks: Sequence[Ask]) -> list[Standing]:
        """See `Limits.take`. Without the database, what this instance knows decides."""
        if not asks:
            return []
        try:
            levels = await self._database.run(self._try, asks)
        except Unavailable:
            return await self._alone.take(asks)
        if time.monotonic() - self._swept > SWEEP_EVERY:
            self._swept = time.monotonic()
            self._database.soon(self._sweep)
        granted = not any(_wait(ask, level) for ask, level in zip(asks, levels, strict=True))
        return [_standing(ask, level, granted=granted) for ask, level in zip(asks, levels, strict=True)]

    def charge(self, bucket: str, rate: Rate, amount: float) -> None:
        """See `Limits.charge`; written within a second."""
        self._alone.charge(bucket, rate, amount)
        self._note(bucket, _cost(rate, amount))
        self._database.soon(self._save)

    def _note(self, bucket: str, cost: float) -> None:
        with self._lock:
            self._unsaved[bucket] = self._unsaved.get(bucket, 0.0) + cost

    def _try(self, asks: Sequence[Ask]) -> list[float]:
        """The level of each bucket before the asks, which are charged when every one can be granted."""
        levels: dict[str, float] = {}
        with self._database.engine.connect() as connection:
            for ask in sorted(asks, key=lambda ask: ask.bucket):  # always in one order: no deadlocks
                cost = _cost(ask.rate, ask.charge)
                levels[ask.bucket] = self._add(connection, ask.bucket, cost) - cost
            if not any(_wait(ask, levels[ask.bucket]) for ask in asks):
                connection.commit()  # else it is rolled back
        return [levels[ask.bucket] for ask in asks]

    def _save(self) -> None:
        with self._lock:
            unsaved, self._unsaved = self._unsaved, {}
        try:
            with self._database.engine.begin() as connection:
                for bucket, cost in sorted(unsaved.items()):
                    self._add(connection, bucket, cost)
        except sql.exc.SQLAlchemyError:
            for bucket, cost in unsaved.items():
                self._note(bucket, cost)
            raise

    def _add(self, connection: sql.Connection, bucket: str, cost: float) -> float:
        """Charge `cost` seconds to a bucket; its level then."""
        now = sql.cast(sql.func.extract("epoch", sql.func.clock_timestamp()), sql.Double)
        first = self._database.insert(buckets).values(name=bucket, full_at=now + cost)
        added = first.on_conflict_do_update(
            index_elements=["name"], set_={"full_at": sql.func.greatest(buckets.c.full_at, now) + cost}
        )
        level: float = connection.execute(added.returning(buckets.c.full_at - now)).scalar_one()
        return max(cost, level)  # the clock goes on within the statement

    def _sweep(self) -> None:
        now = sql.func.extract("epoch", sql.func.clock_timestamp())
        with self._database.engine.begin() as connection:
            connection.execute(buckets.delete().where(buckets.c.full_at < now))


def _cost(rate: Rate, amount: float) -> float:
    """Seconds that an amount costs."""
    return amount * rate.period / rate.amount


def _wait(ask: Ask, level: float) -> float:
    """Seconds until a bucket at this level has what is needed; a little rounding is forgiven."""
    over = level + _cost(ask.rate, min(ask.need, ask.rate.amount)) - ask.rate.period
    return over if over > 1e-6 * ask.rate.period else 0.0


def _standing(ask: Ask, level: float, *, granted: bool) -> Standing:
    after = level + _cost(ask.rate, ask.charge) if granted else level
    return Standing(ask.rate, (ask.rate.period - after) / _cost(ask.rate, 1.0), after, _wait(ask, level))
