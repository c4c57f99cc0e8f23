"""Names → engines: which models there are, which one a request gets, and what happens to them at run time.

    name ─ resolve ─► Slot ─ lease ─► Engine, as one recording uses it; each call runs on the version that serves then
    auto ─ ranked  ─► names to try, best first

Which names there are is the settings' affair: they come in as offers, at the start and whenever the settings are read
again. Operators load, reload and unload what is offered, one change at a time.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import (
    AsyncGenerator,
    AsyncIterator,
    Awaitable,
    Callable,
    Coroutine,
    Iterator,
    Mapping,
    Sequence,
)
from contextlib import aclosing, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar, cast

from tingdao.engines import canary, routing
from tingdao.engines.base import Ask, Engine, ModelCard, Partial, Recognition
from tingdao.engines.offer import Offer
from tingdao.engines.plan import CHOICE, Plan
from tingdao.engines.routing import Load
from tingdao.engines.servers import Change, Server
from tingdao.engines.slot import Slot, State
from tingdao.errors import BadRequest, Conflict, EngineFailed, SetupError
from tingdao.settings import ModelsSettings, RoutingSettings
from tingdao.turns import Turns
from tingdao.types import Clip

log = logging.getLogger(__name__)

FAILURES = 3
"""So many failed calls in a row and routes avoid a model."""
AVOIDED_SECONDS = 30.0
"""For how long, before a request may find out whether it works again."""
AHEAD = 8
"""One clip in `AHEAD` (at least one) goes to an engine beyond its width, so that it never waits for the next."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class ModelState:
    """What is known of a model now.

    reason: in words, why it failed. card: known while it is loaded.
    since: when it was loaded, in seconds of the epoch. reloading: whether a new version is being loaded beside it.
    kept: whether it stays loaded. recordings, calls: at work with it. waiting: clips past what it does side by side.
    retiring: replaced versions that finish their last calls. memory: bytes that it takes, roughly; 0 is unknown.
    servers: those that it runs on; known while it is loaded, and none for models that run here.
    """

    name: str
    state: State
    card: ModelCard | None = None
    reason: str | None = None
    since: float | None = None
    reloading: bool = False
    kept: bool = True
    recordings: int = 0
    calls: int = 0
    waiting: int = 0
    retiring: int = 0
    memory: int = 0
    servers: tuple[Server, ...] = ()


class Registry:
    """All models of one service.

    offers: the first is the default model.
    aliases: names of other services → names here.
    Raises SetupError when the settings name a model that is not offered.
    """

    def __init__(
        self,
        offers: Sequence[Offer[Engine]],
        aliases: Mapping[str, str],
        models: ModelsSettings = ModelsSettings(),  # noqa: B008  cannot be changed
        routes: RoutingSettings = RoutingSettings(),  # noqa: B008  cannot be changed
    ) -> None:
        self._served: dict[str, _Served] = {}
        self._leaving: set[Slot[Engine]] = set()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._changing = False
        self.created = int(time.time())
        self._adopt(Plan.of(offers, aliases, models, routes))

    # Names.

    @property
    def default(self) -> str:
        """The name of the default model."""
        return self._plan.default

    def resolve(self, name: str | None) -> str:
        """The name of the model that a request means; None or empty means the default. Raises ModelNotFound."""
        found = self._plan.meaning(name)
        return self.default if found in CHOICE else found

    def leaves_choice(self, name: str | None) -> bool:
        """Whether a request for this name goes by the routes. Raises ModelNotFound."""
        return bool(self._plan.routes) and self._plan.meaning(name) in CHOICE

    @property
    def horizon(self) -> float:
        """Seconds of a recording that routes may want to see before they choose."""
        return routing.horizon(self._plan.routes)

    def ranked(self, duration: float, language: str | None) -> list[str]:
        """The models to try for a request that leaves the choice, best first.

        duration: seconds, exact up to the horizon. language: ISO code that the request names.
        """
        loads = {route.model: self._served[route.model].load for route in self._plan.routes}
        return routing.ranked(self._plan.routes, duration=duration, language=language, loads=loads)

    # Using them.

    @asynccontextmanager
    async def lease(self, name: str | None = None) -> AsyncIterator[Lent]:
        """The engine of a model for one recording, loaded if it was not; it is not unloaded before the block ends.

        It may be replaced meanwhile: every call runs on the version that serves then.
        Raises ModelNotFound, ModelUnavailable.
        """
        served = self._served[self.resolve(name)]
        async with served.slot.visit() as engine:
            served.turns.resize(_turns(engine.card))
            yield Lent(served, engine.card)

    async def engine(self, name: str | None = None) -> Engine:
        """The engine of a model as `lease` gives it, except that it may be unloaded between two calls."""
        async with self.lease(name) as engine:
            return engine

    @property
    def sent_limit(self) -> float:
        """The longest recording that any model takes as it was sent, in seconds; 0 for none."""
        loaded = (served.slot.model for served in self._served.values())
        return max((model.card.sent_limit for model in loaded if model), default=0.0)

    @property
    def full(self) -> bool:
        """Whether a clip that came now would wait, whichever model it is for."""
        loaded = [served for served in self._served.values() if served.slot.model]
        return bool(loaded) and all(served.turns.waiting for served in loaded)

    def start(self) -> None:
        """Begin to load what is to be kept, without waiting for it."""
        for name in self._plan.kept:
            self._served[name].slot.begin()

    def card(self, name: str | None = None) -> ModelCard | None:
        """What a model is and can do, while it is loaded. Raises ModelNotFound."""
        model = self._served[self.resolve(name)].slot.model
        return model.card if model else None

    def states(self) -> list[ModelState]:
        """Every model and how far it is."""
        return [self.state(name) for name in self._plan.offers]

    def state(self, name: str | None = None) -> ModelState:
        """How far one model is, the default one by default. Raises ModelNotFound."""
        served = self._served[self.resolve(name)]
        slot = served.slot
        return ModelState(
            slot.name,
            slot.state,
            card=self.card(slot.name),
            reason=slot.reason,
            since=slot.since,
            reloading=slot.reloading,
            kept=slot.name in self._plan.kept,
            recordings=slot.recordings,
            calls=slot.calls,
            waiting=served.load.waiting,
            retiring=slot.retiring,
            memory=slot.offer.memory,
            servers=tuple(slot.servers.states()) if slot.servers else (),
        )

    # Changing them. What an operator began goes on when the operator leaves.

    async def reload(self, name: str | None = None) -> ModelState:
        """Load a model anew while it serves; see `Slot.replace`. Raises ModelNotFound, SetupError, Conflict."""
        return await self._change(name, Slot.replace)

    async def load(self, name: str | None = None) -> ModelState:
        """Load a model now, if it is not. Raises ModelNotFound, SetupError, Conflict."""
        return await self._change(name, Slot.load)

    async def unload(self, name: str | None = None) -> ModelState:
        """Free a model's memory until the next request for it. Raises ModelNotFound, Conflict while it is in use."""
        return await self._change(name, Slot.unload)

    async def change_server(self, name: str | None, what: Change, server: str) -> ModelState:
        """Change the servers of a model; see `Servers.change`.

        Raises ModelNotFound, BadRequest, ServerNotFound, Conflict while models are being changed.
        """
        slot = self._served[self.resolve(name)].slot
        if slot.offer.servers is None:
            raise BadRequest(f"The model {slot.name!r} runs in this service and has no servers.", param="model")
        servers = slot.servers
        if servers is None:
            raise Conflict(f"The model {slot.name!r} is not loaded, so nothing is known of its servers.")
        with self._alone():
            known = servers.change(what, server)
        await known
        return self.state(slot.name)

    async def update(
        self,
        offers: Sequence[Offer[Engine]],
        aliases: Mapping[str, str],
        models: ModelsSettings = ModelsSettings(),  # noqa: B008  cannot be changed
        routes: RoutingSettings = RoutingSettings(),  # noqa: B008  cannot be changed
    ) -> list[str]:
        """Serve what new settings say. Gives what could not be done, in words; there the old goes on serving.

        A changed model is replaced, a new one that is to be kept is loaded before requests go to it, and one that is
        gone is freed when the last recording in work with it is done.
        Raises SetupError when the settings contradict themselves, Conflict.
        """
        return await self._to_the_end(self._update(Plan.of(offers, aliases, models, routes)))

    async def close(self) -> None:
        """Free every model."""
        slots = [*(served.slot for served in self._served.values()), *self._leaving]
        await asyncio.gather(*(slot.close() for slot in slots))

    async def _change(self, name: str | None, how: Callable[[Slot[Engine]], Awaitable[None]]) -> ModelState:
        slot = self._served[self.resolve(name)].slot

        async def change() -> None:
            with self._alone():
                await how(slot)

        await self._to_the_end(change())
        return self.state(slot.name)

    async def _update(self, plan: Plan) -> list[str]:
        with self._alone():
            problems = []
            for name, offer in plan.offers.items():
                try:
                    await self._take_up(offer, keep=name in plan.kept)
                except SetupError as error:
                    problems.append(str(error))
            other = plan.default != self.default
            if other and self._served[plan.default].slot.down and self._served[self.default].slot.model:
                problems.append(f"{self.default} stays the default model, since {plan.default} is not there.")
                plan = plan.with_default(self.default, self._plan.offers[self.default])
            self._adopt(plan)
            return problems

    async def _take_up(self, offer: Offer[Engine], *, keep: bool) -> None:
        """Have a slot for an offer, with what it offers in it when that is to be kept. Raises SetupError."""
        if offer.name not in self._served:
            self._served[offer.name] = _Served(Slot(offer, canary.hears))
        slot = self._served[offer.name].slot
        if slot.state == "loading" and not slot.outdated(offer):
            await asyncio.wait({slot.begin()})
        if slot.offer.recipe != offer.recipe:
            if keep or slot.model or slot.state == "loading":
                await slot.replace(offer)
            slot.offer = offer
            return
        if slot.model and offer.adopt:
            async with slot.lease() as model:
                await offer.adopt(model)
        slot.offer = offer
        if keep:
            await slot.load()

    def _adopt(self, plan: Plan) -> None:
        """Let names mean what a plan says, and let go of what it does not offer."""
        self._plan = plan
        for name, offer in plan.offers.items():
            served = self._served.setdefault(name, _Served(Slot(offer, canary.hears)))
            served.slot.keep(name in plan.kept, plan.idle_s)
        for name in self._served.keys() - plan.offers.keys():
            slot = self._served.pop(name).slot
            log.info("model no longer offered", extra={"model": name, "recordings": slot.recordings})
            self._leaving.add(slot)
            self._spawn(self._let_go(slot))

    async def _let_go(self, slot: Slot[Engine]) -> None:
        await slot.finish()
        self._leaving.discard(slot)

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """One change at a time: two would both take the memory that each of them found free."""
        if self._changing:
            raise Conflict("The models are being changed already. Try again when that is done.", retry_after=5)
        self._changing = True
        try:
            yield
        finally:
            self._changing = False

    async def _to_the_end(self, work: Coroutine[Any, Any, T]) -> T:
        """The result of work that goes on when whoever waits for it here leaves."""
        return await asyncio.shield(self._spawn(work))

    def _spawn(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task


@dataclass(eq=False, slots=True)
class _Served:
    """A slot, whose turn it is at it, and how calls went of late. failed: when the last one failed (monotonic)."""

    slot: Slot[Engine]
    turns: Turns = field(default_factory=lambda: Turns(1))
    failures: int = 0
    failed: float = 0.0

    @property
    def load(self) -> Load:
        """What routes want to know."""
        failing = self.failures >= FAILURES and time.monotonic() < self.failed + AVOIDED_SECONDS
        model = self.slot.model
        waiting = max(0, self.slot.calls - model.card.width) + self.turns.waiting if model else self.slot.recordings
        return Load(up=not failing and not self.slot.down, waiting=waiting)

    @asynccontextmanager
    async def call(self) -> AsyncIterator[Engine]:
        """The engine for one call. Raises ModelUnavailable."""
        async with self.slot.lease() as engine:
            try:
                yield engine
            except EngineFailed:
                self.failures, self.failed = self.failures + 1, time.monotonic()
                raise
            self.failures = 0


class Lent:
    """An engine by its name: each call holds the version that serves then, and keeps it from being closed.

    turns: where clips wait for it; the same for all versions.
    """

    def __init__(self, served: _Served, card: ModelCard) -> None:
        self._served, self.card, self.turns = served, card, served.turns

    async def recognise(self, clip: Clip, ask: Ask) -> Recognition:
        """As the engine does. Also raises ModelUnavailable."""
        async with self._served.call() as engine:
            return await engine.recognise(clip, ask)

    async def recognise_stream(self, clip: Clip, ask: Ask) -> AsyncGenerator[Partial, None]:
        """As the engine does. Also raises ModelUnavailable."""
        async with self._served.call() as engine:
            # Engines write generators, whatever the protocol promises; one left half-way must not wait for its end.
            partials = cast("AsyncGenerator[Partial, None]", engine.recognise_stream(clip, ask))
            async with aclosing(partials):
                async for partial in partials:
                    yield partial

    async def close(self) -> None:
        """Nothing: the registry closes engines."""


def _turns(card: ModelCard) -> int:
    """How many clips may be at an engine at once."""
    return card.width + max(1, card.width // AHEAD)
