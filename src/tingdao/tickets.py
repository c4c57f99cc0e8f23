"""Tickets: what a browser shows in place of a key where it cannot send headers (WebSockets, event streams, downloads).

    ek_ + base64url( expiry, 8 bytes · random, 8 · start of the key's hash, 8 · HMAC-SHA256, 32 · name of the key )

A server that has a key asks for a ticket and hands it to a page; the page shows it within its short life, as often as
it needs (like OpenAI's ephemeral keys, whose prefix it has so that their browser clients take it). It stops when its
key does, and it cannot make further tickets. Instances that share a database share the secret.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import secrets
import struct
import time

from tingdao.errors import InvalidKey
from tingdao.keys import Key, KeyStore

PREFIX = "ek_"
_HEAD = struct.Struct(">d8s8s")
_MAC = 32


class Tickets:
    """Makes tickets, and knows its own.

    lifetime: in seconds.
    """

    def __init__(self, keys: KeyStore, lifetime: float) -> None:
        self._keys = keys
        self._secret = keys.secret()
        self.lifetime = lifetime

    def issue(self, key: Key) -> tuple[str, float]:
        """A ticket for a key, and when it expires, in seconds since 1970."""
        expires = time.time() + self.lifetime
        head = _HEAD.pack(expires, secrets.token_bytes(8), key.digest[:8])
        body = head + self._sign(head, key.name.encode()) + key.name.encode()
        return PREFIX + base64.urlsafe_b64encode(body).decode().rstrip("="), expires

    def find(self, ticket: str) -> Key:
        """The active key that a ticket stands for. Raises InvalidKey."""
        try:
            text = ticket.removeprefix(PREFIX)
            body = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
            expires, _, digest = _HEAD.unpack_from(body)
        except (binascii.Error, struct.error, ValueError):
            raise InvalidKey("This is not a ticket of this service.") from None
        head, mac, name = body[: _HEAD.size], body[_HEAD.size : _HEAD.size + _MAC], body[_HEAD.size + _MAC :]
        if not hmac.compare_digest(mac, self._sign(head, name)):
            raise InvalidKey("This is not a ticket of this service.")
        if expires <= time.time():
            raise InvalidKey("This ticket has expired. Ask for a new one with POST /api/v1/tickets.")
        key = self._keys.named(name.decode())
        if not hmac.compare_digest(key.digest[:8], digest):
            raise InvalidKey("The key of this ticket was replaced. Ask for a new ticket.")
        return key

    def _sign(self, head: bytes, name: bytes) -> bytes:
        return hmac.digest(self._secret, head + name, "sha256")
