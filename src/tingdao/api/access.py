"""Who is calling, and may they: the first question to every request and socket, before a byte of a body is read.

    host ─► open path? ─► origin ─► limits of the address ─► key, ticket, or nobody ─► admin? ─► limits of the key

Everything is refused that is not let in here, so a new route is closed until it is opened. `Edge` asks once for each
connection. What callers use is told by the pipeline, through `tingdao.caller`.

Without any key, the service is for this machine alone: everybody who reaches it may do everything, and pages of other
sites are kept out by the Origin and Host checks.
"""

from __future__ import annotations

import ipaddress
import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from math import ceil, floor
from typing import TYPE_CHECKING
from urllib.parse import unquote_plus, urlsplit

from starlette.requests import HTTPConnection
from starlette.types import Scope

from tingdao import tickets
from tingdao.caller import ANYBODY, Caller
from tingdao.errors import (
    AdminOnly,
    HostNotAllowed,
    InvalidKey,
    KeyInUrl,
    MissingKey,
    OriginNotAllowed,
    RateLimited,
    SetupError,
    TingdaoError,
)
from tingdao.keys import PREFIX, Key, KeyStore
from tingdao.limits import Ask, Limits, Standing
from tingdao.rates import Rate, duration
from tingdao.tickets import Tickets
from tingdao.usage import Account, Ledger, Use

if TYPE_CHECKING:
    from tingdao.observe import Metrics
    from tingdao.settings import LimitsSettings, Settings

log = logging.getLogger(__name__)

PROBES = frozenset({"/health", "/api/health", "/ready"})
"""Paths that orchestrators call, by whatever address they know."""
METRICS = "/metrics"
ADMIN = "/admin"
SAFE = frozenset({"GET", "HEAD", "OPTIONS"})
SUBPROTOCOL = "openai-insecure-api-key."
"""How OpenAI's browser client sends a key to a WebSocket: as a subprotocol, since it cannot set headers."""
UNITS = ("requests", "audio-seconds")
RATE_HEADERS = (
    "RateLimit",
    "RateLimit-Policy",
    "Retry-After",
    *(f"x-ratelimit-{what}-{unit}" for what in ("limit", "remaining", "reset") for unit in UNITS),
)
"""What pages of other sites may read of an answer."""
_KEY_IN_TEXT = re.compile(rf"{PREFIX}[0-9A-Za-z]{{16,}}")


@dataclass(slots=True)
class Visit:
    """One connection: who it is, headers for its answer, and why it is refused, if it is."""

    caller: Caller = ANYBODY
    headers: list[tuple[bytes, bytes]] = field(default_factory=list)
    refusal: TingdaoError | None = None


@dataclass(frozen=True, slots=True)
class _Limit:
    """One limit of a request. unit: as the headers name it; whose: as the words do."""

    unit: str
    whose: str
    ask: Ask

    @property
    def audio(self) -> bool:
        return self.unit.endswith("audio-seconds")

    def refusal(self, wait: float) -> RateLimited:
        what = "audio" if self.audio else "requests"
        rate = self.ask.rate.as_audio if self.audio else str(self.ask.rate)
        return RateLimited(
            f"Too much {what} for now: {rate} for this {self.whose}. Try again in {duration(ceil(wait))}."
            if self.audio
            else f"Too many {what}: {rate} for this {self.whose}. Try again in {duration(ceil(wait))}.",
            retry_after=ceil(wait),
        )


class Access:
    """Decides who comes in. `open_paths` may be read without a key, such as the files of the page.

    Raises SetupError when strangers could come in without a key and nobody has said that they may.
    """

    def __init__(
        self,
        settings: Settings,
        keys: KeyStore,
        ledger: Ledger,
        limits: Limits,
        tickets: Tickets,
        metrics: Metrics,
        open_paths: frozenset[str] = frozenset(),
    ) -> None:
        server = settings.server
        self._open = open_paths | ({METRICS} if server.open_metrics else frozenset())
        self._origins = frozenset(settings.cors.origins)
        self._local = _is_loopback(server.host)
        self._keyless = self._local or server.keyless
        self.limit(settings.limits, server.allowed_hosts)
        self._limits = limits
        self._metrics = metrics
        self.keys = keys
        self.ledger = ledger
        self.tickets = tickets
        if not keys.empty:
            return
        if not self._keyless:
            raise SetupError(
                f"There is no key yet, so only this machine is served, and {server.host} is open to others. Add a key "
                "with `tingdao keys add NAME`, or listen on 127.0.0.1. If a gateway in front of the service asks for "
                "keys, set server.keyless = true (TINGDAO_SERVER_KEYLESS=true)."
            )
        whom = "this machine only" if self._local else "everybody: server.keyless is set"
        log.warning("no key is needed", extra={"serves": whom, "advice": "Add a key with `tingdao keys add NAME`."})

    def limit(self, limits: LimitsSettings, hosts: Sequence[str]) -> None:
        """From now on: the limits of keys that have none of their own, and the names that the service has."""
        self._default = limits
        self._hosts = [name.lower() for name in hosts]

    def close(self) -> None:
        """Write what is not written yet; blocks for as long as that takes."""
        self.keys.close()

    async def admit(self, scope: Scope) -> Visit:
        """Judge a connection of type `http` or `websocket`; `refusal` says no."""
        visit, address = Visit(), _address(scope)
        try:
            await self._admit(scope, visit, address)
        except TingdaoError as refusal:
            visit.refusal = refusal
        visit.caller.address = address
        return visit

    async def _admit(self, scope: Scope, visit: Visit, address: str) -> None:
        connection = HTTPConnection(scope)
        path, reads = scope["path"], scope["type"] == "http" and scope["method"] in SAFE
        visit.caller = Account(None, self.ledger, self._limits, self._metrics, admin=False)
        if reads and path in PROBES:
            return
        self._check_host(connection)
        if reads and path in self._open:
            return
        if not reads or scope["type"] == "websocket":
            self._check_origin(connection)
        await self.keys.refresh()
        of_address = self._limits_of_address(address, works=not reads)
        await self._take(of_address, visit)
        audio = {limit.ask.bucket: limit.ask.rate for limit in of_address if limit.audio}
        key, by_ticket = self._key(connection, reads=reads)
        if key is None:
            visit.caller = Account(
                None, self.ledger, self._limits, self._metrics, admin=self._is_operator(connection), audio=audio
            )
            self._check_admin(path, visit.caller)
            return
        of_key = self._limits_of_key(key, works=not reads)
        audio |= {limit.ask.bucket: limit.ask.rate for limit in of_key if limit.audio}
        account = Account(
            key.name,
            self.ledger,
            self._limits,
            self._metrics,
            admin=key.admin and not by_ticket,
            models=key.models,
            quota=key.quota or self._default.key_quota,
            audio=audio,
        )
        visit.caller = account
        self._check_admin(path, account)
        self._metrics.key_requests.labels(key.name).inc()
        await self._take(of_key, visit)
        if not reads:
            account.require_quota()
        self.ledger.count(key.name, Use(requests=1))

    def _key(self, connection: HTTPConnection, *, reads: bool) -> tuple[Key | None, bool]:
        """The key of a caller, and whether a ticket stood for it; None while nobody needs one.

        Raises KeyInUrl, MissingKey, InvalidKey.
        """
        if _KEY_IN_TEXT.search(unquote_plus(connection.url.query)):
            raise KeyInUrl(
                "A key must not be in the address, where logs and histories keep it: send it as "
                "'Authorization: Bearer …', or ask for a ticket with POST /api/v1/tickets. Consider this key lost: "
                "revoke it and make a new one."
            )
        if self.keys.empty and self._keyless:
            return None, False
        shown = _credential(connection)
        if not shown:
            raise MissingKey(f"This service needs a key. Send it as 'Authorization: Bearer {PREFIX}…'.")
        if not shown.startswith(tickets.PREFIX):
            return self.keys.find(shown), False
        if not reads and connection.scope["type"] != "websocket":
            raise InvalidKey("Tickets are for WebSockets and for reading. Send a key here.")
        return self.tickets.find(shown), True

    def _is_operator(self, connection: HTTPConnection) -> bool:
        """Whether somebody without a key may operate the service: on this machine, and not through a proxy."""
        return self._local and not {"x-forwarded-for", "forwarded", "x-real-ip"} & set(connection.headers)

    def _check_admin(self, path: str, caller: Caller) -> None:
        if (path in {METRICS, ADMIN} or path.startswith(f"{ADMIN}/")) and not caller.admin:
            raise AdminOnly("This takes the key of an admin: `tingdao keys add NAME --admin` makes one.")

    def _check_host(self, connection: HTTPConnection) -> None:
        """Raise HostNotAllowed for a name that this service does not have."""
        name = _host_name(connection.headers.get("host", ""))
        if self._hosts:
            fits = any(name == host or (host.startswith("*.") and name.endswith(host[1:])) for host in self._hosts)
        else:
            # DNS rebinding: a page makes its own name lead to 127.0.0.1, and is then of the same origin as this
            # service. Only names with a dot are anybody's to register.
            guarded = self._local and self.keys.empty
            fits = not guarded or "." not in name or _is_address(name) or name.endswith(".localhost")
        if not fits:
            raise HostNotAllowed(
                f"This service is not known as {name[:100]!r}. Its operator can add the name to server.allowed_hosts."
            )

    def _check_origin(self, connection: HTTPConnection) -> None:
        """Raise OriginNotAllowed for what a page of another site sends. Other programs send no Origin."""
        origin = connection.headers.get("origin")
        if origin is None or connection.headers.get("sec-fetch-site") == "same-origin":
            return
        if origin in self._origins or "*" in self._origins:
            return
        if urlsplit(origin).netloc.lower() != connection.headers.get("host", "").lower():
            raise OriginNotAllowed(
                f"Pages of {origin[:100]!r} may not call this service. Its operator can add that to cors.origins."
            )

    def _limits_of_address(self, address: str, *, works: bool) -> list[_Limit]:
        asked = [("address-requests", f"address:{address}", self._default.address_rate)]
        if works:
            asked.append(("address-audio-seconds", f"address-audio:{address}", self._default.address_audio_rate))
        return _limits("address", asked)

    def _limits_of_key(self, key: Key, *, works: bool) -> list[_Limit]:
        asked = [("requests", f"key:{key.name}", key.rate or self._default.key_rate)]
        if works:
            asked.append(("audio-seconds", f"key-audio:{key.name}", key.audio_rate or self._default.key_audio_rate))
        return _limits("key", asked)

    async def _take(self, limits: list[_Limit], visit: Visit) -> None:
        """Charge the limits, and note how they stand. Raises RateLimited."""
        if not limits:
            return
        standings = await self._limits.take([limit.ask for limit in limits])
        visit.headers = _merged(visit.headers, list(zip(limits, standings, strict=True)))
        wait, limit = max(zip((standing.wait for standing in standings), limits, strict=True), key=lambda pair: pair[0])
        if wait > 0:
            raise limit.refusal(wait)


def _limits(whose: str, asked: list[tuple[str, str, Rate | None]]) -> list[_Limit]:
    """The limits that are set. Audio has to be there, and is charged by the work."""
    return [
        _Limit(unit, whose, Ask(bucket, rate, charge=0.0 if unit.endswith("audio-seconds") else 1.0))
        for unit, bucket, rate in asked
        if rate is not None
    ]


def _merged(headers: list[tuple[bytes, bytes]], stands: list[tuple[_Limit, Standing]]) -> list[tuple[bytes, bytes]]:
    """Headers with further limits.

    `RateLimit` and `RateLimit-Policy` are those of draft-ietf-httpapi-ratelimit-headers-10; the `x-ratelimit-*` of
    OpenAI have room for one limit of a unit, which is the last: the key's where there is one.
    """
    found = dict(headers)
    for limit, stand in stands:
        unit = ';qu="audio-seconds"' if limit.audio else ""
        remaining, reset = max(0, floor(stand.remaining)), ceil(stand.reset)
        policy = f'"{limit.unit}";q={floor(stand.rate.amount)};w={stand.rate.period:.0f}{unit}'
        for name, value in ((b"ratelimit-policy", policy), (b"ratelimit", f'"{limit.unit}";r={remaining};t={reset}')):
            found[name] = found[name] + b", " + value.encode() if name in found else value.encode()
        short = limit.unit.removeprefix("address-")
        for what, number in (("limit", floor(stand.rate.amount)), ("remaining", remaining), ("reset", f"{reset}s")):
            found[f"x-ratelimit-{what}-{short}".encode()] = str(number).encode()
    return list(found.items())


def _credential(connection: HTTPConnection) -> str | None:
    """The key or ticket that a caller shows."""
    scheme, _, value = connection.headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer" and value.strip():
        return value.strip()
    if shown := connection.headers.get("x-api-key"):
        return shown.strip()
    if connection.scope["type"] == "websocket":
        for protocol in connection.headers.get("sec-websocket-protocol", "").split(","):
            if protocol.strip().startswith(SUBPROTOCOL):
                return protocol.strip().removeprefix(SUBPROTOCOL)
    ticket = connection.query_params.get("ticket", "")
    return ticket if ticket.startswith(tickets.PREFIX) else None


def _address(scope: Scope) -> str:
    """The client's address as limits count it: an IPv6 network of /64 is one customer."""
    host = scope["client"][0] if scope.get("client") else "unknown"
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host[:64]
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped:
            return str(address.ipv4_mapped)
        return str(ipaddress.ip_network((address, 64), strict=False))
    return str(address)


def _host_name(host: str) -> str:
    """`Host` without its port and brackets, in lower case."""
    if host.startswith("["):
        return host[1:].partition("]")[0].lower()
    return host.partition(":")[0].lower().rstrip(".")


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _is_loopback(host: str) -> bool:
    return host == "localhost" or (_is_address(host) and ipaddress.ip_address(host).is_loopback)
