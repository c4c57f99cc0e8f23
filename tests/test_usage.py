"""What is used is counted, written, and held against the quota."""

import logging
import sqlite3
import threading
import time

import pytest

from tingdao import database as databases
from tingdao.database import Database
from tingdao.errors import ModelNotAllowed, QuotaExceeded
from tingdao.limits import MemoryLimits
from tingdao.observe import Metrics
from tingdao.rates import Rate
from tingdao.usage import Account, Ledger, Use, today

HOUR = Rate.quota("1h/day")


@pytest.fixture
def database(tmp_path, monkeypatch):
    monkeypatch.setattr(databases, "WRITE_EVERY", 0.02)
    database = Database(None, tmp_path)
    yield database
    database.close()


@pytest.fixture
def ledger(database):
    return Ledger(database)


@pytest.fixture
def account(ledger):
    return Account("web", ledger, MemoryLimits(), Metrics(), admin=False, quota=HOUR)


def until(condition, seconds=5.0):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_use_is_counted_at_once_and_written_soon(ledger, database):
    ledger.count("web", Use(1, 2.5))
    ledger.count("web", Use(1, 0.5))
    assert ledger.used("web") == Use(2, 3.0)
    assert ledger.used("other") == Use()
    until(lambda: ledger.history(today()).get("web") == Use(2, 3.0))
    assert ledger.used("web") == Use(2, 3.0)
    assert Ledger(database).used("web") == Use(2, 3.0)


def test_instances_add_up_and_see_each_other(ledger, tmp_path):
    other = Ledger(Database(None, tmp_path))
    ledger.count("web", Use(1, 10))
    other.count("web", Use(1, 20))
    until(lambda: ledger.history(today()).get("web") == Use(2, 30))
    ledger.count("other", Use(1))
    until(lambda: ledger.used("web") == Use(2, 30))


def test_nothing_is_lost_or_counted_twice_from_many_threads(ledger, database):
    def work():
        for _ in range(200):
            ledger.count("web", Use(1, 1.0))

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert ledger.used("web") == Use(1600, 1600.0)
    database.close()
    assert ledger.history(today())["web"] == Use(1600, 1600.0)


def test_closing_writes_what_is_due(tmp_path):
    database = Database(None, tmp_path)
    Ledger(database).count("web", Use(1, 5))
    database.close()
    assert Ledger(Database(None, tmp_path)).used("web") == Use(1, 5)


def test_writing_goes_on_after_a_failure(ledger, database, tmp_path, caplog):
    until(lambda: database._writer is None or not database._due)
    blocker = sqlite3.connect(tmp_path / "keys.sqlite", isolation_level=None)
    blocker.execute("ALTER TABLE tingdao_usage RENAME TO elsewhere")
    with caplog.at_level(logging.ERROR):
        ledger.count("web", Use(1, 5))
        until(lambda: "database failed" in caplog.text)
    assert ledger.used("web") == Use(1, 5)
    blocker.execute("ALTER TABLE elsewhere RENAME TO tingdao_usage")
    blocker.close()
    until(lambda: ledger.history(today()).get("web") == Use(1, 5))
    assert ledger.used("web") == Use(1, 5)


def test_a_new_day_begins_with_nothing(ledger, monkeypatch):
    ledger.count("web", Use(3, 3000))
    tomorrow = time.gmtime(time.time() + 86_400)
    monkeypatch.setattr(time, "gmtime", lambda *_: tomorrow)
    assert ledger.used("web") == Use()
    ledger.count("web", Use(1, 1))
    assert ledger.used("web") == Use(1, 1)


def test_work_counts_as_it_goes_and_once(account, ledger):
    with account.work() as work:
        for seconds in (10, 20, 20, 5, 60):
            work.reach(seconds)
    assert ledger.used("web").seconds == 60
    assert ledger.left("web", HOUR) == 3540


def test_work_that_fails_counts_as_far_as_it_came(account, ledger):
    def fail():
        with account.work() as work:
            work.reserve(3600)
            assert ledger.left("web", HOUR) == 0
            work.reach(100)
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert ledger.used("web").seconds == 100
    assert ledger.left("web", HOUR) == 3500


def test_what_others_have_in_work_is_not_there_twice(account, ledger):
    with account.work() as first, account.work() as second:
        first.reserve(3000)
        with pytest.raises(QuotaExceeded, match=r"has 10m left, and this recording needs at least 1000s more"):
            second.reserve(1000)
        second.reserve(600)
        with pytest.raises(QuotaExceeded, match="0s left"):
            account.require_quota()
        first.reach(3000)
        second.reach(600)
    with pytest.raises(QuotaExceeded) as caught:
        account.require_quota()
    assert 0 < caught.value.retry_after <= 86_400
    assert ledger.left("web", HOUR) == 0


def test_a_recording_that_fits_exactly_is_let_in(account):
    with account.work() as work:
        for total in (1000, 3600):
            work.reserve(total)
        with pytest.raises(QuotaExceeded):
            work.reserve(3600.5)


def test_nobody_has_no_quota_and_is_not_written_down(ledger):
    nobody = Account(None, ledger, MemoryLimits(), Metrics(), admin=False, quota=HOUR)
    with nobody.work() as work:
        work.reserve(1e6)
        work.reach(1e6)
    assert ledger.used("") == Use()
    assert ledger.history(today()) == {}


def test_models(ledger):
    some = Account("web", ledger, MemoryLimits(), Metrics(), admin=False, models=frozenset({"a", "b"}))
    assert some.allowed(["c", "b", "a"]) == ["b", "a"]
    with pytest.raises(ModelNotAllowed, match=r"may not use 'c'\. It may use: a, b"):
        some.allowed(["c"])
