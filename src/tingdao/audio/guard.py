"""The guard in front of every outgoing connection.

    httpx2.AsyncClient ─► GuardedTransport ─► connection pool ─► Guard.connect_tcp ─► network
                          is this a URL        HTTP/1.1           look the name up once, judge every answer,
                          that is fetched?                        dial exactly those addresses

It stands where connections are made, below redirects and retries, so no way of asking leads around it. A name is
looked up once per connection and what was judged is what is dialled: an answer that changes later changes nothing.
TLS still asks for the certificate of the name. Without a proxy, a cookie or a password from anywhere.

What a stranger is told about a refusal depends on the URL alone: a name that does not exist, one that leads inside and
one that the name server is silent about are answered alike, and nothing is dialled. The log tells the operator more.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import time
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cached_property
from ipaddress import IPv6Address, ip_address
from typing import Final

import httpcore2
import httpx2

from tingdao.destinations import NAME, Address, Destinations
from tingdao.errors import BadUrl, ForbiddenUrl

log = logging.getLogger(__name__)

Lookup = Callable[[str], Sequence[str]]
"""Host name or number -> addresses. Raises OSError; may block."""

URL_LENGTH: Final = 8192
LOOKUPS: Final = 32
"""Names looked up at once. In threads of their own, as a slow name server must not hold up anybody else."""
CONNECT_SECONDS: Final = 10.0
CONNECTIONS: Final = 100
ADDRESSES: Final = 8
"""Addresses of one host that are tried."""


def system_lookup(host: str) -> list[str]:
    """Ask the system, which also reads numbers such as 127.1 or 0x7f000001. Raises OSError."""
    # As bytes, because text would go through Python's outdated IDNA codec first.
    return [str(entry[4][0]) for entry in socket.getaddrinfo(host.encode("ascii"), None, type=socket.SOCK_STREAM)]


class Guard(httpcore2.AsyncNetworkBackend):
    """Connects to permitted destinations only. Raises ForbiddenUrl, and httpcore2's own errors."""

    def __init__(self, destinations: Destinations, lookup: Lookup = system_lookup) -> None:
        self._destinations = destinations
        self._lookup = lookup
        self._network = httpcore2.AnyIOBackend()
        self._threads = ThreadPoolExecutor(LOOKUPS, thread_name_prefix="lookup")

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109  httpcore2's interface
        local_address: str | None = None,
        socket_options: Iterable[httpcore2.SOCKET_OPTION] | None = None,
    ) -> httpcore2.AsyncNetworkStream:
        """Dial the host's addresses in turn, each with its share of the time that is left."""
        end = time.monotonic() + (CONNECT_SECONDS if timeout is None else timeout)
        addresses = await self._permitted(host, port, end)
        failure: Exception = httpcore2.ConnectError("no address")
        for turn, address in enumerate(addresses):
            share = max(end - time.monotonic(), 0) / (len(addresses) - turn)
            try:
                return await self._network.connect_tcp(str(address), port, share, local_address, socket_options)
            except (httpcore2.ConnectError, httpcore2.ConnectTimeout) as error:
                failure = error
        raise failure

    async def connect_unix_socket(
        self,
        path: str,
        timeout: float | None = None,  # noqa: ASYNC109  httpcore2's interface
        socket_options: Iterable[httpcore2.SOCKET_OPTION] | None = None,
    ) -> httpcore2.AsyncNetworkStream:
        """Never."""
        raise ForbiddenUrl("Local sockets are not fetched from.", param="url")

    async def sleep(self, seconds: float) -> None:
        """Wait."""
        await asyncio.sleep(seconds)

    def close(self) -> None:
        """Take no more lookups."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def _permitted(self, host: str, port: int, end: float) -> list[Address]:
        """The addresses of a host, all of which may be dialled."""
        addresses = await self._addresses(host, end)
        if addresses and all(self._destinations.permit(host, port, address) for address in addresses):
            return addresses[:ADDRESSES]
        if not addresses and self._destinations.name(host, port):
            raise httpcore2.ConnectError("The name does not resolve.")  # the operator named it: no secret
        log.warning(
            "outgoing request refused",
            extra={"host": host, "port": port, "addresses": [str(each) for each in addresses]},
        )
        raise self._refusal(port)

    async def _addresses(self, host: str, end: float) -> list[Address]:
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(end - time.monotonic()):
                answers = await loop.run_in_executor(self._threads, self._lookup, host)
        except OSError:  # also a TimeoutError
            return []
        return list(dict.fromkeys(ip_address(answer) for answer in answers))

    def _refusal(self, port: int) -> ForbiddenUrl:
        if port not in self._destinations.ports:
            ports = ", ".join(map(str, sorted(self._destinations.ports)))
            return ForbiddenUrl(
                f"Port {port} of this host is not allowed, only {ports}. The operator can open more with fetch.ports, "
                "or for one host with fetch.allow.",
                param="url",
            )
        return ForbiddenUrl(
            "The host of the URL is unknown or not public. Check its name; the operator can allow a private host with "
            "fetch.allow.",
            param="url",
        )


class GuardedTransport(httpx2.AsyncBaseTransport):
    """httpx2's way to the network, through a guard; every URL is checked, those of redirects too."""

    def __init__(self, guard: Guard) -> None:
        self._guard = guard

    @cached_property
    def _pool(self) -> httpcore2.AsyncConnectionPool:
        """Made when it is first used: reading all certificate authorities takes a tenth of a second."""
        return httpcore2.AsyncConnectionPool(
            # SSL_CERT_FILE may name the operator's own authorities; nothing else of the environment counts.
            ssl_context=httpx2.create_ssl_context(),
            max_connections=CONNECTIONS,
            keepalive_expiry=5,
            network_backend=self._guard,
        )

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        """Send one request. Raises BadUrl, ForbiddenUrl, and httpx2's own errors."""
        check_url(request.url)
        assert isinstance(request.stream, httpx2.AsyncByteStream)
        url = request.url
        with _httpx_errors():
            response = await self._pool.handle_async_request(
                httpcore2.Request(
                    method=request.method,
                    url=httpcore2.URL(scheme=url.raw_scheme, host=url.raw_host, port=url.port, target=url.raw_path),
                    headers=request.headers.raw,
                    content=request.stream,
                    extensions={"timeout": request.extensions.get("timeout", {})},
                )
            )
        assert isinstance(response.stream, AsyncIterable)
        return httpx2.Response(response.status, headers=response.headers, stream=_Body(response.stream))

    async def aclose(self) -> None:
        """Close the connections."""
        if "_pool" in vars(self):
            await self._pool.aclose()


def read_url(text: str) -> httpx2.URL:
    """A URL as a stranger gave it, checked as far as that goes without asking anybody. Raises BadUrl."""
    try:
        url = httpx2.URL(text)
        _ = url.host  # what is no Punycode is found out when it is decoded
    except (httpx2.InvalidURL, UnicodeError):
        raise BadUrl("This is not a URL. It looks like https://example.com/recording.mp3.", param="url") from None
    check_url(url)
    return url


def check_url(url: httpx2.URL) -> None:
    """Raise BadUrl unless it is an http or https URL with a plain host, as its parts would be used."""
    if len(str(url)) > URL_LENGTH:
        raise BadUrl(f"The URL is longer than {URL_LENGTH} characters.", param="url")
    if url.scheme not in {"http", "https"}:
        raise BadUrl("Only URLs that begin with http:// or https:// are fetched.", param="url")
    if url.userinfo:
        raise BadUrl("The URL must not carry a name or password before the host.", param="url")
    if url.port is not None and not 0 < url.port < 65_536:  # 0 would be taken for none
        raise BadUrl("The URL has a port that does not exist.", param="url")
    host = url.raw_host.decode("ascii")
    if ":" in host and IPv6Address(host).scope_id is None:  # httpx2 has read it so already
        return
    if not NAME.fullmatch(host):
        raise BadUrl("The URL has no host, or one that cannot exist.", param="url")


class _Body(httpx2.AsyncByteStream):
    """A response's body, with httpx2's errors."""

    def __init__(self, stream: AsyncIterable[bytes]) -> None:
        self._stream = stream

    async def __aiter__(self) -> AsyncIterator[bytes]:
        with _httpx_errors():
            async for part in self._stream:
                yield part

    async def aclose(self) -> None:
        if close := getattr(self._stream, "aclose", None):
            await close()


@contextmanager
def _httpx_errors() -> Iterator[None]:
    """Turn httpcore2's errors into httpx2's, which have the same names."""
    try:
        yield
    except (
        httpcore2.TimeoutException,
        httpcore2.NetworkError,
        httpcore2.ProtocolError,
        httpcore2.UnsupportedProtocol,
    ) as error:
        raise getattr(httpx2, type(error).__name__)(str(error)) from error
