"""Nothing reaches an address that is not allowed; what is allowed arrives whole, or says why not.

No test leaves this machine: names are looked up in a table, and connections to public addresses end at a server here.
"""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import http.server
import socket
import ssl
import tempfile
import threading
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path

import httpcore2
import httpx2
import pytest

from tingdao.audio import fetch, guard
from tingdao.audio.fetch import Fetcher
from tingdao.errors import (
    BadUrl,
    EmptyAudio,
    FetchFailed,
    FetchTimeout,
    ForbiddenUrl,
    NotAudio,
    StorageFull,
    TingdaoError,
    TooLarge,
)
from tingdao.settings import MIB, FetchSettings

CERTIFICATE = Path(__file__).parent / "fixtures" / "files.internal.pem"
RECORDINGS = Path(__file__).parent / "recordings"
WAV = b"RIFF\x24\x10\0\0WAVEfmt \x10\0\0\0\1\0\1\0\x80\x3e\0\0\0\x7d\0\0\2\0\x10\0data\0\x10\0\0" + bytes(4096)
CREATE_SSL_CONTEXT = httpx2.create_ssl_context
PUBLIC = "93.184.215.14"
NAMES = {
    "localhost": ["127.0.0.1", "::1"],
    "localhost.": ["127.0.0.1"],
    "localhost.localdomain": ["127.0.0.1"],
    "ip6-localhost": ["::1"],
    "loop.example": ["127.0.0.1"],
    "loop.example.": ["127.0.0.1"],
    "xn--bcher-kva.example": ["127.0.0.1"],
    "inside.example": ["10.0.0.5"],
    "kubernetes.default.svc": ["172.20.0.1"],
    "six.example": ["::1"],
    "mapped.example": ["::ffff:127.0.0.1"],
    "nat64.example": ["64:ff9b::7f00:1"],
    "tunnel.example": ["2002:7f00:1::"],
    "scope.example": ["fe80::1%eth0"],
    "mixed.example": [PUBLIC, "127.0.0.1"],
    "mixed6.example": [PUBLIC, "::1"],
    "none.example": [],
    "metadata.google.internal": ["169.254.169.254"],
    "public.example": [PUBLIC],
    "files.internal": ["127.0.0.1"],
    "other.internal": ["127.0.0.1"],
}


@pytest.fixture(scope="session")
def authorities():
    return httpx2.create_ssl_context()


@pytest.fixture(autouse=True)
def quick(monkeypatch, tmp_path, authorities):
    monkeypatch.setattr(fetch, "PAUSE", 0.001)
    monkeypatch.setattr(guard.httpx2, "create_ssl_context", lambda: authorities)  # reading them takes a while
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))


def lookup(host: str) -> list[str]:
    """Names by the table, numbers as the system reads them; never asks a name server."""
    if host in NAMES:
        return NAMES[host]
    found = socket.getaddrinfo(host.encode(), None, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST)
    return [entry[4][0] for entry in found]


class Wire(httpcore2.AsyncNetworkBackend):
    """The network behind the guard: notes what is dialled, and keeps it on this machine."""

    def __init__(self, public: int | None = None) -> None:
        self.dialled = []
        self.public = public  # port here where connections to PUBLIC end

    async def connect_tcp(self, host, port, timeout=None, *_):  # noqa: ASYNC109  httpcore2's interface
        self.dialled.append(host)
        if host == PUBLIC and self.public:
            host, port = "127.0.0.1", self.public
        if host not in {"127.0.0.1", "::1"}:
            raise httpcore2.ConnectError("not from here")
        return await httpcore2.AnyIOBackend().connect_tcp(host, port, timeout)


class Server:
    """Speaks by script. pages: path -> what is sent for it: bytes, and floats to pause (seconds).

    Where a page is a list of lists, each request gets the next one, and the last one stays.
    """

    def __init__(self, pages) -> None:
        self.pages = pages
        self.requests = []
        self.port = 0

    @property
    def paths(self):
        return [request.split(" ")[1] for request in self.requests]

    async def serve(self, reader, writer) -> None:
        try:
            request = (await reader.readuntil(b"\r\n\r\n")).decode()
            self.requests.append(request)
            page = self.pages[request.split(" ")[1]]
            if isinstance(page, list) and isinstance(page[0], list):
                page = page.pop(0) if len(page) > 1 else page[0]
            for step in page if isinstance(page, list) else [page]:
                if isinstance(step, float):
                    await asyncio.sleep(step)
                else:
                    writer.write(step)
                    await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    @contextlib.asynccontextmanager
    async def running(self, host="127.0.0.1", port=0, tls=None) -> AsyncIterator[Server]:
        server = await asyncio.start_server(self.serve, host, port, ssl=tls)
        self.port = server.sockets[0].getsockname()[1]
        try:
            yield self
        finally:
            server.close()


def ok(body=WAV, *headers, status="200 OK", version="1.1"):
    lines = [f"HTTP/{version} {status}", f"Content-Length: {len(body)}", *headers, "", ""]
    return "\r\n".join(lines).encode() + body


def redirect(to, status="302 Found"):
    return ok(b"", f"Location: {to}", status=status)


@contextlib.asynccontextmanager
async def fetcher_for(*allow, wire=None, lookup=lookup, **options):
    fetcher = Fetcher(FetchSettings(allow=allow, **options), lookup)
    fetcher._guard._network = wire or Wire()
    try:
        yield fetcher
    finally:
        await fetcher.close()


async def body_of(fetcher, url, progress=None):
    async with fetcher.recording(url, progress) as recording:
        return recording.read()


def run(pages, path="/a", allow=("127.0.0.1",), progress=None, **options):
    """Fetch a path of a scripted server here; return the body and the server."""

    async def main():
        async with Server(pages).running() as server:
            options.setdefault("ports", [server.port])
            async with fetcher_for(*allow, **options) as fetcher:
                return await body_of(fetcher, f"http://127.0.0.1:{server.port}{path}", progress), server

    return asyncio.run(main())


def refused(kind, pages, path="/a", **options):
    with pytest.raises(kind) as caught:
        run(pages, path, **options)
    assert caught.value.param == "url"
    assert "127.0.0.1" not in caught.value.message
    return caught.value.message


# What must not be reached.

BAD, FORBIDDEN = BadUrl, ForbiddenUrl
TRICKS = [
    # Numbers that are 127.0.0.1; PORT is where the canary listens.
    ("http://127.0.0.1:PORT/", FORBIDDEN),
    ("http://2130706433:PORT/", FORBIDDEN),
    ("http://017700000001:PORT/", FORBIDDEN),
    ("http://0x7f000001:PORT/", FORBIDDEN),
    ("http://0X7F000001:PORT/", FORBIDDEN),
    ("http://127.1:PORT/", FORBIDDEN),
    ("http://127.0.1:PORT/", FORBIDDEN),
    ("http://0x7f.1:PORT/", FORBIDDEN),
    ("http://0x7f.0x0.0x0.0x1:PORT/", FORBIDDEN),
    ("http://127.0.0.0x1:PORT/", FORBIDDEN),
    ("http://00000177.1:PORT/", FORBIDDEN),
    ("http://0177.0.0.1:PORT/", BAD),
    ("http://127.0.0.01:PORT/", BAD),
    ("http://127.000.000.001:PORT/", BAD),
    ("http://4294967297:PORT/", FORBIDDEN),
    ("http://127.0.0.1.:PORT/", FORBIDDEN),
    ("http://127.127.127.127:PORT/", FORBIDDEN),
    ("http://0:PORT/", FORBIDDEN),
    ("http://0.0.0.0:PORT/", FORBIDDEN),
    ("http://127.0.0.1:PORT/?@public.example/", FORBIDDEN),
    ("http://127.0.0.1:PORT#@public.example/", FORBIDDEN),
    ("HTTP://127.0.0.1:PORT/", FORBIDDEN),
    ("http://127.0.0.1:0PORT/", FORBIDDEN),
    # Other scripts.
    ("http://127。0。0。1:PORT/", FORBIDDEN),
    ("http://127．0．0．1:PORT/", FORBIDDEN),
    ("http://１２７.０.０.１:PORT/", BAD),
    ("http://①②⑦.⓪.⓪.①:PORT/", BAD),
    ("http://ⓛocalhost:PORT/", BAD),
    ("http://ｌocalhost:PORT/", BAD),
    ("http://loc\u00adalhost:PORT/", BAD),
    ("http://bücher.example:PORT/", FORBIDDEN),
    ("http://xn--bcher-kva.example:PORT/", FORBIDDEN),
    ("http://xn--a:PORT/", FORBIDDEN),
    ("http://xn--a.-b:PORT/", BAD),
    ("http://xn--.]:PORT/", BAD),
    # IPv6.
    ("http://[::1]:PORT/", FORBIDDEN),
    ("http://[0000:0:0:0:0:0:0:0001]:PORT/", FORBIDDEN),
    ("http://[::]:PORT/", FORBIDDEN),
    ("http://[::ffff:127.0.0.1]:PORT/", FORBIDDEN),
    ("http://[::ffff:7f00:1]:PORT/", FORBIDDEN),
    ("http://[0:0:0:0:0:ffff:127.0.0.1]:PORT/", FORBIDDEN),
    ("http://[::127.0.0.1]:PORT/", FORBIDDEN),
    ("http://[64:ff9b::127.0.0.1]:PORT/", FORBIDDEN),
    ("http://[64:ff9b:1::7f00:1]:PORT/", FORBIDDEN),
    ("http://[2002:7f00:1::]:PORT/", FORBIDDEN),
    ("http://[2001:0:7f00:1::]:PORT/", FORBIDDEN),
    ("http://[fc00::1]:PORT/", FORBIDDEN),
    ("http://[ff02::1]:PORT/", FORBIDDEN),
    ("http://[fe80::1]:PORT/", FORBIDDEN),
    ("http://[fe80::1%25eth0]:PORT/", BAD),
    ("http://[::1%251]:PORT/", BAD),
    ("http://[::1%lo]:PORT/", BAD),
    ("http://[::1:PORT/", BAD),
    ("http://::1:PORT/", BAD),
    ("http://[v1.127.0.0.1]:PORT/", BAD),
    ("http://[127.0.0.1]:PORT/", BAD),
    # Names that lead inside.
    ("http://localhost:PORT/", FORBIDDEN),
    ("http://LOCALHOST:PORT/", FORBIDDEN),
    ("http://localhost.:PORT/", FORBIDDEN),
    ("http://localhost.localdomain:PORT/", FORBIDDEN),
    ("http://ip6-localhost:PORT/", FORBIDDEN),
    ("http://loop.example:PORT/", FORBIDDEN),
    ("http://loop.example.:PORT/", FORBIDDEN),
    ("https://loop.example:PORT/", FORBIDDEN),
    ("http://six.example:PORT/", FORBIDDEN),
    ("http://mapped.example:PORT/", FORBIDDEN),
    ("http://nat64.example:PORT/", FORBIDDEN),
    ("http://tunnel.example:PORT/", FORBIDDEN),
    ("http://scope.example:PORT/", FORBIDDEN),
    ("http://inside.example:PORT/", FORBIDDEN),
    ("http://mixed.example:PORT/", FORBIDDEN),
    ("http://mixed6.example:PORT/", FORBIDDEN),
    ("http://none.example:PORT/", FORBIDDEN),
    ("http://unknown.example:PORT/", FORBIDDEN),
    ("http://kubernetes.default.svc/", FORBIDDEN),
    # Metadata services.
    ("http://169.254.169.254/latest/meta-data/", FORBIDDEN),
    ("http://2852039166/", FORBIDDEN),
    ("http://0xa9fea9fe/", FORBIDDEN),
    ("http://169.254.43518/", FORBIDDEN),
    ("http://[::ffff:169.254.169.254]/", FORBIDDEN),
    ("http://[64:ff9b::a9fe:a9fe]/", FORBIDDEN),
    ("http://169.254.170.2/v2/credentials", FORBIDDEN),
    ("http://[fd00:ec2::254]/", FORBIDDEN),
    ("http://[fd20:ce::254]/", FORBIDDEN),
    ("http://100.100.100.200/", FORBIDDEN),
    ("http://192.0.0.192/", FORBIDDEN),
    ("http://168.63.129.16/", FORBIDDEN),
    ("http://metadata.google.internal/", FORBIDDEN),
    # Private, shared, benchmarking, multicast, broadcast.
    ("http://10.0.0.5/", FORBIDDEN),
    ("http://172.16.0.1/", FORBIDDEN),
    ("http://192.168.1.1/", FORBIDDEN),
    ("http://100.64.0.1/", FORBIDDEN),
    ("http://198.18.0.1/", FORBIDDEN),
    ("http://224.0.0.1/", FORBIDDEN),
    ("http://255.255.255.255/", FORBIDDEN),
    ("http://240.0.0.1/", FORBIDDEN),
    # Names and passwords, and what looks like them.
    ("http://public.example@127.0.0.1:PORT/", BAD),
    ("http://user:password@127.0.0.1:PORT/", BAD),
    ("http://:@127.0.0.1:PORT/", BAD),
    ("http://public.example:80@127.0.0.1:PORT/", BAD),
    ("http://public.example%40127.0.0.1:PORT/", BAD),
    ("http://public.example\\@127.0.0.1:PORT/", BAD),
    ("http://127.0.0.1:PORT\\@public.example/", BAD),
    ("http://127.0.0.1\\.public.example:PORT/", BAD),
    ("http:\\\\127.0.0.1:PORT\\", BAD),
    ("http://public.example&@127.0.0.1:PORT#@public.example/", BAD),
    # Hosts that are none.
    ("http://127.0.0.1%2e:PORT/", BAD),
    ("http://%31%32%37.0.0.1:PORT/", BAD),
    ("http://127.0.0.1%00.public.example:PORT/", BAD),
    ("http://127.0.0.1 .public.example:PORT/", BAD),
    ("http://127..0.0.1:PORT/", BAD),
    ("http:///127.0.0.1:PORT/", BAD),
    ("http:/127.0.0.1:PORT/", BAD),
    ("http:127.0.0.1:PORT", BAD),
    ("http://:PORT/", BAD),
    ("http://", BAD),
    ("//127.0.0.1:PORT/", BAD),
    ("127.0.0.1:PORT/", BAD),
    ("", BAD),
    # Line breaks and control characters.
    ("http://127.0.0.1:PORT/\r\nHost: public.example", BAD),
    ("http://127.0.0.1\r\n:PORT/", BAD),
    ("http://127.0.0.1\t:PORT/", BAD),
    ("http://127.0.0.1\0.public.example:PORT/", BAD),
    ("http://127.0.0.1:PORT/%0d%0aHost:%20public.example", FORBIDDEN),
    (" http://127.0.0.1:PORT/", BAD),
    ("http://127.0.0.1:PORT/\ud800", BAD),
    # Other schemes.
    ("file:///etc/passwd", BAD),
    ("ftp://127.0.0.1:PORT/", BAD),
    ("gopher://127.0.0.1:PORT/_GET", BAD),
    ("dict://127.0.0.1:PORT/", BAD),
    ("unix:///run/docker.sock", BAD),
    ("http+unix://%2Frun%2Fdocker.sock/", BAD),
    ("data:audio/wav;base64,UklGRg==", BAD),
    ("jar:http://127.0.0.1:PORT!/", BAD),
    ("ws://127.0.0.1:PORT/", BAD),
    ("url:http://127.0.0.1:PORT/", BAD),
    # Ports.
    ("http://public.example:22/", FORBIDDEN),
    ("http://public.example:6379/", FORBIDDEN),
    ("http://public.example:8443/", FORBIDDEN),
    ("http://public.example:0/", BAD),
    ("http://public.example:65616/", BAD),  # 80, counted modulo 65536
    ("http://public.example:99999999999/", BAD),
    ("http://public.example:-80/", BAD),
    ("http://public.example:80x/", BAD),
    ("http://public.example:" + "9" * 5000 + "/", BAD),
    ("http://public.example/" + "a" * 9000, BAD),
    ("http://public.example/" + "a" * 99000, BAD),
]
REACH_THE_CANARY = [
    url.split(":PORT")[0] + ":PORT/"
    for url, kind in TRICKS
    if kind is FORBIDDEN
    and ":PORT" in url
    and url.startswith(("http://127", "http://2130", "http://0", "http://[::1]"))
]


class Canary:
    """Listens on both loopback addresses, and counts who comes."""

    def __init__(self) -> None:
        self.visits = 0
        self.sockets = []

    def __enter__(self):
        self.sockets.append(socket.create_server(("127.0.0.1", 0)))
        self.port = self.sockets[0].getsockname()[1]
        if socket.has_ipv6:
            with contextlib.suppress(OSError):  # a machine without IPv6
                self.sockets.append(socket.create_server(("::1", self.port), family=socket.AF_INET6))
        for listening in self.sockets:
            listening.settimeout(0)
        return self

    def count(self):
        """Connections so far; the kernel has accepted them, whether or not anybody has looked."""
        for listening in self.sockets:
            while True:
                try:
                    listening.accept()[0].close()
                except BlockingIOError:
                    break
                self.visits += 1
        return self.visits

    def __exit__(self, *_):
        for listening in self.sockets:
            listening.close()


def test_there_are_enough_tricks():
    assert len(TRICKS) == len(set(TRICKS)) >= 60


def test_tricks_reach_nothing():
    async def main():
        wire = Wire()
        with Canary() as canary:
            async with fetcher_for(
                "files.internal", "127.0.0.9:9000", wire=wire, ports=[80, 443, canary.port]
            ) as fetcher:
                for trick, kind in TRICKS:
                    url = trick.replace("PORT", str(canary.port))
                    with pytest.raises((BadUrl, ForbiddenUrl)) as caught:
                        await body_of(fetcher, url)
                    assert caught.type is kind, trick
                    assert caught.value.param == "url"
                    # What a stranger reads is one of a few sentences that say nothing of what was found.
                    assert "127." not in caught.value.message, trick
                    assert not wire.dialled, trick
                    # Other outgoing requests go the same way.
                    with pytest.raises((BadUrl, ForbiddenUrl, httpx2.InvalidURL, ValueError)):
                        await fetcher.client.post(url, content=b"x")
                    assert not wire.dialled, trick
            assert canary.count() == 0

    asyncio.run(main())


def test_without_the_rules_the_tricks_would_reach_the_canary():
    """The counterpart: what is refused above is no harmless nonsense."""

    async def main():
        with Canary() as canary:
            async with fetcher_for(ports=[canary.port], retries=0, idle_timeout_s=0.05) as fetcher:
                fetcher._guard._destinations.permit = lambda host, port, address: True
                fetcher._guard._network = httpcore2.AnyIOBackend()
                for trick in REACH_THE_CANARY:
                    with pytest.raises((FetchFailed, FetchTimeout, ForbiddenUrl)):
                        await body_of(fetcher, trick.replace("PORT", str(canary.port)))
            return canary.count()

    assert len(REACH_THE_CANARY) >= 15
    assert asyncio.run(main()) >= 12


def test_refusals_do_not_tell_what_is_inside():
    """A name that does not exist, one that leads inside and an address are answered with the same words."""

    async def text(url):
        async with fetcher_for("files.internal:9000") as fetcher:
            with pytest.raises(ForbiddenUrl) as caught:
                await body_of(fetcher, url)
            return caught.value.message

    hosts = ["unknown.example", "inside.example", "10.0.0.5", "mixed.example", "169.254.169.254", "none.example"]
    assert len({asyncio.run(text(f"http://{host}/")) for host in hosts}) == 1
    texts = {asyncio.run(text(f"http://{host}:9000/")) for host in [*hosts, "public.example"]}
    assert len(texts) == 1
    assert "80, 443" in texts.pop()


def test_a_slow_name_server_is_answered_like_an_unknown_name():
    release = threading.Event()

    async def main():
        async with fetcher_for(lookup=lambda host: release.wait(5) and [], connect_timeout_s=0.05) as fetcher:
            try:
                with pytest.raises(ForbiddenUrl, match="unknown or not public"):
                    await body_of(fetcher, "http://slow.example/")
            finally:
                release.set()

    asyncio.run(main())


def test_a_name_that_changes_its_answer_is_judged_by_the_one_that_is_dialled():
    answers = [[PUBLIC], ["127.0.0.1"], [PUBLIC], ["10.0.0.5"]]
    asked = []

    def changing(host):
        asked.append(host)
        return answers[len(asked) - 1]

    async def main():
        # The first server is reached, and sends us back to its own name, which now leads elsewhere.
        pages = {"/a": ok(WAV, "Connection: close"), "/again": redirect("/a")}
        async with Server(pages).running() as server:
            wire = Wire(server.port)
            with Canary() as canary:
                async with fetcher_for(wire=wire, lookup=changing, ports=[80, canary.port]) as fetcher:
                    assert await body_of(fetcher, "http://rebind.example/a") == WAV
                    assert (asked, wire.dialled) == (["rebind.example"], [PUBLIC])
                    with pytest.raises(ForbiddenUrl):
                        await body_of(fetcher, f"http://rebind.example:{canary.port}/a")
                    with pytest.raises(ForbiddenUrl):
                        await body_of(fetcher, "http://rebind.example/again")
                assert canary.count() == 0
            assert wire.dialled == [PUBLIC, PUBLIC]

    asyncio.run(main())


@pytest.mark.parametrize(
    ("target", "kind"),
    [
        ("http://127.0.0.1:PORT/", ForbiddenUrl),
        ("http://2130706433:PORT/", ForbiddenUrl),
        ("//[::1]:PORT/", ForbiddenUrl),
        ("http://loop.example:PORT/", ForbiddenUrl),
        ("http://169.254.169.254/latest/meta-data/", ForbiddenUrl),
        ("http://mixed.example:PORT/", ForbiddenUrl),
        ("http://public.example:22/", ForbiddenUrl),
        ("http://user:password@127.0.0.1:PORT/", BadUrl),
        ("file:///etc/passwd", BadUrl),
        ("gopher://127.0.0.1:PORT/", BadUrl),
        ("http://[fe80::1%25eth0]:PORT/", BadUrl),
        ("http://[::1:PORT/", FetchFailed),
        ("http://xn--a-\x80:PORT/", FetchFailed),
        ("http://xn--.]:PORT/", FetchFailed),
        ("http://xn--a.-b:PORT/", FetchFailed),
        ("http://127.0.0.1%2e:PORT/", BadUrl),
        ("/one-more", ForbiddenUrl),
    ],
)
@pytest.mark.parametrize("status", ["301 Moved", "302 Found", "303 See Other", "307 Temporary", "308 Permanent"])
def test_redirects_of_an_allowed_host_lead_no_further_than_a_url(target, kind, status):
    async def main():
        pages = {}
        async with Server(pages).running() as server:
            with Canary() as canary:
                pages["/start"] = redirect(target.replace("PORT", str(canary.port)), status)
                pages["/one-more"] = redirect(f"http://localhost:{canary.port}/", status)
                ports = [80, canary.port]
                async with fetcher_for(f"127.0.0.1:{server.port}", ports=ports) as fetcher:
                    with pytest.raises(kind):
                        await body_of(fetcher, f"http://127.0.0.1:{server.port}/start")
                assert canary.count() == 0

    asyncio.run(main())


def test_retries_are_judged_anew():
    answers = [[PUBLIC], ["127.0.0.1"]]

    async def main():
        async with Server({"/a": ok(b"", status="503 Busy")}).running() as server:
            wire = Wire(server.port)
            async with fetcher_for(wire=wire, lookup=lambda host: answers.pop(0)) as fetcher:
                with pytest.raises(ForbiddenUrl):
                    await body_of(fetcher, "http://rebind.example/a")
            assert wire.dialled == [PUBLIC]

    asyncio.run(main())


def test_urls_can_be_read_without_asking_anybody():
    url = guard.read_url("https://Bücher.example:443/ein%20Buch?x=1#y")
    assert str(url) == "https://xn--bcher-kva.example/ein%20Buch?x=1#y"
    assert guard.read_url("http://127.0.0.1/").host == "127.0.0.1"  # judged when it is dialled
    for trick, kind in TRICKS:
        if kind is BAD:
            with pytest.raises(BadUrl):
                guard.read_url(trick.replace("PORT", "80"))


def test_local_sockets_are_refused():
    async def main():
        async with fetcher_for() as fetcher:
            with pytest.raises(ForbiddenUrl):
                await fetcher._guard.connect_unix_socket("/run/docker.sock")

    asyncio.run(main())


def test_nothing_comes_from_the_environment(monkeypatch):
    async def main():
        with Canary() as canary:
            for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
                monkeypatch.setenv(name, f"http://127.0.0.1:{canary.port}")
            pages = {"/a": ok(WAV, "Set-Cookie: who=me; Path=/")}
            async with Server(pages).running() as server, fetcher_for(f"127.0.0.1:{server.port}") as fetcher:
                for _ in range(2):
                    assert await body_of(fetcher, f"http://127.0.0.1:{server.port}/a") == WAV
                response = await fetcher.client.post(f"http://127.0.0.1:{server.port}/a", json={})
                assert response.content == WAV
                assert not any("cookie" in request.lower() for request in server.requests)
                assert "accept-encoding: identity" in server.requests[0].lower()
            assert canary.count() == 0

    asyncio.run(main())


def test_the_other_client_follows_no_redirects():
    async def main():
        pages = {"/hook": redirect("/a"), "/a": ok()}
        async with Server(pages).running() as server, fetcher_for(f"127.0.0.1:{server.port}") as fetcher:
            response = await fetcher.client.post(f"http://127.0.0.1:{server.port}/hook", json={})
            assert (response.status_code, server.paths) == (302, ["/hook"])

    asyncio.run(main())


def test_it_can_be_switched_off():
    refused(ForbiddenUrl, {"/a": ok()}, enabled=False)


# What must arrive.


@pytest.mark.parametrize(
    "page",
    [
        ok(),
        ok(WAV, "Content-Type: text/plain"),
        ok(WAV, "Content-Type: text/html; charset=utf-8"),
        ok(WAV, "Content-Type: application/octet-stream", "Accept-Ranges: none"),
        ok(version="1.0"),
        b"HTTP/1.0 200 OK\r\n\r\n" + WAV,
        b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n" + WAV,
        b"HTTP/1.1 203 Fine\r\n\r\n" + WAV,
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
        + b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in (WAV[:1], WAV[1:700], WAV[700:]))
        + b"0\r\n\r\n",
        ok(gzip.compress(WAV), "Content-Encoding: gzip"),
        [ok()[:80], 0.02, ok()[80:300], 0.02, ok()[300:]],
    ],
)
def test_plain_servers_of_every_kind_are_understood(page):
    body, server = run({"/a": page})
    assert body == WAV
    assert server.requests[0].startswith("GET /a HTTP/1.1\r\n")


def test_a_plain_file_server_beside_the_service_works(tmp_path):
    """`python -m http.server`: HTTP/1.0, types by file name, no ranges."""
    (tmp_path / "a folder").mkdir()
    (tmp_path / "a folder" / "会议.txt").write_bytes(WAV)
    Quiet = type("Quiet", (http.server.SimpleHTTPRequestHandler,), {"log_message": lambda *_: None})  # noqa: N806  a class
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=tmp_path)) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        port = server.server_port

        async def main():
            async with fetcher_for(f"files.internal:{port}") as fetcher:
                assert await body_of(fetcher, f"http://files.internal:{port}/a folder/会议.txt") == WAV
                assert await body_of(fetcher, f"http://FILES.internal.:{port}/a%20folder/会议.txt?x=1#y") == WAV
                with pytest.raises(FetchFailed, match="404"):
                    await body_of(fetcher, f"http://files.internal:{port}/missing.wav")
                with pytest.raises(NotAudio, match="a web page"):
                    await body_of(fetcher, f"http://files.internal:{port}/")
                with pytest.raises(ForbiddenUrl):  # the name is allowed, not the address
                    await body_of(fetcher, f"http://127.0.0.1:{port}/a%20folder/会议.txt")

        NAMES["files.internal."] = ["127.0.0.1"]
        try:
            asyncio.run(main())
        finally:
            del NAMES["files.internal."]
            server.shutdown()
            thread.join()


@pytest.mark.parametrize(
    "name", sorted(path.name for path in RECORDINGS.iterdir() if path.suffix not in {".md", ".tsv"})
)
def test_recordings_are_not_taken_for_text(name):
    data = (RECORDINGS / name).read_bytes()
    assert run({"/a": ok(data, "Content-Type: text/html")})[0] == data


def test_the_file_is_at_its_start_and_gone_afterwards(tmp_path):
    async def main():
        async with Server({"/a": ok()}).running() as server, fetcher_for(f"127.0.0.1:{server.port}") as fetcher:
            async with fetcher.recording(f"http://127.0.0.1:{server.port}/a") as recording:
                assert recording.tell() == 0
                assert not list(tmp_path.iterdir())  # no name, even now
            assert recording.closed

    asyncio.run(main())


def test_errors_in_the_block_are_the_callers_own():
    async def main(error):
        async with (
            Server({"/a": ok()}).running() as server,
            fetcher_for(f"127.0.0.1:{server.port}") as fetcher,
            fetcher.recording(f"http://127.0.0.1:{server.port}/a"),
        ):
            raise error

    for error in (TimeoutError("mine"), OSError(5, "mine"), ValueError("mine")):
        with pytest.raises(type(error), match="mine"):
            asyncio.run(main(error))


def test_progress_is_told():
    seen = []
    run({"/a": [ok()[:2000], 0.02, ok()[2000:]]}, progress=lambda *news: seen.append(news))
    assert seen[-1] == (len(WAV), len(WAV))
    assert len(seen) >= 2
    seen.clear()
    run({"/a": b"HTTP/1.0 200 OK\r\n\r\n" + WAV}, progress=lambda *news: seen.append(news))
    assert seen[-1] == (len(WAV), None)


def test_redirects_within_a_host_are_followed_three_times():
    pages = {
        "/0": redirect("/1"),
        "/1": redirect("2", "307 Temporary"),
        "/2": redirect("./a?x=1", "301 Moved"),
        "/a?x=1": ok(),
    }
    body, server = run(pages, "/0")
    assert body == WAV
    assert server.paths == ["/0", "/1", "/2", "/a?x=1"]
    assert "2 times" in refused(FetchFailed, pages, "/0", redirects=2)
    assert "0 times" in refused(FetchFailed, pages, "/0", redirects=0)
    assert "3 times" in refused(FetchFailed, {"/a": redirect("/a")})


# What is no recording, or too much of it.


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (b"<!DOCTYPE html><html><body>Please log in</body></html>", "a web page"),
        (b"\xef\xbb\xbf\n\n  <html>" + b"x" * 5000, "a web page"),
        ("<html><title>登录</title>".encode("gbk") * 40, "a web page"),
        (b'<?xml version="1.0"?><Error><Code>AccessDenied</Code></Error>', "XML"),
        (b'{"error": "expired"}', "JSON"),
        (b"[1]", "JSON"),
        (b"Not found", "text"),
        (b"#EXTM3U\nhttp://127.0.0.1/inner.ts\n", "text"),
    ],
)
@pytest.mark.parametrize("form", [b"audio/wav", b"text/html"])
def test_error_pages_that_say_200_are_found_out(body, kind, form):
    page = b"HTTP/1.0 200 OK\r\nContent-Type: " + form + b"\r\n\r\n" + body
    assert kind in refused(NotAudio, {"/a": page})


def test_a_page_is_refused_before_it_is_whole():
    page = [b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n<html>" + b" " * 600, 30.0]
    refused(NotAudio, {"/a": page})


@pytest.mark.parametrize(
    ("status", "words"),
    [
        ("401 No", "login"),
        ("403 No", "expired"),
        ("404 No", "Check the path"),
        ("410 No", "no longer"),
        ("429 No", "fewer requests"),
        ("500 No", "Try again later"),
        ("418 No", "gives no recording"),
        ("206 Part", "gives no recording"),
        ("304 Same", "gives no recording"),
    ],
)
def test_statuses_are_explained(status, words):
    message = refused(FetchFailed, {"/a": ok(b"secret inner text", status=status)})
    assert words in message
    assert f"({status[:3]})" in message
    assert "secret" not in message


def test_an_empty_body_is_said_to_be_empty():
    refused(EmptyAudio, {"/a": ok(b"")})
    refused(EmptyAudio, {"/a": b"HTTP/1.0 200 OK\r\n\r\n"})


@pytest.mark.parametrize(
    "page",
    [
        [b"HTTP/1.1 200 OK\r\nContent-Length: 1048577\r\n\r\n", 30.0],  # believed at once, before any byte
        [b"HTTP/1.0 200 OK\r\n\r\n" + bytes(MIB), bytes(MIB), 30.0],
        [b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"180000\r\n" + bytes(0x180000), 30.0],
        ok(gzip.compress(bytes(64 * MIB)), "Content-Encoding: gzip"),  # 64 KiB on the wire
    ],
)
def test_too_much_is_refused_while_it_comes(page):
    assert "1 MiB" in refused(TooLarge, {"/a": page}, max_mib=1)


def test_just_enough_is_taken():
    assert len(run({"/a": ok(bytes(MIB))}, max_mib=1)[0]) == MIB


@pytest.mark.parametrize("encoding", ["br", "zstd", "gzip, gzip", "compress"])
def test_other_compressions_are_refused(encoding):
    assert "compressed" in refused(FetchFailed, {"/a": ok(WAV, f"Content-Encoding: {encoding}")})


def test_a_full_disk_is_said(monkeypatch):
    async def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(fetch.asyncio, "to_thread", full)
    with pytest.raises(StorageFull):
        run({"/a": ok()})


# Servers that stall or break.


def test_silence_is_ended_by_the_idle_timeout():
    assert "stopped sending" in refused(FetchTimeout, {"/a": [ok()[:500], 30.0]}, idle_timeout_s=0.1)
    assert "does not answer" in refused(FetchTimeout, {"/a": [30.0]}, idle_timeout_s=0.1)


def test_a_dribble_is_ended_by_the_deadline():
    head = b"HTTP/1.1 200 OK\r\nContent-Length: 999\r\n\r\n"
    assert "0.3 s" in refused(FetchTimeout, {"/a": [head, *[b"\0", 0.02] * 100]}, timeout_s=0.3, idle_timeout_s=5)
    assert "0.3 s" in refused(FetchTimeout, {"/a": [b"H", *[b"", 0.02] * 100]}, timeout_s=0.3, idle_timeout_s=5)
    pages = {"/a": ok(b"", status="503 Busy")}
    assert "0.3 s" in refused(FetchTimeout, pages, timeout_s=0.3, retries=10)


@pytest.mark.parametrize("status", ["502 Bad Gateway", "503 Busy", "504 Late"])
def test_what_may_pass_is_tried_again(status):
    busy = [ok(b"not now", status=status)]
    body, server = run({"/a": [busy, busy, [ok()]]})
    assert (body, len(server.requests)) == (WAV, 3)
    assert status[:3] in refused(FetchFailed, {"/a": [busy, busy, [ok()]]}, retries=1)


def test_what_will_not_pass_is_not_tried_again():
    async def main(page):
        async with Server({"/a": page}).running() as server, fetcher_for(f"127.0.0.1:{server.port}") as fetcher:
            with pytest.raises((FetchFailed, NotAudio, EmptyAudio)):
                await body_of(fetcher, f"http://127.0.0.1:{server.port}/a")
            assert len(server.requests) == 1

    for page in (ok(b"", status="404 No"), ok(b"", status="500 No"), ok(b"<html>"), ok(b"")):
        asyncio.run(main(page))


@pytest.mark.parametrize(
    "cut",
    [
        [ok()[:2000]],
        [b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nRI"],
        [b"HTTP/1.1 200 OK\r\nContent-Le"],
        [b""],
        [b"SSH-2.0-OpenSSH_9.2\r\n"],
        [b"HTTP/1.1 200 OK\r\nContent-Length: many\r\n\r\n"],
        [ok(b"not gzip at all", "Content-Encoding: gzip")],
    ],
)
def test_a_broken_answer_is_fetched_again_whole(cut):
    body, server = run({"/a": [cut, [ok()]]})
    assert (body, len(server.requests)) == (WAV, 2)
    assert "2 tries" in refused(FetchFailed, {"/a": cut}, retries=1)


def test_a_refused_connection_is_tried_again():
    async def main():
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = taken.getsockname()[1]
        wire = Wire()
        async with fetcher_for(f"127.0.0.1:{port}", wire=wire) as fetcher:
            with pytest.raises(FetchFailed, match=r"cannot be reached \(3 tries\)"):
                await body_of(fetcher, f"http://127.0.0.1:{port}/")
            assert len(wire.dialled) == 3

    asyncio.run(main())


def test_the_rest_is_asked_for_where_the_server_knows_the_version():
    whole = bytes(range(256)) * 64
    headers = ("Accept-Ranges: bytes", 'ETag: "v1"')
    rest = ok(whole[5000:], "Content-Range: bytes 5000-16383/16384", status="206 Partial")
    cut = [ok(whole, *headers)[: -len(whole) + 5000]]

    body, server = run({"/a": [cut, [rest]]})
    assert body == whole
    assert "range: bytes=5000-" in server.requests[1].lower()
    assert 'if-range: "v1"' in server.requests[1].lower()

    # The file has changed: from the start.
    assert run({"/a": [cut, [ok()]]})[0] == WAV
    # Another part than asked for, or none: from the start.
    wrong = ok(whole[4000:], "Content-Range: bytes 4000-16383/16384", status="206 Partial")
    short = ok(whole[5000:6000], "Content-Range: bytes 5000-5999/16384", status="206 Partial")
    packed = gzip.compress(whole[5000:])
    packed = ok(packed, "Content-Range: bytes 5000-16383/16384", "Content-Encoding: gzip", status="206 Partial")
    for odd in (wrong, short, packed, ok(b"", status="416 No")):
        body, server = run({"/a": [cut, [odd], [ok(whole)]]})
        assert body == whole
        assert "range:" not in server.requests[2].lower()
    # A page whose head came in two parts is a page still.
    page = b"<html>" + b" " * 1000
    cut = [ok(page, *headers)[: -len(page) + 100]]
    more = ok(page[100:], "Content-Range: bytes 100-1005/1006", status="206 Partial")
    refused(NotAudio, {"/a": [cut, [more]]})
    # What is sent anew is looked at anew.
    refused(NotAudio, {"/a": [[ok(whole, *headers)[: -len(whole) + 600]], [ok(b"<html>" * 100)]]})
    # Weak versions, or no ranges: from the start.
    for fewer in (("Accept-Ranges: bytes", 'ETag: W/"v1"'), ('ETag: "v1"',)):
        body, server = run({"/a": [[ok(whole, *fewer)[: -len(whole) + 5000]], [ok(whole)]]})
        assert body == whole
        assert "range:" not in server.requests[1].lower()


def test_the_rest_counts_towards_the_limit():
    headers = ("Accept-Ranges: bytes", 'ETag: "v1"')
    cut = [ok(bytes(MIB), *headers)[:-1000]]
    more = ok(bytes(2000), f"Content-Range: bytes {MIB - 1000}-{MIB - 1}/{MIB}", status="206 Partial")
    refused(TooLarge, {"/a": [cut, [more]]}, max_mib=1)


def test_no_connection_is_left_open_by_what_was_refused():
    pages = {
        "/long": [b"HTTP/1.1 200 OK\r\nContent-Length: 9999999\r\n\r\n", 30.0],
        "/page": [b"HTTP/1.1 200 OK\r\nContent-Length: 99999\r\n\r\n<html>" + b" " * 600, 30.0],
        "/missing": [b"HTTP/1.1 404 No\r\nContent-Length: 99999\r\n\r\n", 30.0],
        "/away": [b"HTTP/1.1 302 Found\r\nLocation: file:///x\r\nContent-Length: 99999\r\n\r\n", 30.0],
        "/stall": [b"HTTP/1.1 200 OK\r\nContent-Length: 99999\r\n\r\n", 30.0],
    }

    async def main():
        async with Server(pages).running() as server:
            options = {"max_mib": 1, "idle_timeout_s": 0.1}
            async with fetcher_for(f"127.0.0.1:{server.port}", **options) as fetcher:
                for path in pages:
                    with pytest.raises(TingdaoError):
                        await body_of(fetcher, f"http://127.0.0.1:{server.port}{path}")
                    assert fetcher.client._transport._pool.connections == [], path
                assert len(server.requests) == len(pages)

    asyncio.run(main())


def test_leaving_ends_the_fetch():
    async def main():
        arrived = asyncio.Event()
        pages = {"/a": [ok()[:500], 30.0]}
        async with Server(pages).running() as server, fetcher_for(f"127.0.0.1:{server.port}") as fetcher:
            url = f"http://127.0.0.1:{server.port}/a"
            task = asyncio.create_task(body_of(fetcher, url, lambda *_: arrived.set()))
            await arrived.wait()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

    asyncio.run(main())


def test_addresses_of_a_host_are_tried_in_turn():
    async def main():
        async with Server({"/a": ok()}).running() as server:
            wire = Wire()
            addresses = ["127.0.0.8", "127.0.0.1", "127.0.0.1"]
            async with fetcher_for(
                f"files.internal:{server.port}", wire=wire, lookup=lambda host: addresses
            ) as fetcher:
                assert await body_of(fetcher, f"http://files.internal:{server.port}/a") == WAV
            assert wire.dialled == ["127.0.0.8", "127.0.0.1"]

    asyncio.run(main())


def test_an_allowed_name_that_does_not_resolve_is_said_to_be_out_of_reach():
    async def main():
        def unknown(host):
            raise socket.gaierror(-2, "Name or service not known")

        async with fetcher_for("files.internal", lookup=unknown) as fetcher:
            with pytest.raises(FetchFailed, match="cannot be reached"):
                await body_of(fetcher, "http://files.internal/a")

    asyncio.run(main())


# TLS.


@pytest.fixture
def tls(monkeypatch):
    """A server's side of TLS, for files.internal, by an authority that the environment adds."""
    monkeypatch.setenv("SSL_CERT_FILE", str(CERTIFICATE))
    monkeypatch.setattr(guard.httpx2, "create_ssl_context", CREATE_SSL_CONTEXT)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(CERTIFICATE)
    asked = []
    context.sni_callback = lambda _socket, name, _context: asked.append(name)
    return context, asked


def test_tls_is_about_the_name_though_the_address_is_dialled(tls):
    context, asked = tls

    async def main():
        pages = {"/a": ok(), "/down": redirect("http://files.internal/a")}
        async with Server(pages).running(tls=context) as server:
            wire = Wire()
            allow = [f"files.internal:{server.port}", f"other.internal:{server.port}", "files.internal:80"]
            async with fetcher_for(*allow, wire=wire) as fetcher:
                assert await body_of(fetcher, f"https://files.internal:{server.port}/a") == WAV
                assert (asked, wire.dialled) == (["files.internal"], ["127.0.0.1"])
                async with Server({"/up": redirect(f"https://files.internal:{server.port}/a")}).running() as plain:
                    wire.public = plain.port
                    assert await body_of(fetcher, "http://public.example/up") == WAV
                with pytest.raises(FetchFailed, match="from https to http"):
                    await body_of(fetcher, f"https://files.internal:{server.port}/down")
                wire.dialled.clear()
                with pytest.raises(FetchFailed, match="certificate"):
                    await body_of(fetcher, f"https://other.internal:{server.port}/a")
                assert asked[-1] == "other.internal"
                assert wire.dialled == ["127.0.0.1"]  # no second try

    asyncio.run(main())
