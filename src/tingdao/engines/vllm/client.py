"""Requests to servers over HTTP, whose answers are read as they come, on connections that are kept.

What is dialled is the address that was looked up, under the name of the URL. There are no proxies, redirects, cookies
or variables of the environment. A request that is left before its answer is through closes its connection.

An answer comes in many small pieces, so what a client costs by the piece counts: aiohttp takes half of what httpx does,
and whoever need not see every piece lets them gather (benchmarks/README.md, "Gateway").
"""

from __future__ import annotations

import asyncio
import io
import ipaddress
import ssl
from collections.abc import AsyncGenerator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass

import aiohttp
from yarl import URL

LARGE_BYTES = 1024 * 1024
"""A longer body is sent in pieces, between which others have their turn in the event loop."""
KEEP_ALIVE_SECONDS = 3.0
"""How long an idle connection is kept: less than the 5 s after which vLLM closes it."""


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
        return ipaddress.ip_address(self.ip or str(URL(self.url).host)).is_loopback


@dataclass(frozen=True, slots=True)
class Request:
    """What a server is asked: with POST where there is a body, else with GET."""

    path: str
    body: bytes | None = None
    content_type: str = "application/json"


@contextmanager
def _translated() -> Iterator[None]:
    """The library's errors as those of this module."""
    try:
        yield
    except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as error:
        raise ConnectFailed(str(error) or type(error).__name__) from None
    except aiohttp.ServerDisconnectedError:
        raise ConnectionBroke("the server closed it") from None
    except (aiohttp.ClientError, OSError) as error:
        raise ConnectionBroke(str(error) or type(error).__name__) from None


class Response:
    """An answer as it comes. status: of HTTP."""

    def __init__(self, answer: aiohttp.ClientResponse) -> None:
        self.status = answer.status
        self._content = answer.content

    async def read(self, gather: float = 0.0) -> bytes:
        """What has come of the body since the last time; b"" at its end. Raises ConnectionBroke.

        gather: seconds to wait for more after something has come, unless that is the end.
        """
        with _translated():
            came = await self._content.readany()
            if came and gather:
                await self._end(gather)
                came += self._content.read_nowait()
            return came

    async def end(self, seconds: float) -> None:
        """Wait for the end of the body for at most so long: only then can its connection be used again."""
        with suppress(aiohttp.ClientError):
            await self._end(seconds)

    async def _end(self, seconds: float) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._content.wait_eof()


class Client:
    """Connections to any number of servers. connect_limit: seconds that connecting may take, TLS included."""

    def __init__(self, headers: Mapping[str, str], tls: ssl.SSLContext, connect_limit: float) -> None:
        self._headers, self._tls, self._connect_limit = headers, tls, connect_limit
        self._opened: aiohttp.ClientSession | None = None

    @asynccontextmanager
    async def send(self, address: Address, request: Request) -> AsyncGenerator[Response, None]:
        """Send a request; gives the answer when its head is there. Raises ConnectFailed, ConnectionBroke."""
        url, name = URL(address.url + request.path), None
        headers = {"Host": url.host_port_subcomponent or ""}
        if address.ip:
            url, name = url.with_host(address.ip), url.raw_host
        method = "GET"
        data: bytes | io.BytesIO | None = request.body
        if request.body is not None:
            method, headers["Content-Type"] = "POST", request.content_type
            if len(request.body) > LARGE_BYTES:
                data = io.BytesIO(request.body)
        with _translated():
            answer = await self._session.request(
                method, url, data=data, headers=headers, server_hostname=name, allow_redirects=False
            )
        try:
            yield Response(answer)
        finally:
            answer.release()  # which closes the connection unless the answer is through

    async def close(self) -> None:
        """End all connections; whoever reads gets ConnectionBroke."""
        if self._opened:
            await self._opened.close()

    @property
    def _session(self) -> aiohttp.ClientSession:
        """It belongs to the event loop that it is made in."""
        if self._opened is None:
            self._opened = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=KEEP_ALIVE_SECONDS, ssl=self._tls),
                headers=self._headers,
                cookie_jar=aiohttp.DummyCookieJar(),
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=self._connect_limit),
                auto_decompress=False,
            )
        return self._opened
