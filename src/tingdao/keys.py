"""Keys: who may call the service, with what quota, rates and models.

    td_ + 43 characters (256 random bits) + 6 characters (CRC-32 of what is before them), all of 0-9A-Za-z

The prefix lets secret scanners find a lost key (`td_[0-9A-Za-z]{49}`), the checksum tells a typo from a key that does
not exist, and SHA-256 is what is kept: a key with so many random bits needs no slow hash. A key is shown once.

All keys are held in memory. One number in the database grows with every change and is looked at at most once a second,
so a revoked key stops working within `STALENESS` everywhere, and no request pays for a look-up.
"""

from __future__ import annotations

import hashlib
import logging
import re
import secrets
import string
import time
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from hmac import compare_digest
from typing import Any

import sqlalchemy as sql

from tingdao.database import Database, keys, notes
from tingdao.errors import InvalidKey, SetupError, Unavailable
from tingdao.rates import UNITS, Rate

PREFIX = "td_"
BODY, CHECK = 43, 6
NAME_LENGTH = 64
STALENESS = 1.0
"""Seconds until a change made elsewhere is seen."""
PATIENCE = 300.0
"""Seconds for which the keys known last are good while the database does not answer."""
_ALPHABET = string.digits + string.ascii_uppercase + string.ascii_lowercase
_CHANGES = "changes"
_SECRET = "ticket secret"  # noqa: S105  the name of the secret

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Key:
    """One key as it is kept. Times are seconds since 1970; None where there is no limit."""

    name: str
    digest: bytes
    admin: bool
    created: float
    quota: Rate | None = None
    rate: Rate | None = None
    audio_rate: Rate | None = None
    models: frozenset[str] | None = None
    expires: float | None = None
    revoked: float | None = None

    @property
    def state(self) -> str:
        """`active`, `expired` or `revoked`."""
        if self.revoked is not None:
            return "revoked"
        return "expired" if self.expires is not None and self.expires <= time.time() else "active"


def create() -> str:
    """A new key."""
    body = _written(int.from_bytes(secrets.token_bytes(32), "big"), BODY)
    return PREFIX + body + _checksum(body)


def digest_of(key: str) -> bytes:
    """SHA-256 of a key. Raises InvalidKey when it is not a key at all."""
    body, check = key[len(PREFIX) : -CHECK], key[-CHECK:]
    if not key.startswith(PREFIX) or not key.isascii():
        raise InvalidKey(f"This is not a key of this service; they begin with {PREFIX!r}.")
    if len(key) != len(PREFIX) + BODY + CHECK or not compare_digest(check.encode(), _checksum(body).encode()):
        raise InvalidKey("This key was cut off or mistyped. Copy it whole.")
    return hashlib.sha256(key.encode()).digest()


def _checksum(body: str) -> str:
    return _written(zlib.crc32(body.encode()), CHECK)


def _written(number: int, length: int) -> str:
    digits = []
    for _ in range(length):
        number, digit = divmod(number, len(_ALPHABET))
        digits.append(_ALPHABET[digit])
    return "".join(reversed(digits))


KEY_COLUMNS = ("name", "state", "quota", "rate", "audio rate", "models", "expires", "role")


def describe(key: Key) -> tuple[str, ...]:
    """A key in words, one for each of `KEY_COLUMNS`; `-` is where the settings decide."""
    return (
        key.name,
        key.state,
        key.quota.as_audio if key.quota else "-",
        str(key.rate) if key.rate else "-",
        key.audio_rate.as_audio if key.audio_rate else "-",
        ",".join(sorted(key.models)) if key.models is not None else "all",
        "never" if key.expires is None else time.strftime("%Y-%m-%d %H:%MZ", time.gmtime(key.expires)),
        "admin" if key.admin else "user",
    )


def parse_expiry(text: str) -> float:
    """`12h`, `30d` from now, or a day in UTC, as seconds since 1970. Raises ValueError."""
    if found := re.fullmatch(r"(\d{1,6})([hd])", text):
        return time.time() + int(found[1]) * UNITS[found[2]]
    try:
        return datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()
    except ValueError:
        raise ValueError(f"{text!r} is neither a time from now, such as 30d, nor a day, such as 2027-01-01") from None


class KeyStore:
    """All keys of one database, and the copy in memory that requests are checked against."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._known: dict[bytes, Key] = {}
        self._named: dict[str, Key] = {}
        self._changes = -1
        self._looked = float("-inf")
        self._answered = float("-inf")
        self.reload()

    def add(
        self,
        name: str,
        *,
        quota: Rate | None = None,
        rate: Rate | None = None,
        audio_rate: Rate | None = None,
        models: frozenset[str] | None = None,
        expires: float | None = None,
        admin: bool = False,
    ) -> str:
        """Make a key and give it away, the only time. Raises SetupError when the name is bad or in use.

        The name of a revoked key can be used again; its use today goes on being counted under that name.
        """
        if not name or len(name) > NAME_LENGTH or not all(char.isalnum() or char in "._-@" for char in name):
            raise SetupError(f"A name has up to {NAME_LENGTH} letters, digits, '.', '_', '-' and '@'; not {name!r}.")
        if expires is not None and expires <= time.time():
            raise SetupError("This key would have expired already.")
        key = create()
        row = {
            "name": name,
            "digest": digest_of(key),
            "quota": quota.as_audio if quota else None,
            "rate": str(rate) if rate else None,
            "audio_rate": audio_rate.as_audio if audio_rate else None,
            "models": sorted(models) if models is not None else None,
            "admin": admin,
            "created": time.time(),
            "expires": expires,
            "revoked": None,
        }
        insert = self._database.insert(keys).values(row)
        unless_in_use = insert.on_conflict_do_update(
            index_elements=["name"], set_=row, where=keys.c.revoked.is_not(None)
        ).returning(keys.c.name)
        with self._database.engine.begin() as connection:
            if connection.execute(unless_in_use).scalar() is None:
                raise SetupError(f"There is a key {name!r} already. Take another name, or revoke that one first.")
            self._note_change(connection)
        return key

    def revoke(self, name: str) -> None:
        """End a key. Raises SetupError when there is no such key in use."""
        end = keys.update().where(keys.c.name == name, keys.c.revoked.is_(None)).values(revoked=time.time())
        with self._database.engine.begin() as connection:
            if connection.execute(end.returning(keys.c.name)).scalar() is None:
                raise SetupError(f"There is no key {name!r} in use. `tingdao keys list` shows them.")
            self._note_change(connection)

    def all(self) -> list[Key]:
        """Every key there ever was, by name, as the database has it now."""
        with self._database.engine.connect() as connection:
            return [_key(row) for row in connection.execute(keys.select().order_by(keys.c.name)).mappings()]

    def secret(self) -> bytes:
        """The secret that tickets are signed with: 32 bytes, made once per database."""
        made = self._database.insert(notes).values(name=_SECRET, value=secrets.token_hex(32))
        with self._database.engine.begin() as connection:
            connection.execute(made.on_conflict_do_nothing())
            value = connection.execute(sql.select(notes.c.value).where(notes.c.name == _SECRET)).scalar_one()
        return bytes.fromhex(value)

    def reload(self) -> None:
        """Read the keys again when they have changed."""
        with self._database.engine.connect() as connection:
            changes = connection.execute(sql.select(notes.c.value).where(notes.c.name == _CHANGES)).scalar() or "0"
            if int(changes) != self._changes:
                found = [_key(row) for row in connection.execute(keys.select()).mappings()]
                self._known = {key.digest: key for key in found}
                self._named = {key.name: key for key in found}
                self._changes = int(changes)
        self._answered = time.monotonic()

    async def refresh(self) -> None:
        """See changes made elsewhere, looking at most once per `STALENESS`.

        Raises Unavailable when the database has not answered for `PATIENCE`; until then, what was known last holds.
        """
        now = time.monotonic()
        if now - self._looked < STALENESS:
            return
        self._looked = now
        try:
            await self._database.run(self.reload)
        except Unavailable:
            if now - self._answered > PATIENCE:
                self._looked = float("-inf")
                raise

    def close(self) -> None:
        """Write what is due to the database, and close it."""
        self._database.close()

    @property
    def empty(self) -> bool:
        """Whether there has never been a key. One that was revoked or has expired does not open the door again."""
        return not self._known

    def find(self, key: str) -> Key:
        """The active key that this is. Raises InvalidKey."""
        digest = digest_of(key)
        found = self._known.get(digest)
        if found is None or not compare_digest(found.digest, digest):
            raise InvalidKey("There is no such key.")
        return _active(found)

    def named(self, name: str) -> Key:
        """The active key of this name. Raises InvalidKey."""
        found = self._named.get(name)
        if found is None:
            raise InvalidKey("There is no such key.")
        return _active(found)

    def _note_change(self, connection: sql.Connection) -> None:
        first = self._database.insert(notes).values(name=_CHANGES, value="1")
        one_more = sql.cast(sql.cast(notes.c.value, sql.BigInteger) + 1, sql.Text)
        connection.execute(first.on_conflict_do_update(index_elements=["name"], set_={"value": one_more}))


def _active(key: Key) -> Key:
    if key.state == "active":
        return key
    raise InvalidKey(f"This key {'was revoked' if key.state == 'revoked' else 'has expired'}. Ask for a new one.")


def _key(row: Mapping[Any, Any]) -> Key:
    return Key(
        name=row["name"],
        digest=bytes(row["digest"]),
        admin=row["admin"],
        created=row["created"],
        quota=Rate.quota(row["quota"]) if row["quota"] else None,
        rate=Rate.requests(row["rate"]) if row["rate"] else None,
        audio_rate=Rate.audio(row["audio_rate"]) if row["audio_rate"] else None,
        models=frozenset(row["models"]) if row["models"] is not None else None,
        expires=row["expires"],
        revoked=row["revoked"],
    )
