"""The vLLM servers of one model, looked after: found by name, tried, watched, and tried again.

    [vllm] upstreams ─ resolve, again and again ─► Address ─ identify, canary ─► up ─ sign of life each second, canary
                                                                                      when idle ─► down ─ back-off ─► …

A server is up when it recognises the canary recording, not when a port answers. Each address behind a DNS name is a
server of its own; one that the name no longer leads to gets no new calls.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager, suppress
from dataclasses import dataclass
from urllib.parse import urlsplit

from tingdao.engines import canary
from tingdao.engines.base import Ability, Ask
from tingdao.engines.qwen.answer import opening, parse
from tingdao.engines.qwen.dialogue import HOP, TOKENS_PER_SECOND, audio_tokens
from tingdao.engines.servers import Server
from tingdao.engines.vllm.client import Address
from tingdao.engines.vllm.prompt import Question
from tingdao.engines.vllm.upstreams import OVERHEAD, Upstream, Upstreams
from tingdao.engines.vllm.wire import Broken, Busy, Identity, Misfit, UpstreamError, Wire
from tingdao.settings import VllmSettings
from tingdao.types import SAMPLE_RATE

log = logging.getLogger(__name__)

TICK = 0.25
"""Seconds between two looks at everything."""
LIFE_SECONDS, LIFE_MISSES = 1.0, 2
"""How often a server must give a sign of life; and how many may be missing."""
LIFE_LIMIT = 1.5
"""How long it may take over one, in seconds."""
CANARY_TOKENS = 48
CLIP_LIMIT = 1200.0
"""Seconds that the model takes in one piece."""
SHORTEST_LIMIT = 10.0
"""Seconds of a clip that a server must take at least."""
FRAME_TOKENS = 64
"""Tokens of the prompt beside context and audio, with some to spare."""
SECOND_TOKENS = audio_tokens(SAMPLE_RATE // HOP) + TOKENS_PER_SECOND
"""Tokens of a second of audio and its answer."""

Lookup = Callable[[str, int], Awaitable[list[str]]]
"""Host name and port → IP addresses. Raises OSError."""


@dataclass(frozen=True, slots=True)
class Facts:
    """What was found out about a server. can: as `ModelCard.can`."""

    identity: Identity
    can: frozenset[Ability]


async def system_lookup(host: str, port: int) -> list[str]:
    """Addresses of a name, of one family only: the two of one machine must not count as two servers."""
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    families = {family for family, *_ in found}
    family = socket.AF_INET if socket.AF_INET in families else socket.AF_INET6
    return sorted({str(address[0]) for of, *_, address in found if of == family})


async def examine(wire: Wire, address: Address, settings: VllmSettings) -> tuple[Facts, float, float]:
    """Find out what a server is and whether it recognises. Raises UpstreamError.

    Returns what it can, and how long the canary took and was silent, in seconds.
    """
    async with _limit(settings.canary_timeout_s):
        identity = await wire.identify(address, settings.model)
        if room(identity.length, settings.context_tokens)[1] < SHORTEST_LIMIT:
            raise Misfit(f"It takes {identity.length} tokens at once: start it with a larger --max-model-len")
        took, silent = await sing(wire, address, identity.model)
        can: set[Ability] = {"stream", "context"}
        if await _obeys(wire, address, identity.model):
            can.add("force_language")
    return Facts(identity, frozenset(can)), took, silent


async def sing(wire: Wire, address: Address, model: str) -> tuple[float, float]:
    """Let a server recognise the canary: seconds in all, and of silence at most. Raises UpstreamError."""
    body = _song().body(model, "", CANARY_TOKENS)
    began = last = time.monotonic()
    said, silent = "", 0.0
    async with aclosing(wire.ask(address, body)) as answered:
        async for pieces in answered:
            silent, last = max(silent, time.monotonic() - last), time.monotonic()
            said += "".join(piece.text for piece in pieces)
            if any(piece.finish == "length" for piece in pieces):
                raise Broken("It finds no end on the canary recording: is its model Qwen3-ASR, and whole?")
    if not parse(said, Ask())[0]:
        raise Broken("It makes nothing of the canary recording: is its model Qwen3-ASR, and whole?")
    return last - began, silent


async def _obeys(wire: Wire, address: Address, model: str) -> bool:
    """Whether a language can be forced: words put into the model's mouth are not said again, or refused."""
    said = ""
    try:
        async with aclosing(
            wire.ask(address, _song().body(model, opening(canary.LANGUAGE), CANARY_TOKENS))
        ) as answered:
            async for pieces in answered:
                said += "".join(piece.text for piece in pieces)
    except (Misfit, Busy, Broken):
        raise
    except UpstreamError:
        return False
    return bool(said.strip()) and not said.lstrip().startswith("language")


def _song() -> Question:
    return Question.of(canary.recording(), encoding="wav")


def room(length: int | None, context_tokens: int) -> tuple[int, float]:
    """(tokens of context, seconds of a clip) at most, where prompt and answer have `length` tokens together."""
    if length is None:
        return context_tokens, CLIP_LIMIT
    context = min(context_tokens, length // 2)
    return context, min(CLIP_LIMIT, (length - context - FRAME_TOKENS) / SECOND_TOKENS)


@asynccontextmanager
async def _limit(seconds: float) -> AsyncIterator[None]:
    """A block that must be through in time. Raises Broken."""
    try:
        async with asyncio.timeout(seconds) as deadline:
            yield
    except TimeoutError:
        if not deadline.expired():
            raise
        raise Broken(f"It did not answer within {seconds:g} s") from None


class Fleet:
    """Looks after the servers of `upstreams`, and those that are added, until it is closed.

    facts: of the servers that were up at least once. on_change: called when they may have changed.
    """

    def __init__(
        self, settings: VllmSettings, wire: Wire, on_change: Callable[[], None], lookup: Lookup = system_lookup
    ) -> None:
        self.upstreams = Upstreams(settings.width)
        self.facts: dict[Upstream, Facts] = {}
        self._settings, self._wire, self._on_change, self._lookup = settings, wire, on_change, lookup
        self._addresses: dict[Upstream, Address] = {}
        self._urls = dict.fromkeys(settings.upstreams)
        self._renamed = asyncio.Event()
        self._missing: dict[str, str] = {}
        self._coming: set[str] = set()
        self._leaving: list[Upstream] = []
        self._tasks: dict[object, asyncio.Task[None]] = {}
        self._known = asyncio.Event()

    async def open(self) -> None:
        """Begin, and wait for a moment until a server is up or none can be for now."""
        self._tasks["resolve"] = asyncio.create_task(self._resolve())
        self._tasks["slow"] = asyncio.create_task(self._watch())
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(self._settings.connect_timeout_s + self._settings.canary_timeout_s):
                    await self._known.wait()
            if self._known.is_set() or not self._coming:
                return

    def add(self, url: str) -> None:
        """Look after the servers that a URL leads to as well."""
        self._urls[url] = None
        self._renamed.set()

    def remove(self, url: str) -> None:
        """Let go of the servers that a URL leads to; what is in work there goes on."""
        self._urls.pop(url, None)
        self._missing.pop(url, None)
        self._renamed.set()

    def expect(self, name: str, why: str | None, *, soon: bool = False) -> None:
        """A server that has no URL yet. why: in words; None when it has one now, or is no longer expected.

        soon: whether it is under way, so that `open` waits for it.
        """
        self._missing.pop(name, None)
        self._coming.discard(name)
        if why:
            self._missing[name] = why
        if why and soon:
            self._coming.add(name)
        self._settle()

    async def close(self) -> None:
        """Look after them no more; all calls are taken off."""
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for upstream in (*self.upstreams.all.values(), *self._leaving):
            for call in upstream.calls:
                call.move()

    @property
    def trouble(self) -> str | None:
        """Why no server is up, in words; None while one is."""
        if self.upstreams.up:
            return None
        reasons = [f"{each.name}: {each.reason or 'It has not answered yet'}" for each in self.upstreams.all.values()]
        reasons += [f"{url}: {reason}" for url, reason in self._missing.items()]
        return "No vLLM server can be used. " + ". ".join(reasons) + "."

    def states(self) -> list[Server]:
        """What is known of each server now; those that leave are the last."""
        found = {address.url for address in self._addresses.values()}
        missing = {name: reason for name, reason in self._missing.items() if name not in found}
        return [
            *(self._state(upstream) for upstream in self.upstreams.all.values()),
            *(Server(name, "connecting" if name in self._coming else "down", reason=missing[name]) for name in missing),
            *(self._state(upstream) for upstream in self._leaving),
        ]

    def _state(self, upstream: Upstream) -> Server:
        facts = self.facts.get(upstream)
        return Server(
            upstream.name,
            "draining" if upstream.drained and upstream.state != "leaving" else upstream.state,
            since=time.time() - (time.monotonic() - upstream.since),
            reason=upstream.reason,
            version=facts.identity.version if facts else None,
            model=facts.identity.model if facts else None,
            length=facts.identity.length if facts else None,
            can=facts.can if facts else frozenset(),
            calls=len(upstream.calls),
            outstanding=upstream.outstanding,
            pace=upstream.pace if upstream.measured else None,
            audio=upstream.audio,
            failed=upstream.failed,
            moved=upstream.moved,
        )

    def address(self, upstream: Upstream) -> Address:
        """Where a server is."""
        return self._addresses[upstream]

    async def _resolve(self) -> None:
        """Keep the servers those that the URLs lead to."""
        while True:
            self._renamed.clear()
            named: dict[Address, None] = {}
            for url in list(self._urls):
                try:
                    found = await resolve(url, self._lookup)
                except (OSError, UnicodeError) as error:  # the second: no host can have such a name
                    self._missing[url] = f"The name cannot be looked up: {error}"
                    log.warning("upstream not found", extra={"upstream": url, "reason": str(error)})
                    # What it led to before goes on.
                    found = [known for known in self.upstreams.all if isinstance(known, Address) and known.url == url]
                else:
                    self._missing.pop(url, None)
                named |= dict.fromkeys(found)
            self._follow(named)
            self._settle()
            with suppress(TimeoutError):
                async with asyncio.timeout(self._settings.resolve_s):
                    await self._renamed.wait()

    def _follow(self, named: dict[Address, None]) -> None:
        """Take up new addresses, and let go of those that are no longer named."""
        known = self.upstreams.all
        for address in named:
            if address not in known:
                upstream = known[address] = Upstream(str(address))
                self._addresses[upstream] = address
                self._tasks[upstream] = asyncio.create_task(self._tend(upstream), name=f"tend {address}")
        for gone in [address for address in known if address not in named]:
            upstream = known.pop(gone)
            log.info("upstream no longer named", extra={"upstream": upstream.name, "calls": len(upstream.calls)})
            upstream.turn("leaving")
            self._leaving.append(upstream)
            self._tasks.pop(upstream).cancel()
        self._on_change()
        self.upstreams.changed()

    async def _tend(self, upstream: Upstream) -> None:
        """Keep knowing how a server is."""
        while True:
            try:
                await self._follow_life(upstream)
            except Exception as error:  # whatever it is, the server is to be looked after
                log.exception("upstream could not be looked after", extra={"upstream": upstream.name})
                self._lose(upstream, f"{type(error).__name__}: {error}")

    async def _follow_life(self, upstream: Upstream) -> None:
        misses, sung = 0, time.monotonic()
        while True:
            now = time.monotonic()
            if upstream.state != "up":
                if now >= upstream.again:
                    await self._try(upstream)
                    misses, sung = 0, time.monotonic()
                await asyncio.sleep(TICK)
                continue
            if not upstream.calls and now - max(sung, upstream.measured) > self._settings.canary_s:
                await self._sing(upstream)
                sung = time.monotonic()
            try:
                async with _limit(LIFE_LIMIT):
                    await self._wire.lives(self._addresses[upstream])
                misses = 0
            except UpstreamError as error:
                misses = 0 if upstream.heard >= now else misses + 1
                if misses >= LIFE_MISSES and upstream.state == "up":
                    self._lose(upstream, f"It gives no sign of life: {error}")
            await asyncio.sleep(max(0.0, now + LIFE_SECONDS - time.monotonic()))

    async def _try(self, upstream: Upstream) -> None:
        """See whether a server can take calls."""
        try:
            facts, took, silent = await examine(self._wire, self._addresses[upstream], self._settings)
        except UpstreamError as error:
            self._lose(upstream, str(error))
            return
        self.facts[upstream] = facts
        seconds = canary.recording().duration + OVERHEAD
        upstream.measured = 0.0
        self.upstreams.measure(upstream, took / seconds, silent / seconds)
        self.upstreams.gain(upstream)
        log.info(
            "upstream examined",
            extra={"upstream": upstream.name, "version": facts.identity.version, "model": facts.identity.model}
            | {"can": sorted(facts.can), "length": facts.identity.length, "canary_s": round(took, 3)},
        )
        self._on_change()
        self._settle()

    async def _sing(self, upstream: Upstream) -> None:
        """See whether a server that has nothing to do still recognises."""
        try:
            async with _limit(self._settings.canary_timeout_s):
                took, silent = await sing(self._wire, self._addresses[upstream], self.facts[upstream].identity.model)
        except Busy:
            return
        except UpstreamError as error:
            self._lose(upstream, str(error))
        else:
            seconds = canary.recording().duration + OVERHEAD
            self.upstreams.measure(upstream, took / seconds, silent / seconds)

    def _lose(self, upstream: Upstream, reason: str) -> None:
        self.upstreams.lose(upstream, reason)
        self._on_change()
        self._settle()

    def _settle(self) -> None:
        """Note when enough is known to begin."""
        upstreams = self.upstreams.all.values()
        found = {address.url for address in self.upstreams.all if isinstance(address, Address)}
        unknown = self._coming or self._urls.keys() - found - self._missing.keys()
        if self.upstreams.up or not (unknown or any(upstream.state != "down" for upstream in upstreams)):
            if not self._known.is_set() and self.trouble:
                log.error("no upstream", extra={"reason": self.trouble})
            self._known.set()

    async def _watch(self) -> None:
        """Move calls that hang."""
        while True:
            before = time.monotonic()
            await asyncio.sleep(TICK)
            if time.monotonic() - before < 3 * TICK:  # else it is this process that was slow
                self.upstreams.move_slow()
            for gone in [upstream for upstream in self._leaving if not upstream.calls]:
                self._leaving.remove(gone)
                self.facts.pop(gone, None)
                self._addresses.pop(gone, None)


async def resolve(url: str, lookup: Lookup = system_lookup) -> list[Address]:
    """The addresses that a URL of the settings leads to. Raises OSError."""
    parts = urlsplit(url)
    assert parts.hostname
    try:
        ipaddress.ip_address(parts.hostname)
    except ValueError:
        port = parts.port or (443 if parts.scheme == "https" else 80)
        return [Address(url, ip) for ip in await lookup(parts.hostname, port)]
    return [Address(url)]
