"""The vLLM servers of one model, looked after: found by name, tried, watched, and tried again.

    [vllm] upstreams ─ resolve, again and again ─► Address ─ identify, canary ─► up ─ sign of life each second, canary
                                                                                      when idle ─► down ─ back-off ─► …

A server is up when it recognises the canary recording, not when a port answers. Each address behind a DNS name is a
server of its own; one that the name no longer leads to gets no new calls.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Collection, Iterable
from contextlib import suppress
from itertools import chain

from tingdao.engines import canary
from tingdao.engines.servers import Change, Server
from tingdao.engines.vllm.client import Address
from tingdao.engines.vllm.examine import Facts, examine, limit, sing
from tingdao.engines.vllm.roster import Lookup, Roster, resolve, system_lookup
from tingdao.engines.vllm.upstreams import OVERHEAD, Upstream, Upstreams
from tingdao.engines.vllm.wire import Busy, UpstreamError, Wire
from tingdao.errors import BadRequest, ServerNotFound, SetupError
from tingdao.settings import VllmSettings, server_url

log = logging.getLogger(__name__)

TICK = 0.25
"""Seconds between two looks at everything."""
LIFE_SECONDS, LIFE_MISSES = 1.0, 2
"""How often a server must give a sign of life; and how many may be missing."""
LIFE_LIMIT = 1.5
"""How long it may take over one, in seconds."""


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
        self._rosters = [Roster(settings.upstreams)]
        self._drained: set[Address] = set()
        self._resolved: set[str] = set()
        self._missing: dict[str, str] = {}
        self._expected: dict[str, str] = {}
        self._coming: set[str] = set()
        self._leaving: list[Upstream] = []
        self._tasks: dict[object, asyncio.Task[None]] = {}
        self._renamed, self._news = asyncio.Event(), asyncio.Event()

    async def open(self) -> None:
        """Begin, and wait for a moment until a server is up or none can be for now."""
        self._tasks["resolve"] = asyncio.create_task(self._resolve())
        self._tasks["slow"] = asyncio.create_task(self._watch())
        while not await self._until(lambda: bool(self.upstreams.up) or not (self._coming or self._pending(self._urls))):
            if not self._coming:
                break
        if self.trouble:
            log.error("no upstream", extra={"reason": self.trouble})

    def add(self, url: str) -> None:
        """Look after a server that this service started as well."""
        self._rosters[0].started[url] = None
        self._renamed.set()

    def remove(self, url: str) -> None:
        """Let go of a server that this service started; what is in work there goes on."""
        self._rosters[0].started.pop(url, None)
        self._missing.pop(url, None)
        self._renamed.set()

    def expect(self, name: str, why: str | None, *, soon: bool = False) -> None:
        """A server that has no URL yet. why: in words; None when it has one now, or is no longer expected.

        soon: whether it is under way, so that `open` waits for it.
        """
        self._expected.pop(name, None)
        self._coming.discard(name)
        if why:
            self._expected[name] = why
        if why and soon:
            self._coming.add(name)
        self._news.set()

    async def follow(self, settings: VllmSettings) -> None:
        """Have the servers that new settings name, and look after them as these say.

        Where other servers are named, what operators added and removed ends; what they drained stays so. Those that
        are no longer named leave when it is known how the new ones are. Raises SetupError when none of these can be
        used while another one can; then all is as before.
        """
        if settings.upstreams != self._rosters[0].settings:
            await self._exchange(settings.upstreams)
        self._settings, self.upstreams.width = settings, settings.width
        self.upstreams.changed()
        self._renamed.set()

    async def _exchange(self, urls: tuple[str, ...]) -> None:
        """As `follow`, of servers."""
        before = self._rosters[0]
        new = Roster(urls, before.started)
        self._rosters = [new, before]
        self._resolved.clear()
        self._renamed.set()
        try:
            await self._until(lambda: not self._pending(new.urls))
            if self.upstreams.up and not any(new.has(self._addresses[upstream]) for upstream in self.upstreams.up):
                self._rosters = [before]
                raise SetupError(f"The vLLM servers stay as they were, since of the new ones: {self._why(new)}")
        finally:
            self._rosters = self._rosters[:1]
            self._follow(self._servers)

    def change(self, what: Change, server: str) -> Awaitable[object]:
        """As `Servers.change`. It holds until the settings name other servers, or the model is loaded anew."""
        roster = self._rosters[0]
        try:
            server = server_url(server)
        except ValueError as error:
            if what == "add":
                raise BadRequest(f"{error}.", param="server") from None
        meant = {address for address in self._servers if server in {address.url, str(address)}}
        if what != "add" and not meant and not (what == "remove" and server in roster.urls):
            raise ServerNotFound(
                f"There is no server {server[:200]!r} of {self._settings.name!r}. Servers: "
                f"{', '.join(each.name for each in self.states()) or 'none'}.",
                param="server",
            )
        if what == "add":
            roster.add(server)
            self._resolved.discard(server)
            self._renamed.set()
        elif what == "remove":
            roster.remove(server)
        if what != "add":
            self._drained = self._drained | meant if what == "drain" else self._drained - meant
        self._follow(self._servers)
        return self._until(lambda: not self._pending([server]))

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
        return f"No vLLM server can be used. {self._why(*self._rosters)}"

    def _why(self, *rosters: Roster) -> str:
        """Why servers are not up."""
        reasons = self._expected | {
            upstream.name: upstream.reason or ("It is drained" if upstream.drained else "It has not answered yet")
            for address, upstream in self._servers.items()
            if any(roster.has(address) for roster in rosters)
        }
        reasons |= {url: self._missing[url] for roster in rosters for url in roster.urls if url in self._missing}
        return " ".join(f"{name}: {reason}." for name, reason in reasons.items()) or "There is none."

    @property
    def _servers(self) -> dict[Address, Upstream]:
        return {self._addresses[upstream]: upstream for upstream in self.upstreams.all.values()}

    @property
    def _urls(self) -> list[str]:
        return list(dict.fromkeys(url for roster in self._rosters for url in roster.urls))

    def states(self) -> list[Server]:
        """What is known of each server now; those that leave are the last."""
        found = {address.url for address in self._servers}
        missing = self._expected | {
            url: self._missing[url] for url in self._urls if url in self._missing.keys() - found
        }
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

    async def _until(self, come: Callable[[], bool]) -> bool:
        """Wait for something to come about, as long as a server may take to be examined; whether it has."""
        with suppress(TimeoutError):
            async with asyncio.timeout(self._settings.connect_timeout_s + self._settings.canary_timeout_s):
                while not come():
                    self._news.clear()
                    await self._news.wait()
        return come()

    def _pending(self, names: Collection[str]) -> bool:
        """Whether servers, by URL or name, are not known yet."""
        unknown = set(self._urls) - self._resolved
        connecting = [a for a, each in self._servers.items() if each.state == "connecting" and not each.drained]
        return not unknown.isdisjoint(names) or any(a.url in names or str(a) in names for a in connecting)

    async def _resolve(self) -> None:
        """Keep the servers those that the URLs lead to."""
        while True:
            self._renamed.clear()
            urls = self._urls
            self._follow(chain.from_iterable(await asyncio.gather(*(self._found(url) for url in urls))))
            self._resolved = set(urls)
            self._news.set()
            with suppress(TimeoutError):
                async with asyncio.timeout(self._settings.resolve_s):
                    await self._renamed.wait()

    async def _found(self, url: str) -> list[Address]:
        """Where a URL leads to; where it led to before, when that cannot be found out."""
        try:
            found = await resolve(url, self._lookup)
        except OSError as error:
            self._missing[url] = f"The name cannot be looked up: {error}"
            log.warning("upstream not found", extra={"upstream": url, "reason": str(error)})
            return [known for known in self._servers if known.url == url]
        self._missing.pop(url, None)
        return found

    def _follow(self, named: Iterable[Address]) -> None:
        """Take up new addresses, let go of those that are no longer named, and drain and resume."""
        wanted = {address: None for address in named if any(roster.has(address) for roster in self._rosters)}
        known = self.upstreams.all
        for address in wanted:
            if address not in known:
                upstream = known[address] = Upstream(str(address))
                self._addresses[upstream] = address
                self._tend_to(upstream)
        for gone in [address for address in known if address not in wanted]:
            upstream = known.pop(gone)
            log.info("upstream no longer named", extra={"upstream": upstream.name, "calls": len(upstream.calls)})
            upstream.turn("leaving")
            self._leaving.append(upstream)
            self._tasks.pop(upstream).cancel()
        self._part()
        for address, upstream in self._servers.items():
            if upstream.drained != (address in self._drained):
                self._drain(upstream, drained=not upstream.drained)
        self._on_change()
        self.upstreams.changed()

    def _drain(self, upstream: Upstream, *, drained: bool) -> None:
        """Give a server no more calls; or again, once it is known what it is now."""
        log.info("upstream drained" if drained else "upstream resumed", extra={"upstream": upstream.name})
        upstream.drained, upstream.since = drained, time.monotonic()
        if not drained:
            upstream.turn("connecting")
            upstream.again, upstream.downs = 0.0, 0
            self._tasks[upstream].cancel()
            self._tend_to(upstream)

    def _tend_to(self, upstream: Upstream) -> None:
        self._tasks[upstream] = asyncio.create_task(self._tend(upstream), name=f"tend {upstream.name}")

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
                if now >= upstream.again and not upstream.drained:
                    await self._try(upstream)
                    misses, sung = 0, time.monotonic()
                await asyncio.sleep(TICK)
                continue
            if (
                not (upstream.calls or upstream.drained)
                and now - max(sung, upstream.measured) > self._settings.canary_s
            ):
                await self._sing(upstream)
                sung = time.monotonic()
            try:
                async with limit(LIFE_LIMIT):
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
        self._news.set()

    async def _sing(self, upstream: Upstream) -> None:
        """See whether a server that has nothing to do still recognises."""
        try:
            async with limit(self._settings.canary_timeout_s):
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
        self._news.set()

    async def _watch(self) -> None:
        """Move calls that hang."""
        while True:
            before = time.monotonic()
            await asyncio.sleep(TICK)
            if time.monotonic() - before < 3 * TICK:  # else it is this process that was slow
                self.upstreams.move_slow()
            self._part()

    def _part(self) -> None:
        """Forget servers that leave and have nothing more to do."""
        for gone in [upstream for upstream in self._leaving if not upstream.calls]:
            self._leaving.remove(gone)
            self.facts.pop(gone, None)
            self._addresses.pop(gone, None)
