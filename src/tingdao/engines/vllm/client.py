"""Requests to servers over HTTP/1.1, whose answers are read as they come, on connections that are kept.

An answer comes in many small pieces. Read through a client made for everything, they cost more than all else that is
done for a clip; here they go from the socket through a parser in C (httptools) to whoever reads, who may let them
gather (benchmarks/README.md has what that saves).

What is dialled is the address that was looked up, under the name of the URL. There are no proxies, redirects, cookies
or variables of the environment. A request that is left before its answer is through closes its connection.
"""

from __future__ import annotations

import asyncio
import ipaddress
import ssl
import time
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from functools import lru_cache
from urllib.parse import quote, urlsplit

from httptools import HttpParserError, HttpParserUpgrade, HttpResponseParser

KEEP_ALIVE_SECONDS = 3.0
"""How long an idle connection is kept: less than the 5 s after which vLLM closes it."""
MOST_HEAD_BYTES = 64 * 1024
MOST_HELD_BYTES = 16 * 1024 * 1024
"""What may wait for its reader."""
FINAL = 200
"""From this status on it is the answer; what is below announces it."""


class ConnectFailed(Exception):
    """Nobody answers there."""


class ConnectionBroke(Exception):
    """The connection ended before the answer did, or it carries something else than HTTP."""


@dataclass(frozen=True, slots=True)
class Address:
    """Where a server is. url: as the settings name it. ip: the address that is dialled, where the URL has a name."""

    url: str
    ip: str | None = None

    def __str__(self) -> str:
        return f"{self.url} ({self.ip})" if self.ip else self.url

    @property
    def local(self) -> bool:
        """Whether it is on this machine, where bytes cost next to nothing."""
        return ipaddress.ip_address(_Target.of(self).dialled).is_loopback


@dataclass(frozen=True, slots=True)
class _Target:
    """What an address means. name: that a certificate must be for; None without TLS. host: as the header says it."""

    dialled: str
    port: int
    name: str | None
    host: str
    path: str

    @classmethod
    @lru_cache(maxsize=1024)
    def of(cls, address: Address) -> _Target:
        parts = urlsplit(address.url)
        assert parts.hostname
        secure = parts.scheme == "https"
        dialled = parts.hostname if parts.hostname.isascii() else parts.hostname.encode("idna").decode()
        name = dialled.removesuffix(".")  # which keeps the search list out of look-ups, and is in no certificate
        host = f"[{name}]" if ":" in name else name
        return cls(
            address.ip or dialled,
            parts.port or (443 if secure else 80),
            name if secure else None,
            f"{host}:{parts.port}" if parts.port else host,
            quote(parts.path, safe="/%:@!$&'()*+,;=~"),
        )


class Client:
    """Connections to any number of servers. connect_limit: seconds that connecting may take, TLS included."""

    def __init__(self, headers: Mapping[str, str], tls: ssl.SSLContext, connect_limit: float) -> None:
        self._headers = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        self._tls, self._connect_limit = tls, connect_limit
        self._idle: dict[_Target, list[Connection]] = {}
        self._open: set[Connection] = set()

    @asynccontextmanager
    async def request(
        self, method: str, address: Address, path: str, body: bytes | None = None
    ) -> AsyncGenerator[Connection, None]:
        """Send a request; gives the answer when its head is there. Raises ConnectFailed, ConnectionBroke."""
        target = _Target.of(address)
        connection = self._kept(target) or await self._connect(target)
        try:
            head = f"{method} {target.path}{path} HTTP/1.1\r\nHost: {target.host}\r\n{self._headers}"
            if body is not None:
                head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n"
            await connection.begin(head.encode() + b"\r\n" + (body or b""))
            yield connection
        finally:
            if connection.reusable:
                self._keep(target, connection)
            else:
                connection.close()

    async def close(self) -> None:
        """End all connections; whoever reads gets ConnectionBroke."""
        for connection in list(self._open):
            connection.close()
        self._idle.clear()
        await asyncio.sleep(0)  # until the event loop has let go of them

    async def _connect(self, target: _Target) -> Connection:
        try:
            async with asyncio.timeout(self._connect_limit):
                _, connection = await asyncio.get_running_loop().create_connection(
                    lambda: Connection(self._open),
                    target.dialled,
                    target.port,
                    ssl=self._tls if target.name else None,
                    server_hostname=target.name,
                )
        except TimeoutError:
            raise ConnectFailed(f"no connection within {self._connect_limit:g} s") from None
        except (OSError, UnicodeError) as error:  # the second: no host can have such a name
            raise ConnectFailed(str(error) or type(error).__name__) from None
        return connection

    def _kept(self, target: _Target) -> Connection | None:
        """The connection that was used last, if it is still good."""
        idle = self._idle.get(target, [])
        while idle:
            if (connection := idle.pop()).fresh:
                return connection
            connection.close()
        return None

    def _keep(self, target: _Target, connection: Connection) -> None:
        idle = self._idle.setdefault(target, [])
        idle.append(connection)
        while idle and not idle[0].fresh:
            idle.pop(0).close()


class Connection(asyncio.Protocol):
    """A connection, and the answer that comes over it: to one request after the other.

    status: of the answer. complete: whether all of it has come.
    """

    def __init__(self, opened: set[Connection]) -> None:
        self._opened = opened
        self._transport: asyncio.Transport
        self._parser: HttpResponseParser | None = None
        self._news: asyncio.Future[None] | None = None
        self._gather = 0.0
        self._gathering: asyncio.TimerHandle | None = None
        self._held = bytearray()
        self._reset()

    @property
    def reusable(self) -> bool:
        """Whether another request can follow."""
        return self._again and not self._transport.is_closing() and not self._transport.get_write_buffer_size()

    @property
    def fresh(self) -> bool:
        """Whether it is reusable, and so lately used that the server still has it."""
        return self.reusable and time.monotonic() - self._completed < KEEP_ALIVE_SECONDS

    async def begin(self, request: bytes) -> None:
        """Send a request and wait for the head of its answer. Raises ConnectionBroke."""
        self._reset()
        self._parser = HttpResponseParser(self)
        self._transport.write(request)
        while not self.status:
            await self._wait()

    async def read(self, gather: float = 0.0) -> bytes:
        """What has come of the body since the last time; b"" at its end. Raises ConnectionBroke.

        gather: seconds to wait for more after something has come, unless that is the end.
        """
        if gather and self._held and not self.complete and self._broke is None:
            await self._wait(gather)
        while not self._held and not self.complete:
            await self._wait(gather)
        held = bytes(self._held)
        self._held.clear()
        return held

    async def end(self, seconds: float) -> None:
        """Wait for the end of the body for at most so long; what still comes is dropped."""
        with suppress(TimeoutError, ConnectionBroke):
            async with asyncio.timeout(seconds):
                while not self.complete:
                    self._held.clear()
                    await self._wait()

    def close(self) -> None:
        """End the connection at once."""
        self._again = False
        self._transport.abort()

    def _reset(self) -> None:
        self.status = 0
        self.complete = False
        self._completed = 0.0  # when (monotonic)
        self._again = False
        self._framed = False  # whether the answer says where it ends
        self._head_bytes = 0
        self._held.clear()
        self._broke: str | None = None

    async def _wait(self, gather: float = 0.0) -> None:
        """Wait until something has come, and `gather` seconds more. Raises ConnectionBroke."""
        if self._broke is not None:
            raise ConnectionBroke(self._broke)
        self._gather = gather
        self._news = asyncio.get_running_loop().create_future()
        if self._held:
            self._tell()
        try:
            await self._news
        finally:
            self._news = None
            if self._gathering:
                self._gathering.cancel()
                self._gathering = None

    def _tell(self) -> None:
        """Something has come."""
        if not self._gather or self.complete or self._broke is not None:
            self._wake()
        elif self._news and not self._gathering:
            self._gathering = asyncio.get_running_loop().call_later(self._gather, self._wake)

    def _wake(self) -> None:
        if self._news and not self._news.done():
            self._news.set_result(None)

    def _fail(self, reason: str) -> None:
        self._broke = self._broke or reason
        self.close()
        self._tell()

    # What the event loop calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """It is there."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._opened.add(self)

    def data_received(self, data: bytes) -> None:
        """The server has said something."""
        if self._parser is None or self.complete:
            self.close()  # nobody has asked
            return
        if not self.status:
            self._head_bytes += len(data)
        try:
            self._parser.feed_data(data)
        except (HttpParserError, HttpParserUpgrade) as error:
            self._fail(f"what came is not HTTP: {error}")
            return
        if (not self.status and self._head_bytes > MOST_HEAD_BYTES) or len(self._held) > MOST_HELD_BYTES:
            self._fail("more came than anybody can want")
        elif self.status:
            self._tell()

    def connection_lost(self, error: Exception | None) -> None:
        """It is gone."""
        self._opened.discard(self)
        if self.status and not self._framed and not error:
            self.complete = True  # it ends with the connection
        if not self.complete:
            self._broke = self._broke or str(error or "") or "the server closed it"
        self._tell()

    # What the parser calls.

    def on_message_begin(self) -> None:
        """An answer begins."""
        if self.complete:
            raise ValueError("two answers to one request")

    def on_header(self, name: bytes, _value: bytes) -> None:
        """One of the answer's headers."""
        self._framed = self._framed or name.lower() in {b"content-length", b"transfer-encoding"}

    def on_headers_complete(self) -> None:
        """The head has come."""
        assert self._parser is not None
        status = self._parser.get_status_code()
        if status >= FINAL:
            self.status = status

    def on_body(self, body: bytes) -> None:
        """A part of the body."""
        self._held += body

    def on_message_complete(self) -> None:
        """The end has come."""
        assert self._parser is not None
        if self.status:
            self.complete, self._completed = True, time.monotonic()
            self._again = self._parser.should_keep_alive()
