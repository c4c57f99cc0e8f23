"""Keys, use and limits in a real Postgres that instances share."""

from __future__ import annotations

import asyncio
import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx2
import pytest
from click.testing import CliRunner

from tingdao import cli, keys
from tingdao import database as databases
from tingdao.database import Database
from tingdao.errors import InvalidKey, SetupError
from tingdao.keys import KeyStore
from tingdao.limits import Ask, SharedLimits
from tingdao.rates import Rate
from tingdao.usage import Ledger, Use, today

PASSWORD = "canary-password"


class Postgres:
    """A server of our own on a free port of the loopback, in a folder that goes when it ends."""

    def __init__(self) -> None:
        found = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"))
        if not found:
            pytest.fail("no Postgres found: apt-get install postgresql")
        self.bin = found[-1].parent
        # Postgres does not run as root; its package brings a user.
        self.user = "postgres" if os.geteuid() == 0 else pwd.getpwuid(os.geteuid()).pw_name
        self.folder = Path(tempfile.mkdtemp(prefix="tingdao-postgres-"))
        if os.geteuid() == 0:
            shutil.chown(self.folder, self.user)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self._as_user("sh", "-c", f"umask 077; echo {PASSWORD} > password")
        self._as_user(
            self.bin / "initdb", "-D", "data", "-U", "tingdao", "-A", "scram-sha-256", "--pwfile=password", "-N"
        )
        self.url = f"postgresql://tingdao:{PASSWORD}@127.0.0.1:{self.port}/postgres"
        self.process: subprocess.Popen[bytes] | None = None
        self.start()

    def _as_user(self, *command: object) -> None:
        subprocess.run(
            [str(part) for part in command], cwd=self.folder, check=True, capture_output=True, **self._identity()
        )

    def _identity(self) -> dict[str, object]:
        return {"user": self.user, "group": self.user, "extra_groups": []} if os.geteuid() == 0 else {}

    def start(self) -> None:
        options = ["-p", str(self.port), "-k", str(self.folder), "-c", "listen_addresses=127.0.0.1", "-F"]
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                [str(self.bin / "postgres"), "-D", "data", *options],
                cwd=self.folder, stdout=log, stderr=log, **self._identity(),
            )  # fmt: skip
        deadline = time.monotonic() + 30
        while subprocess.run(
            [str(self.bin / "pg_isready"), "-q", "-h", "127.0.0.1", "-p", str(self.port)], check=False
        ).returncode:
            assert self.process.poll() is None, (self.folder / "log").read_text()
            assert time.monotonic() < deadline
            time.sleep(0.05)

    def stop(self) -> None:
        assert self.process is not None
        self.process.send_signal(signal.SIGINT)  # end the connections too
        self.process.wait(30)

    def empty(self) -> None:
        database = Database(self.url, Path())
        with database.engine.begin() as connection:
            databases.tables.drop_all(connection)
        database.close()


@pytest.fixture(scope="module")
def postgres():
    server = Postgres()
    yield server
    server.stop()
    shutil.rmtree(server.folder)


@pytest.fixture
def connect(postgres, monkeypatch):
    """Open the database as one more instance does."""
    monkeypatch.setattr(databases, "WRITE_EVERY", 0.05)
    postgres.empty()
    opened = []

    def connect() -> Database:
        opened.append(Database(postgres.url, Path()))
        return opened[-1]

    yield connect
    for database in opened:
        database.close()


def until(condition, seconds=10.0):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_many_instances_may_start_at_once(connect):
    with ThreadPoolExecutor(8) as threads:
        stores = [KeyStore(database) for database in threads.map(lambda _: connect(), range(8))]
        assert len(set(threads.map(lambda store: store.secret(), stores))) == 1


def test_keys_are_shared(connect, monkeypatch):
    monkeypatch.setattr(keys, "STALENESS", 0.0)
    one, two = KeyStore(connect()), KeyStore(connect())
    given = {
        "quota": Rate.quota("10h/day"),
        "rate": Rate.requests("5/minute"),
        "models": frozenset({"a"}),
        "admin": True,
    }
    key = one.add("网页", **given)
    with pytest.raises(SetupError, match="already"):
        two.add("网页")

    async def main():
        await two.refresh()
        found = two.find(key)
        assert {name: getattr(found, name) for name in given} == given
        one.revoke("网页")
        await two.refresh()
        with pytest.raises(InvalidKey, match="revoked"):
            two.find(key)

    asyncio.run(main())


def test_use_adds_up(connect):
    one, two = Ledger(connect()), Ledger(connect())
    for _ in range(50):
        one.count("web", Use(1, 1.0))
        two.count("web", Use(1, 2.0))
    until(lambda: one.history(today()).get("web") == Use(100, 150.0))
    one.count("other", Use(1))
    until(lambda: one.used("web") == Use(100, 150.0))


def test_limits_are_shared_to_the_last_unit(connect):
    instances = [SharedLimits(connect()) for _ in range(3)]
    rate = Rate.requests("10/day")

    async def main():
        asked = [instances[number % 3].take([Ask("key:web", rate)]) for number in range(60)]
        return await asyncio.gather(*asked)

    waits = [stand.wait for (stand,) in asyncio.run(main())]
    assert waits.count(0.0) == 10
    assert max(waits) == pytest.approx(8640, rel=0.01)


def test_refused_by_one_is_charged_by_none_and_nobody_is_locked_out(connect):
    one, two = SharedLimits(connect()), SharedLimits(connect())
    wide, narrow = Ask("a", Rate.requests("1000/day")), Ask("b", Rate.requests("5/day"))

    async def main():
        stands = await asyncio.gather(
            *(one.take([wide, narrow]) for _ in range(30)), *(two.take([narrow, wide]) for _ in range(30))
        )
        granted = sum(all(stand.wait == 0 for stand in pair) for pair in stands)
        (left,) = await one.take([Ask("a", wide.rate, charge=0)])
        return granted, left.remaining

    granted, remaining = asyncio.run(main())
    assert granted == 5
    assert remaining == pytest.approx(995, abs=0.1)


def test_audio_of_one_instance_is_debt_on_the_other(connect):
    one, two = SharedLimits(connect()), SharedLimits(connect())
    look = Ask("audio", Rate.audio("10m/minute"), charge=0)
    one.charge("audio", look.rate, 3600)
    until(lambda: asyncio.run(two.take([look]))[0].wait > 0)
    (stand,) = asyncio.run(two.take([look]))
    assert stand.remaining == pytest.approx(-3000, abs=100)


def test_full_buckets_are_removed(connect):
    database = connect()
    limits = SharedLimits(database)
    asyncio.run(limits.take([Ask("fast", Rate.requests("1000/second")), Ask("slow", Rate.requests("1/day"))]))
    time.sleep(0.05)
    limits._sweep()
    with database.engine.connect() as connection:
        assert [row.name for row in connection.execute(databases.buckets.select())] == ["slow"]


def test_the_service_goes_on_without_it_and_nothing_is_lost(connect, postgres, make_client, monkeypatch, caplog):
    monkeypatch.setattr(keys, "STALENESS", 0.0)
    monkeypatch.setattr(databases, "DEADLINE", 1.0)
    store = KeyStore(connect())
    key = {"authorization": f"Bearer {store.add('web', rate=Rate.requests('1000/day'))}"}
    client = make_client(keys={"database": postgres.url})

    async def main():
        transport = httpx2.ASGITransport(client.app)
        async with httpx2.AsyncClient(transport=transport, base_url="http://test") as http:
            assert (await http.get("/v1/models", headers=key)).status_code == 200
            await asyncio.to_thread(postgres.stop)
            try:
                for _ in range(3):
                    assert (await http.get("/v1/models", headers=key)).status_code == 200
                assert (await http.get("/v1/models")).status_code == 401
            finally:
                await asyncio.to_thread(postgres.start)
            assert (await http.get("/v1/models", headers=key)).status_code == 200

    asyncio.run(main())
    until(lambda: Ledger(connect()).used("web").requests == 5)
    assert "database failed" in caplog.text
    assert PASSWORD not in caplog.text


def test_two_services_are_one_to_their_callers(connect, postgres, make_client, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TINGDAO_KEYS_DATABASE", postgres.url)
    made = CliRunner().invoke(cli.main, ["keys", "add", "web", "--rate", "5/day"])
    assert made.exit_code == 0, made.output
    key = {"authorization": f"Bearer {made.stdout.strip()}"}
    clients = [make_client(keys={"database": postgres.url}) for _ in range(2)]
    statuses = [clients[number % 2].get("/v1/models", headers=key).status_code for number in range(8)]
    assert statuses == [200] * 5 + [429] * 3
    ticket = clients[0].post("/api/v1/tickets", headers=key)
    assert ticket.status_code == 429
    listed = CliRunner().invoke(cli.main, ["keys", "list"]).output
    assert "5/day" in listed
    assert PASSWORD not in listed


def test_a_database_out_of_reach_is_said_without_its_password(tmp_path):
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
        with pytest.raises(SetupError, match="cannot be opened") as caught:
            Database(f"postgresql://tingdao:{PASSWORD}@127.0.0.1:{port}/postgres", tmp_path)
    assert PASSWORD not in str(caught.value)
