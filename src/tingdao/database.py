"""Where keys, their use and shared limits are kept: SQLite in the state folder, or a Postgres that instances share.

SQLAlchemy's core speaks to both; its ORM is not used. Calls block, so they leave the event loop in one of two ways:
what a request has to wait for goes through `run`, with a deadline; what only has to be written goes through `soon`,
which one thread does within a second, all changes since the last time in one transaction.

SQLite keeps a rollback journal and full synchronisation: the write-ahead log of SQLite 3.7.0 to 3.51.2, which current
Pythons still link, can corrupt a database in rare cases.
"""

from __future__ import annotations

import asyncio
import logging
import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import sqlalchemy as sql
from sqlalchemy.dialects import postgresql, sqlite

from tingdao.errors import SetupError, Unavailable

P = ParamSpec("P")
ResultT = TypeVar("ResultT")

DEADLINE = 5.0
"""Longest that a request waits for the database, in seconds."""
WRITE_EVERY = 1.0
"""Seconds that changes are gathered before they are written; the most that a crash can lose."""
IDLE = 10.0
"""Seconds without work after which the writing thread ends; the next work starts another."""
THREADS = 4
_SCHEMA_LOCK = 0x74696E67  # any number that only this service locks

log = logging.getLogger(__name__)

tables = sql.MetaData()
keys = sql.Table(
    "tingdao_keys",
    tables,
    sql.Column("name", sql.Text, primary_key=True),
    sql.Column("digest", sql.LargeBinary, nullable=False, unique=True),
    sql.Column("quota", sql.Text),
    sql.Column("rate", sql.Text),
    sql.Column("audio_rate", sql.Text),
    sql.Column("models", sql.JSON(none_as_null=True)),
    sql.Column("admin", sql.Boolean, nullable=False),
    sql.Column("created", sql.Double, nullable=False),
    sql.Column("expires", sql.Double),
    sql.Column("revoked", sql.Double),
)
usage = sql.Table(
    "tingdao_usage",
    tables,
    sql.Column("name", sql.Text, primary_key=True),
    sql.Column("day", sql.Text, primary_key=True),
    sql.Column("requests", sql.BigInteger, nullable=False),
    sql.Column("seconds", sql.Double, nullable=False),
)
notes = sql.Table(
    "tingdao_notes",
    tables,
    sql.Column("name", sql.Text, primary_key=True),
    sql.Column("value", sql.Text, nullable=False),
)
buckets = sql.Table(
    "tingdao_buckets",
    tables,
    sql.Column("name", sql.Text, primary_key=True),
    sql.Column("full_at", sql.Double, nullable=False),
)


class Database:
    """A connection pool to the tables above, which are made where they are missing.

    url: `postgresql://user:password@host/name`, or None for SQLite in `state_dir`.
    Raises SetupError when it cannot be opened.
    """

    def __init__(self, url: str | None, state_dir: Path) -> None:
        self.shared = url is not None
        self._where = "keys.database" if url else f"{state_dir / 'keys.sqlite'}"
        self.engine = _postgres(url) if url else _sqlite(state_dir / "keys.sqlite")
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="database")
        self._due: dict[Callable[[], None], None] = {}
        self._woken = threading.Condition()
        self._writer: threading.Thread | None = None
        self._closing = False
        try:
            with self.engine.begin() as connection:
                if self.shared:  # two instances that start at once would trip over each other
                    connection.execute(sql.select(sql.func.pg_advisory_xact_lock(_SCHEMA_LOCK)))
                tables.create_all(connection)
        except sql.exc.SQLAlchemyError as error:
            raise SetupError(f"The database of the keys ({self._where}) cannot be opened: {_plain(error)}") from None

    def insert(self, table: sql.Table) -> postgresql.Insert | sqlite.Insert:
        """An INSERT that can say what happens on a conflict; both databases say it alike."""
        return postgresql.insert(table) if self.shared else sqlite.insert(table)

    async def run(self, call: Callable[P, ResultT], *args: P.args, **kwargs: P.kwargs) -> ResultT:
        """Make a blocking call to this database on a thread. Raises Unavailable when it fails or takes too long."""
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(DEADLINE):
                return await loop.run_in_executor(self._threads, lambda: call(*args, **kwargs))
        except (sql.exc.SQLAlchemyError, TimeoutError) as error:
            log.error("database failed", extra={"reason": _plain(error)})
            raise Unavailable("The database of the keys does not answer. Try again soon.", retry_after=5) from None

    def soon(self, write: Callable[[], None]) -> None:
        """Have a blocking call made on the writing thread within `WRITE_EVERY`, once however often it is asked for.

        It is made again until it succeeds, and once more on `close` if it is still due.
        """
        with self._woken:
            self._due[write] = None
            self._woken.notify()
            if self._writer is None:
                self._writer = threading.Thread(target=self._write, name="database writer", daemon=True)
                self._writer.start()

    def _write(self) -> None:
        while True:
            with self._woken:
                if not self._woken.wait_for(lambda: self._due or self._closing, IDLE):
                    self._writer = None
                    return
                self._woken.wait_for(lambda: self._closing, WRITE_EVERY)
                due, self._due = self._due, {}
                last = self._closing
            for write in due:
                try:
                    write()
                except sql.exc.SQLAlchemyError as error:
                    log.error("database failed", extra={"reason": _plain(error)})
                    self.soon(write)
            if last:
                return

    def close(self) -> None:
        """Write what is due, and close all connections."""
        with self._woken:
            self._closing = True
            self._woken.notify()
        if writer := self._writer:
            writer.join(2 * DEADLINE)
        self._threads.shutdown(wait=False)
        self.engine.dispose()


def _sqlite(path: Path) -> sql.Engine:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))  # hashes and a secret: the operator's eyes only
    except OSError as error:
        raise SetupError(f"The database of the keys ({path}) cannot be opened: {error.strerror}") from None
    # A connection each time: opening the file costs 0.1 ms, and is needed about twice a second.
    engine = sql.create_engine(f"sqlite:///{path}", connect_args={"timeout": DEADLINE}, poolclass=sql.NullPool)

    @sql.event.listens_for(engine, "connect")
    def set_up(connection: Any, _: object) -> None:  # noqa: ANN401  a connection of the driver
        connection.execute("PRAGMA journal_mode=TRUNCATE")
        connection.execute("PRAGMA synchronous=FULL")

    return engine


def _postgres(url: str) -> sql.Engine:
    try:
        address = sql.make_url(url)
        if address.get_backend_name() != "postgresql":
            raise SetupError("keys.database takes a URL of Postgres: postgresql://user:password@host/name.")
        return sql.create_engine(
            address.set(drivername="postgresql+psycopg"),
            pool_size=THREADS,
            max_overflow=0,
            pool_pre_ping=True,
            pool_timeout=DEADLINE,
            # A server that hangs or a network that is gone is noticed within seconds.
            connect_args={
                "connect_timeout": round(DEADLINE),
                "options": f"-c statement_timeout={DEADLINE * 1000:.0f}",
                "keepalives_idle": 5,
                "keepalives_interval": 2,
                "keepalives_count": 2,
                "tcp_user_timeout": round(DEADLINE * 1000),
            },
        )
    except sql.exc.ArgumentError:
        raise SetupError("keys.database is not a URL such as postgresql://user:password@host/name.") from None
    except ModuleNotFoundError:
        raise SetupError("keys.database needs psycopg. Run: pip install 'tingdao[postgres]'") from None


def _plain(error: Exception) -> str:
    """The driver's own words, without statement, values or address."""
    cause = getattr(error, "orig", None)
    return str(cause).strip().partition("\n")[0] if cause else type(error).__name__
