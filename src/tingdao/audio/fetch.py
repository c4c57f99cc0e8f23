"""Recordings given as a URL, fetched into unnamed temporary files.

    recording(url) ─► try ─► redirects ─► status ─► first bytes ─► body, counted ─► file
                       ▲  broke off, 502 to 504, no connection: a pause, and the rest by Range where the server
                       └─ says which version of the file it sends

The guard (`audio.guard`) decides what may be reached. This module decides what is taken for a recording and how much of
it: Content-Length can refuse early and is never believed, Content-Type is not looked at (plain file servers send
text/plain or nothing), and what is text from the first byte is an error page, whatever the status says.
A redirect from https to http is refused: the rest would travel where anybody can read and change it.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import random
import re
import ssl
import tempfile
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from http.cookiejar import CookieJar, DefaultCookiePolicy
from typing import BinaryIO, Final

import httpx2

import tingdao
from tingdao.audio.guard import Guard, GuardedTransport, Lookup, read_url, system_lookup
from tingdao.audio.job import full_disk_refused
from tingdao.destinations import Destinations
from tingdao.errors import (
    EmptyAudio,
    FetchFailed,
    FetchTimeout,
    ForbiddenUrl,
    NotAudio,
    TooLarge,
)
from tingdao.settings import MIB, FetchSettings

log = logging.getLogger(__name__)

Progress = Callable[[int, int | None], None]
"""Called with the bytes that have arrived, and the whole number where the server tells it."""

HEAD: Final = 512
"""Bytes that tell a recording from text."""
PAUSE: Final = 0.5
"""Seconds before the second try, doubled for each one after."""
BINARY = re.compile(rb"[\0-\x08\x0b\x0e-\x1a\x1c-\x1f]")
"""What never occurs in text, and in the head of every recording (https://mimesniff.spec.whatwg.org/#binary-data-byte)."""
KINDS: Final = {b"<": "a web page or XML", b"{": "JSON", b"[": "JSON"}
ENCODINGS: Final = {"", "identity", "gzip", "x-gzip", "deflate"}
REFUSALS: Final = {
    401: "asks for a login. Give a URL that works without one, such as a signed link",
    403: "does not show it to us. If it is a signed link, it may have expired",
    404: "has nothing there. Check the path",
    410: "has it no longer",
    429: "asks for fewer requests. Try again later",
}
PASSING: Final = {502, 503, 504}
"""Statuses that another try may cure."""


class Fetcher:
    """Everything that goes out, behind one guard; one per service.

    client: for other outgoing requests, such as webhooks, to what `guard.read_url` returns. It follows no redirects,
    keeps no cookies and takes nothing from the environment. Beside httpx2's errors it raises BadUrl and ForbiddenUrl.
    """

    def __init__(self, settings: FetchSettings, lookup: Lookup = system_lookup) -> None:
        self._settings = settings
        self._guard = Guard(Destinations(settings.allow, settings.ports), lookup)
        self.client = httpx2.AsyncClient(
            transport=GuardedTransport(self._guard),
            trust_env=False,
            timeout=httpx2.Timeout(settings.idle_timeout_s, connect=settings.connect_timeout_s),
            # Compression saves nothing on recordings, and can blow up.
            headers={"User-Agent": f"tingdao/{tingdao.__version__}", "Accept-Encoding": "identity"},
            # One caller's cookies are not another's.
            cookies=CookieJar(DefaultCookiePolicy(allowed_domains=())),
        )

    @asynccontextmanager
    async def recording(self, url: str, progress: Progress | None = None) -> AsyncIterator[BinaryIO]:
        """Fetch a recording: an open file at its start, which is gone after the block.

        Raises BadUrl, ForbiddenUrl, FetchFailed, FetchTimeout, NotAudio, EmptyAudio, TooLarge, StorageFull.
        """
        if not self._settings.enabled:
            raise ForbiddenUrl("This service fetches no URLs. Upload the recording instead.", param="url")
        try:
            with full_disk_refused(), tempfile.TemporaryFile() as body:
                async with asyncio.timeout(self._settings.timeout_s) as deadline:
                    await _Download(self.client, self._settings, body, progress).fetch(read_url(url))
                    body.seek(0)
                yield body
        except TimeoutError:
            if not deadline.expired():
                raise
            raise FetchTimeout(
                f"The URL's server did not deliver the recording within {self._settings.timeout_s:g} s.", param="url"
            ) from None

    async def close(self) -> None:
        """Close the connections."""
        await self.client.aclose()
        self._guard.close()


class _Passing(FetchFailed):
    """A failure that another try may cure."""


class _Download:
    """One recording on its way, over as many tries as it takes."""

    def __init__(
        self, client: httpx2.AsyncClient, settings: FetchSettings, body: BinaryIO, progress: Progress | None
    ) -> None:
        self._client = client
        self._settings = settings
        self._body = body
        self._progress = progress
        self._received = 0
        self._head = b""
        self._total: int | None = None
        self._version: str | None = None  # of the file, where the server can send the rest of it

    async def fetch(self, url: httpx2.URL) -> None:
        """Fill the body."""
        for attempt in itertools.count():
            try:
                await self._try(url)
                break
            except _Passing as failure:
                if attempt == self._settings.retries:
                    raise
                log.info(
                    "fetching a recording broke and goes on",
                    extra={
                        "host": url.raw_host.decode(),
                        "received": self._received,
                        "cause": repr(failure.__cause__ or failure),
                    },
                )
            await asyncio.sleep(PAUSE * 2**attempt * random.uniform(0.5, 1))  # noqa: S311  no secret

    async def _try(self, url: httpx2.URL) -> None:
        headers = {"Range": f"bytes={self._received}-", "If-Range": self._version} if self._version else {}
        try:
            response = await self._answer(self._client.build_request("GET", url, headers=headers))
            try:
                self._begin(response)
                await self._receive(response)
            finally:
                await response.aclose()
        except httpx2.TimeoutException as error:
            raise FetchTimeout("The URL's server does not answer, or has stopped sending.", param="url") from error
        except (httpx2.TransportError, httpx2.DecodingError) as error:
            if _is_certificate(error):
                raise FetchFailed("The certificate of the URL's server is not valid.", param="url") from error
            what = "cannot be reached" if isinstance(error, httpx2.ConnectError) else "breaks off its answer"
            raise _Passing(f"The URL's server {what} ({self._settings.retries + 1} tries).", param="url") from error

    async def _answer(self, request: httpx2.Request) -> httpx2.Response:
        """The answer at the end of all redirects, its body not yet read."""
        for _ in range(self._settings.redirects + 1):
            try:
                response = await self._client.send(request, stream=True)
            except UnicodeError:  # a redirect to a name in Punycode that cannot be decoded
                raise FetchFailed("The URL redirects to something that is not a URL.", param="url") from None
            if not response.has_redirect_location:
                return response
            await response.aclose()
            if response.next_request is None:
                raise FetchFailed("The URL redirects to something that is not a URL.", param="url")
            if request.url.scheme == "https" and response.next_request.url.scheme == "http":
                raise FetchFailed("The URL redirects from https to http, which is not followed.", param="url")
            request = response.next_request
        raise FetchFailed(f"The URL redirects more than {self._settings.redirects} times.", param="url")

    def _begin(self, response: httpx2.Response) -> None:
        """Refuse by status and headers what is no recording, and go to where in the body it begins or goes on."""
        status = response.status_code
        if self._version and status in {206, 416}:
            rest = f"bytes {self._received}-{(self._total or 0) - 1}/{self._total}"
            if response.headers.get("content-range") == rest and "content-encoding" not in response.headers:
                return
            self._version = None  # all of it, then
            raise _Passing("The URL's server does not send the rest of the recording.", param="url")
        if status in PASSING:
            raise _Passing(f"The URL's server is not ready ({status}). Try again later.", param="url")
        if status not in {200, 203}:
            said = REFUSALS.get(status, "fails at it. Try again later" if status >= 500 else "gives no recording")
            raise FetchFailed(f"The URL's server {said} ({status}).", param="url")
        encoding = response.headers.get("content-encoding", "").strip().lower()
        if encoding not in ENCODINGS:
            raise FetchFailed("The URL's server sends the recording compressed, without being asked.", param="url")
        plain = encoding in {"", "identity"}
        self._total = int(response.headers.get("content-length", 0)) or None if plain else None
        if self._total and self._total > self._settings.max_mib * MIB:
            raise self._too_large()
        etag = response.headers.get("etag", "")
        resumable = self._total and etag.startswith('"') and response.headers.get("accept-ranges") == "bytes"
        self._version = etag if resumable else None
        self._body.seek(0)
        self._body.truncate()
        self._received, self._head = 0, b""

    async def _receive(self, response: httpx2.Response) -> None:
        async for part in response.aiter_bytes():
            if self._received + len(part) > self._settings.max_mib * MIB:
                raise self._too_large()
            if len(self._head) < HEAD:
                self._head += part[: HEAD - len(self._head)]
                if len(self._head) == HEAD:
                    _refuse_text(self._head)
            # In a thread, because a full disk cache makes writers wait.
            await asyncio.to_thread(self._body.write, part)
            self._received += len(part)
            if self._progress:
                self._progress(self._received, self._total)
        if not self._received:
            raise EmptyAudio("The URL's server sent no bytes.", param="url")
        _refuse_text(self._head)

    def _too_large(self) -> TooLarge:
        return TooLarge(
            f"The recording at the URL is larger than the {self._settings.max_mib} MiB allowed.", param="url"
        )


def _refuse_text(head: bytes) -> None:
    if BINARY.search(head):
        return
    kind = KINDS.get(head.removeprefix(b"\xef\xbb\xbf").lstrip()[:1], "text")
    raise NotAudio(
        f"The URL leads to {kind}, not to a recording. Give the address that the file itself is downloaded from.",
        param="url",
    )


def _is_certificate(error: BaseException) -> bool:
    chain: BaseException | None = error
    while chain is not None and not isinstance(chain, ssl.SSLCertVerificationError):
        chain = chain.__cause__ or chain.__context__
    return chain is not None
