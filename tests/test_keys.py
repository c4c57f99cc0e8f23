"""Keys as they are written, kept, found and ended; and the command that makes them."""

import asyncio
import hashlib
import re
import sqlite3
import time

import pytest
from click.testing import CliRunner

from tingdao import cli, keys
from tingdao.database import Database
from tingdao.errors import InvalidKey, SetupError, Unavailable
from tingdao.keys import KeyStore
from tingdao.rates import Rate


@pytest.fixture
def database(tmp_path):
    database = Database(None, tmp_path)
    yield database
    database.close()


@pytest.fixture
def store(database):
    return KeyStore(database)


def fresh(store):
    store.reload()
    return store


def test_keys_can_be_found_by_scanners_and_are_all_different():
    made = {keys.create() for _ in range(200)}
    assert len(made) == 200
    assert all(re.fullmatch(r"td_[0-9A-Za-z]{49}", key) for key in made)


def test_typos_are_told_from_keys_that_do_not_exist(store):
    key = keys.create()
    with pytest.raises(InvalidKey, match="no such key"):
        store.find(key)
    for at in range(3, len(key)):
        other = "a" if key[at] != "a" else "b"
        with pytest.raises(InvalidKey, match="mistyped"):
            store.find(key[:at] + other + key[at + 1 :])
    for wrong in (key[:-1], key + "a", key[:3]):
        with pytest.raises(InvalidKey, match="cut off"):
            store.find(wrong)
    for wrong in ("", "sk-1234", "none", "td_" + "é" * 49, "Td_" + key[3:]):
        with pytest.raises(InvalidKey, match="not a key of this service"):
            store.find(wrong)


def test_only_the_hash_is_kept(store, tmp_path):
    key = store.add("web")
    found = fresh(store).find(key)
    assert found.digest == hashlib.sha256(key.encode()).digest()
    kept = b"".join(path.read_bytes() for path in tmp_path.iterdir())
    assert found.digest in kept
    assert key.encode() not in kept
    assert key[3:20].encode() not in kept


def test_the_file_is_for_the_operator_alone_and_is_written_safely(store, database, tmp_path):
    store.add("web")
    assert {path.stat().st_mode & 0o777 for path in tmp_path.iterdir()} == {0o600}
    with database.engine.connect() as connection:
        assert connection.exec_driver_sql("PRAGMA journal_mode").scalar() == "truncate"
        assert connection.exec_driver_sql("PRAGMA synchronous").scalar() == 2


def test_what_a_key_may_comes_back_as_it_was_given(store):
    given = {
        "quota": Rate.quota("10h/day"),
        "rate": Rate.requests("60/minute"),
        "audio_rate": Rate.audio("30m/minute"),
        "models": frozenset({"a", "b"}),
        "expires": time.time() + 100,
        "admin": True,
    }
    text = store.add("web", **given)
    key = fresh(store).find(text)
    assert {name: getattr(key, name) for name in given} == given
    assert fresh(store).named("web") == key
    text = store.add("plain")
    plain = fresh(store).find(text)
    assert (plain.quota, plain.rate, plain.audio_rate, plain.models, plain.expires, plain.admin) == (
        None, None, None, None, None, False
    )  # fmt: skip


def test_names(store):
    store.add("web")
    with pytest.raises(SetupError, match="'web' already"):
        store.add("web")
    for name in ("", "a b", "a/b", "x" * 65, 'a"b', "a\nb"):
        with pytest.raises(SetupError, match="A name has"):
            store.add(name)


def test_a_revoked_key_ends_and_its_name_can_be_used_again(store):
    old = store.add("web")
    fresh(store).find(old)
    store.revoke("web")
    with pytest.raises(InvalidKey, match="revoked"):
        fresh(store).find(old)
    with pytest.raises(SetupError, match="no key 'web' in use"):
        store.revoke("web")
    new = store.add("web", admin=True)
    assert fresh(store).find(new).admin
    with pytest.raises(InvalidKey, match="no such key"):
        store.find(old)


def test_an_expired_key_ends_without_anybody_looking(store, monkeypatch):
    key = store.add("web", expires=time.time() + 50)
    fresh(store).find(key)
    now = time.time() + 51
    monkeypatch.setattr(time, "time", lambda: now)
    with pytest.raises(InvalidKey, match="expired"):
        store.find(key)
    with pytest.raises(SetupError, match="expired already"):
        store.add("late", expires=now - 1)


def test_the_door_stays_closed_after_the_last_key(store):
    assert store.empty
    store.add("web")
    assert not fresh(store).empty
    store.revoke("web")
    assert not fresh(store).empty


def test_changes_of_another_process_are_seen_within_the_staleness(store, tmp_path, monkeypatch):
    monkeypatch.setattr(keys, "STALENESS", 0.2)
    other = KeyStore(Database(None, tmp_path))
    key = other.add("web")

    async def main():
        await store.refresh()
        store.find(key)
        other.revoke("web")
        began = time.monotonic()
        while True:
            await store.refresh()
            try:
                store.find(key)
            except InvalidKey:
                break
            assert time.monotonic() - began < 1
            await asyncio.sleep(0.02)
        assert time.monotonic() - began < 0.4

    asyncio.run(main())


def test_what_was_known_holds_for_a_while_without_the_database(store, tmp_path, monkeypatch, caplog):
    key = fresh(store).add("web")
    fresh(store)
    monkeypatch.setattr(keys, "STALENESS", 0.0)
    (tmp_path / "keys.sqlite").unlink()
    (tmp_path / "keys.sqlite").mkdir()

    async def main():
        await store.refresh()
        assert store.find(key).name == "web"
        assert "database failed" in caplog.text
        monkeypatch.setattr(keys, "PATIENCE", 0.0)
        with pytest.raises(Unavailable, match="does not answer"):
            await store.refresh()

    asyncio.run(main())


def test_the_secret_of_tickets_is_one_for_all(store, tmp_path):
    assert len(store.secret()) == 32
    assert KeyStore(Database(None, tmp_path)).secret() == store.secret()


def test_a_database_that_cannot_be_opened_is_said(tmp_path):
    (tmp_path / "keys.sqlite").write_bytes(b"not a database, certainly not one" * 100)
    with pytest.raises(SetupError, match="not a database"):
        Database(None, tmp_path)
    for url, said in (("mysql://a:canary@b/c", "URL of Postgres"), ("no url", "not a URL")):
        with pytest.raises(SetupError, match=said) as caught:
            Database(url, tmp_path)
        assert "canary" not in str(caught.value)


class TestCommand:
    """`tingdao keys`."""

    @pytest.fixture
    def tingdao(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        monkeypatch.setenv("TINGDAO_STATE_DIR", str(tmp_path / "state"))
        return lambda *arguments: CliRunner().invoke(cli.main, ["keys", *arguments])

    def test_add_list_revoke(self, tingdao, tmp_path):
        assert "no keys" in tingdao("list").output
        made = tingdao("add", "web", "--quota", "10h/day", "--rate", "60/minute", "--audio-rate", "30m/minute",
                       "--models", "0.6b,whisper-base", "--expires", "30d", "--admin")  # fmt: skip
        assert made.exit_code == 0, made.output
        key = made.stdout.strip()
        store = KeyStore(Database(None, tmp_path / "state"))
        found = store.find(key)
        assert found.models == {"qwen3-asr-0.6b", "whisper-base"}
        assert found.expires == pytest.approx(time.time() + 30 * 86_400, abs=60)
        listed = tingdao("list").output
        assert key[3:] not in listed
        for shown in ("web", "active", "10h/day", "60/minute", "30m/minute", "admin"):
            assert shown in listed
        assert tingdao("revoke", "web").exit_code == 0
        assert "revoked" in tingdao("list").output

    def test_a_day_ends_it_at_its_start_in_utc(self, tingdao, tmp_path):
        assert tingdao("add", "web", "--expires", "2999-01-01").exit_code == 0
        assert "2999-01-01 00:00Z" in tingdao("list").output

    @pytest.mark.parametrize(
        ("arguments", "said"),
        [
            (("add", "web", "--quota", "10"), "10h/day"),
            (("add", "web", "--rate", "often"), "60/minute"),
            (("add", "web", "--expires", "soon"), "30d"),
            (("add", "web", "--expires", "2001-01-01"), "expired already"),
            (("add", "a b"), "A name has"),
            (("revoke", "nobody"), "no key 'nobody'"),
        ],
    )
    def test_what_is_wrong_is_said(self, tingdao, arguments, said):
        answer = tingdao(*arguments)
        assert answer.exit_code == 2
        assert said in answer.output
        assert "td_" not in answer.output

    def test_a_model_that_is_not_here_is_mentioned(self, tingdao):
        assert "no model 'whisperbase' here" in tingdao("add", "web", "--models", "whisperbase").stderr

    def test_a_broken_database_is_said(self, tingdao, tmp_path):
        tingdao("list")
        with sqlite3.connect(tmp_path / "state" / "keys.sqlite") as connection:
            connection.execute("DROP TABLE tingdao_keys")
            connection.execute("CREATE TABLE tingdao_keys (name TEXT)")
        connection.close()
        answer = tingdao("list")
        assert answer.exit_code == 2
        assert "database of the keys" in answer.output
