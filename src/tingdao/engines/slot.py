"""One offered model: loaded on demand, lent to many, replaced while it serves, unloaded when nobody needs it.

    idle ─ begin ─► loading ─► ready ─ replace ─► ready, with the new version
      ▲                │         └──── unload or idle for long ──► idle
      └── back-off ── failed

What is loaded is a `Version`. A slot has one that serves, and maybe older ones that finish their last calls. Whoever
uses the model holds a lease on the version that served when it asked, and a version is closed only when no lease on it
is left. A `visit` is longer than a lease: while a recording is in work, its model is not unloaded between its clips.

A slot does not know what its model is for; the canary that is asked before a new version serves does (`loading`).
Everything here happens in one event loop; only `Offer.load` runs in a thread.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Generic, Literal

from tingdao.engines import memory
from tingdao.engines.loading import Canary, Loader
from tingdao.engines.offer import ModelT, Offer, Version
from tingdao.engines.servers import Servers
from tingdao.errors import Conflict, ModelUnavailable, SetupError

log = logging.getLogger(__name__)

State = Literal["idle", "loading", "ready", "failed"]

FIRST_RETRY, LAST_RETRY = 5.0, 300.0
"""Seconds until a failed load is tried again: the first, doubled with each failure up to the last."""
LAST_CALLS_SECONDS = 600.0
"""How long a version that was withdrawn may finish its calls; those that then still run end with EngineFailed."""


@dataclass(frozen=True, slots=True)
class _Failure:
    """Why the model is not there. again: when it may be tried again (monotonic). count: failures in a row."""

    reason: str
    again: float
    count: int


class Slot(Generic[ModelT]):
    """One name and what is loaded under it.

    keep: whether it stays loaded, and is loaded again by itself after a failure.
    idle_s: seconds without use after which it is unloaded unless it is kept; 0 is never.
    """

    def __init__(self, offer: Offer[ModelT], canary: Canary[ModelT], *, keep: bool = True, idle_s: float = 0) -> None:
        self.name, self.offer = offer.name, offer
        self._keep, self._idle_s = keep, idle_s
        self._loader = Loader(self.name, canary)
        self._version: Version[ModelT] | None = None
        self._failure: _Failure | None = None
        self._task: asyncio.Task[str | None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._retiring: dict[Version[ModelT], asyncio.Task[None]] = {}
        self._visits = 0
        self._unvisited = asyncio.Event()
        self._unvisited.set()
        self._last_use = 0.0
        self._closing = False

    # What it is doing.

    @property
    def state(self) -> State:
        """How far it is."""
        if self._version:
            return "failed" if self._trouble else "ready"
        if self._working:
            return "loading"
        return "failed" if self._failure else "idle"

    @property
    def model(self) -> ModelT | None:
        """The model that serves now, to look at; who uses it takes a lease."""
        return self._version.model if self._version else None

    @property
    def servers(self) -> Servers | None:
        """The servers of the model that serves now; None while there is none, and for models that run here."""
        return self.offer.servers(self._version.model) if self._version and self.offer.servers else None

    @property
    def reason(self) -> str | None:
        """Why it could not be loaded or cannot work now, or how far it is, in words for the operator."""
        if self._version:
            return self._trouble
        if self._loader.opening:
            return self._loader.progress
        return self._failure.reason if self._failure else None

    @property
    def since(self) -> float | None:
        """When the model that serves now was loaded, in seconds of the epoch."""
        return self._version.since if self._version else None

    @property
    def down(self) -> bool:
        """Whether whoever asks now would not get it."""
        failure = self._failure
        if self._version:
            return self._trouble is not None
        return failure is not None and (self._working or failure.again > time.monotonic())

    @property
    def calls(self) -> int:
        """Calls on the model that serves now."""
        return self._version.users if self._version else 0

    @property
    def recordings(self) -> int:
        """Recordings in work with it."""
        return self._visits

    @property
    def retiring(self) -> int:
        """Replaced versions that finish their last calls."""
        return len(self._retiring)

    @property
    def reloading(self) -> bool:
        """Whether another version is being loaded while this one serves."""
        return self._version is not None and self._working

    # Using it.

    def begin(self) -> asyncio.Task[str | None]:
        """Start to load it, unless that is under way, without waiting; the task gives the reason of a failure."""
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._load(), name=f"load {self.name}")
        return self._task

    @asynccontextmanager
    async def lease(self) -> AsyncIterator[ModelT]:
        """The model for one use: it is there until the block ends. Raises ModelUnavailable."""
        version = await self._served()
        with version.used():
            try:
                yield version.model
            finally:
                self._last_use = time.monotonic()

    @asynccontextmanager
    async def visit(self) -> AsyncIterator[ModelT]:
        """For a recording of many leases: the model as it is now, which may be replaced until the block ends.

        Raises ModelUnavailable.
        """
        self._visits += 1
        self._unvisited.clear()
        try:
            yield (await self._served()).model
        finally:
            self._visits -= 1
            self._last_use = time.monotonic()
            if not self._visits:
                self._unvisited.set()

    async def _served(self) -> Version[ModelT]:
        """The version that serves, loaded when there is none. Raises ModelUnavailable."""
        while self._version is None:
            if self._closing:
                raise ModelUnavailable("The service is being shut down. Try again.", retry_after=5)
            if self._failure and not self._working:
                left = self._failure.again - time.monotonic()
                if left > 0:
                    raise ModelUnavailable(
                        f"The model {self.name!r} could not be loaded. Its operator finds the reason in the log "
                        "and with `tingdao check`.",
                        retry_after=left,
                    )
            await asyncio.wait({self.begin()})
        return self._version

    # Changing it.

    def keep(self, keep: bool, idle_s: float) -> None:  # noqa: FBT001  the slot's own words
        """Say anew whether it stays loaded."""
        self._keep, self._idle_s = keep, idle_s
        self._watch_idleness()

    async def load(self) -> None:
        """Load it now, whatever happened before. Raises SetupError."""
        if self._version is None and (reason := await _result(self.begin())):
            raise SetupError(reason)

    async def replace(self, offer: Offer[ModelT] | None = None) -> None:
        """Load it anew, from a new offer where one is given, and let that serve.

        Where memory allows, the new version is loaded while the old one serves; else the old one first finishes its
        calls and is freed, and who comes meanwhile waits. A new version that cannot be loaded, or that cannot cope
        with the canary while the old one does, never serves. A model that is not loaded is loaded now; one that is
        still being opened, from an offer with another recipe, is given up.
        Raises SetupError with the reason, Conflict while it is being loaded.
        """
        if self._working and not self.outdated(offer or self.offer):
            raise Conflict(f"The model {self.name!r} is being loaded just now. Try again when that is done.")
        given_up = self._task if self._loader.give_up() else None
        self._task = asyncio.create_task(self._replace(offer or self.offer, given_up), name=f"replace {self.name}")
        if reason := await _result(self._task):
            raise SetupError(reason)

    def outdated(self, offer: Offer[ModelT]) -> bool:
        """Whether what is being loaded can be given up for an offer, and is something else."""
        opening = self._loader.opening
        return self._version is None and opening is not None and opening.recipe != offer.recipe

    async def unload(self) -> None:
        """Free the memory until somebody asks for the model again. Raises Conflict while it is in use."""
        if (self._working and not self._loader.opening) or self._visits or self.calls:
            raise Conflict(f"The model {self.name!r} is at work. Try again when it has nothing to do.")
        if self._task and self._loader.give_up():
            await asyncio.wait({self._task})
        self._set_timer(None)
        self._failure = None
        await self._drain()
        log.info("model unloaded", extra={"model": self.name})

    async def finish(self) -> None:
        """Free everything once the last recording in work with it is done."""
        await self._unvisited.wait()
        await self.close()
        self._closing = self._loader.unwanted = True  # for good

    async def close(self) -> None:
        """Free everything now. A load that runs is given up, or waited for while it is in its thread."""
        self._closing = self._loader.unwanted = True
        self._loader.give_up()
        self._set_timer(None)
        self._unvisited.set()
        for old in self._retiring:
            old.unused.set()  # nobody waits any more for the calls that it still works on
        if self._task:
            await asyncio.wait({self._task})
        if version := self._withdraw():
            self._retire(version)
        if self._retiring:
            await asyncio.wait(self._retiring.values())
        self._set_timer(None)
        self._task = self._failure = None
        self._closing = self._loader.unwanted = False

    @property
    def _trouble(self) -> str | None:
        return self.offer.trouble(self._version.model) if self._version else None

    @property
    def _working(self) -> bool:
        return self._task is not None and not self._task.done()

    async def _load(self) -> str | None:
        try:
            version = await self._loader.load(self.offer)
        except SetupError as error:
            return self._fail(str(error))
        self._serve(version)
        return None

    async def _replace(self, offer: Offer[ModelT], given_up: asyncio.Task[str | None] | None) -> str | None:
        if given_up:
            await asyncio.wait({given_up})
        if self._version is None:
            self.offer, self._failure = offer, None
            return await self._load()
        hears = await self._loader.hears(self._version)
        if self._retiring:  # so that there are never more than two
            await asyncio.wait(self._retiring.values())
        try:
            free = await asyncio.to_thread(offer.free)
        except SetupError as error:
            return str(error)
        beside = offer.memory <= free and not (offer.alone and self.offer.alone)
        log.info(
            "model is being replaced",
            extra={"model": self.name, "beside": beside, "needs_bytes": offer.memory, "free_bytes": free},
        )
        if not beside:
            await self._drain()
        try:
            new = await self._loader.replacement(offer, hears=hears)
        except SetupError as error:
            reason = str(error)
            if self._version is None:
                await self._restore(offer, reason)
            return reason
        replaced, self.offer = self._withdraw(), offer
        self._serve(new)
        if replaced:
            self._retire(replaced)
        return None

    async def _restore(self, failed: Offer[ModelT], reason: str) -> None:
        """After a failure for which the old version had to go: bring it back where it is not the same again."""
        if failed.recipe == self.offer.recipe:
            self._fail(reason)
        else:
            await self._load()

    async def _drain(self) -> None:
        """Free the version that serves, after its last call."""
        if version := self._withdraw():
            await asyncio.wait({self._retire(version)})

    def _serve(self, version: Version[ModelT]) -> None:
        self._version, self._failure, self._last_use = version, None, time.monotonic()
        self._watch_idleness()

    def _withdraw(self) -> Version[ModelT] | None:
        """Take the version that serves out of service."""
        version, self._version = self._version, None
        return version

    def _retire(self, version: Version[ModelT]) -> asyncio.Task[None]:
        """Close a version that was withdrawn, once its last call has ended."""

        async def finish() -> None:
            try:
                async with asyncio.timeout(0 if self._closing else LAST_CALLS_SECONDS):
                    await version.unused.wait()
            except TimeoutError:
                log.warning("a model is closed with calls at work", extra={"model": self.name, "calls": version.users})
            await version.close()
            del self._retiring[version]
            if not self._closing:
                await asyncio.to_thread(memory.give_back)

        task = self._retiring[version] = asyncio.create_task(finish(), name=f"retire {self.name}")
        return task

    def _fail(self, reason: str) -> str:
        count = self._failure.count + 1 if self._failure else 1
        delay = min(FIRST_RETRY * 2 ** (count - 1), LAST_RETRY)
        self._failure = _Failure(reason, time.monotonic() + delay, count)
        if self._keep and not self._closing:
            self._set_timer(delay, self.begin)
        return reason

    def _watch_idleness(self) -> None:
        """See to it that the model is unloaded when it is idle for long."""
        if self._version is None:
            return
        if self._keep or not self._idle_s:
            self._set_timer(None)
            return
        left = self._last_use + self._idle_s - time.monotonic()
        if self._visits or self.calls or self._working:
            left = self._idle_s
        if left > 0:
            self._set_timer(left, self._watch_idleness)
        elif version := self._withdraw():
            log.info("idle model unloaded", extra={"model": self.name, "idle_s": self._idle_s})
            self._retire(version)

    def _set_timer(self, delay: float | None, then: Callable[[], object] | None = None) -> None:
        """Set the one timer of this slot anew, or only take it back."""
        if self._timer:
            self._timer.cancel()
        self._timer = None
        if delay is not None and then is not None:
            self._timer = asyncio.get_running_loop().call_later(delay, then)


async def _result(task: asyncio.Task[str | None]) -> str | None:
    """What a task gives; it goes on when whoever waits here is cancelled."""
    await asyncio.wait({task})
    return task.result()
