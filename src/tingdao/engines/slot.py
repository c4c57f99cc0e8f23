"""One offered model: loaded on demand, lent to many, replaced while it serves, unloaded when nobody needs it.

    idle ─ begin ─► loading ─► ready ─ replace ─► ready, with the new version
      ▲                │         └──── unload or idle for long ──► idle
      └── back-off ── failed

What is loaded is a `Version`. A slot has one that serves, and maybe older ones that finish their last calls. Whoever
uses the model holds a lease on the version that served when it asked, and a version is closed only when no lease on it
is left. A `visit` is longer than a lease: while a recording is in work, its model is not unloaded between its clips.

A slot does not know what its model is for; the canary that it asks before it lets a new version serve does.
Everything here happens in one event loop; only `Offer.load` runs in a thread. That cannot be stopped; `Offer.open`,
which may take minutes, is given up when the model is not wanted any more.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Generic, Literal

from tingdao.engines import memory
from tingdao.engines.offer import ModelT, Offer, Version
from tingdao.engines.servers import Servers
from tingdao.errors import Conflict, ModelUnavailable, SetupError

log = logging.getLogger(__name__)

State = Literal["idle", "loading", "ready", "failed"]

FIRST_RETRY, LAST_RETRY = 5.0, 300.0
"""Seconds until a failed load is tried again: the first, doubled with each failure up to the last."""
CANARY_SECONDS = 60.0
"""How long a model may take for the canary."""
LAST_CALLS_SECONDS = 600.0
"""How long a version that was withdrawn may finish its calls; those that then still run end with EngineFailed."""


Canary = Callable[[ModelT], Awaitable[bool]]
"""Tries a model on a known recording: whether it makes sense of it. Raises whatever the model raises."""


@dataclass(frozen=True, slots=True)
class _Failure:
    """Why the model is not there. again: when it may be tried again (monotonic). count: failures in a row."""

    reason: str
    again: float
    count: int


@dataclass(frozen=True, slots=True)
class _Opening(Generic[ModelT]):
    """A model whose loading is being finished in the event loop."""

    offer: Offer[ModelT]
    model: ModelT
    task: asyncio.Future[None]


class Slot(Generic[ModelT]):
    """One name and what is loaded under it.

    keep: whether it stays loaded, and is loaded again by itself after a failure.
    idle_s: seconds without use after which it is unloaded unless it is kept; 0 is never.
    """

    def __init__(self, offer: Offer[ModelT], canary: Canary[ModelT], *, keep: bool = True, idle_s: float = 0) -> None:
        self.name, self.offer = offer.name, offer
        self._canary, self._keep, self._idle_s = canary, keep, idle_s
        self._version: Version[ModelT] | None = None
        self._failure: _Failure | None = None
        self._task: asyncio.Task[str | None] | None = None
        self._opening: _Opening[ModelT] | None = None
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
        if self._opening:
            return self._opening.offer.trouble(self._opening.model)
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
        given_up = self._give_up()
        self._task = asyncio.create_task(self._replace(offer or self.offer, given_up), name=f"replace {self.name}")
        if reason := await _result(self._task):
            raise SetupError(reason)

    def outdated(self, offer: Offer[ModelT]) -> bool:
        """Whether what is being loaded can be given up for an offer, and is something else."""
        return self._version is None and self._opening is not None and self._opening.offer.recipe != offer.recipe

    async def unload(self) -> None:
        """Free the memory until somebody asks for the model again. Raises Conflict while it is in use."""
        if (self._working and not self._opening) or self._visits or self.calls:
            raise Conflict(f"The model {self.name!r} is at work. Try again when it has nothing to do.")
        if given_up := self._give_up():
            await asyncio.wait({given_up})
        self._set_timer(None)
        self._failure = None
        await self._drain()
        log.info("model unloaded", extra={"model": self.name})

    async def finish(self) -> None:
        """Free everything once the last recording in work with it is done."""
        await self._unvisited.wait()
        await self.close()
        self._closing = True  # for good

    async def close(self) -> None:
        """Free everything now. A load that runs is given up, or waited for while it is in its thread."""
        self._closing = True
        self._give_up()
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
        self._closing = False

    @property
    def _trouble(self) -> str | None:
        return self.offer.trouble(self._version.model) if self._version else None

    @property
    def _working(self) -> bool:
        return self._task is not None and not self._task.done()

    def _give_up(self) -> asyncio.Task[str | None] | None:
        """End a load that is being opened; gives the task that then fails, for who waits for that."""
        if self._opening is None:
            return None
        self._opening.task.cancel()
        return self._task

    async def _load(self) -> str | None:
        try:
            version = await self._loaded(self.offer)
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
        hears = await self._hears(self._version)
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
            new = await self._tried(offer, hears=hears)
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

    async def _tried(self, offer: Offer[ModelT], *, hears: bool) -> Version[ModelT]:
        """A new version that does with the canary what the old one did. Raises SetupError."""
        version = await self._loaded(offer)
        why = offer.trouble(version.model) or await self._fault(version, hears=hears)
        if why is None:
            return version
        await version.close()
        await asyncio.to_thread(memory.give_back)
        raise SetupError(f"{self.name} was loaded, but does not serve: {why.removesuffix('.')}.")

    async def _fault(self, version: Version[ModelT], *, hears: bool) -> str | None:
        """What is wrong with how a new version does with the canary."""
        try:
            async with asyncio.timeout(CANARY_SECONDS):
                version.hears = await self._canary(version.model)
        except TimeoutError:
            return f"it took more than {CANARY_SECONDS:g} s over the canary recording"
        except Exception as error:  # whatever it is, this model must not serve
            log.exception("canary failed", extra={"model": self.name})
            return f"it failed on the canary recording: {type(error).__name__}: {error}"
        if hears and not version.hears:
            return "it makes nothing of the canary recording, and the old one does"
        return None

    async def _hears(self, old: Version[ModelT]) -> bool:
        """Whether the canary can be expected of a new version: a broken or random one may be replaced by any.

        Asked once, since it stands in the old one's queue.
        """
        if old.hears is None:
            try:
                async with asyncio.timeout(CANARY_SECONDS):
                    old.hears = await self._canary(old.model)
            except Exception as error:  # noqa: BLE001  whatever it is, it is the old one's
                log.warning("the old model fails on the canary", extra={"model": self.name, "reason": repr(error)})
        return bool(old.hears)

    async def _loaded(self, offer: Offer[ModelT]) -> Version[ModelT]:
        """Load a version, which does not serve yet. Raises SetupError."""
        began = time.monotonic()
        version = None
        try:
            version = Version(await asyncio.to_thread(offer.load))
            await self._open(offer, version.model)
        except SetupError as error:
            log.error("model not loaded", extra={"model": self.name, "reason": str(error)})
            reason = str(error)
        except Exception as error:
            # Whatever a model library raises must not kill the service.
            log.exception("model not loaded", extra={"model": self.name})
            reason = f"Loading {self.name} failed: {type(error).__name__}: {error}"
        else:
            log.info("model ready", extra={"model": self.name, "seconds": round(time.monotonic() - began, 2)})
            return version
        if version:
            await version.close()
        # Raised here and not above: an error's traceback would keep what was loaded until then.
        await asyncio.to_thread(memory.give_back)
        raise SetupError(reason)

    async def _open(self, offer: Offer[ModelT], model: ModelT) -> None:
        """Finish a load. Raises SetupError when it is given up, and whatever the model raises."""
        if offer.open is None:
            return
        given_up = SetupError("It was given up before it was ready.")
        if self._closing:
            raise given_up
        self._opening = _Opening(offer, model, asyncio.ensure_future(offer.open(model)))
        try:
            await asyncio.wait({self._opening.task})
            if self._opening.task.cancelled():
                raise given_up
            self._opening.task.result()
        finally:
            self._opening = None

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
