"""Names → engines: which models there are, which one a request gets, and how far each is loaded.

A model is described by an `Offer`: its name and how to load it. `Loading` loads it once, in a thread, so that the
HTTP side answers from the first second; whoever asks for the model meanwhile waits for the same load.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Generic, Literal, Protocol, TypeVar

from tingdao.engines.base import Engine, ModelCard
from tingdao.errors import ModelNotFound, ModelUnavailable, SetupError

log = logging.getLogger(__name__)

DEFAULT = "default"
"""The name that always means the default model."""

State = Literal["idle", "loading", "ready", "failed"]


class Closable(Protocol):
    """Whatever holds a model."""

    async def close(self) -> None:
        """Free it."""
        ...


ModelT = TypeVar("ModelT", bound=Closable)


@dataclass(frozen=True, slots=True)
class Offer(Generic[ModelT]):
    """A model that can be loaded. `load` blocks; it raises SetupError when something is missing."""

    name: str
    load: Callable[[], ModelT]


class Loading(Generic[ModelT]):
    """One offered model: loaded at most once, however many ask for it."""

    def __init__(self, offer: Offer[ModelT]) -> None:
        self.name = offer.name
        self._load = offer.load
        self._task: asyncio.Task[ModelT] | None = None

    def begin(self) -> asyncio.Task[ModelT]:
        """Start to load, unless that is under way or done, without waiting for it."""
        # A failed load is tried again by the next request: the operator may have put the weights in place.
        if self._task is None or self.state == "failed":
            self._task = asyncio.create_task(self._logged(), name=f"load {self.name}")
        return self._task

    async def get(self) -> ModelT:
        """The model, once it is loaded. Raises ModelUnavailable."""
        try:
            return await asyncio.shield(self.begin())
        except SetupError as error:
            raise ModelUnavailable(
                f"The model {self.name!r} could not be loaded. Its operator finds the reason in the log "
                "and with `tingdao check`.",
                retry_after=60,
            ) from error

    @property
    def state(self) -> State:
        """How far it is."""
        if self._task is None:
            return "idle"
        if not self._task.done() or self._task.cancelled():
            return "loading"
        return "failed" if self._task.exception() else "ready"

    @property
    def reason(self) -> str | None:
        """Why it failed, in words for the operator."""
        return str(self._task.exception()) if self._task and self.state == "failed" else None

    @property
    def model(self) -> ModelT | None:
        """The model, when it is there."""
        return self._task.result() if self._task and self.state == "ready" else None

    async def close(self) -> None:
        """Free the model; one that is still being loaded is waited for, since a thread cannot be stopped."""
        task, self._task = self._task, None
        if task is not None:
            try:
                await (await task).close()
            except SetupError:
                return  # it never loaded, and the log says why

    async def _logged(self) -> ModelT:
        began = time.monotonic()
        try:
            model = await asyncio.to_thread(self._load)
        except SetupError as error:
            log.error("model not loaded", extra={"model": self.name, "reason": str(error)})
            raise
        except Exception as error:
            # Whatever a model library raises must not kill the service.
            log.exception("model not loaded", extra={"model": self.name})
            raise SetupError(f"Loading {self.name} failed: {type(error).__name__}: {error}") from error
        log.info("model ready", extra={"model": self.name, "seconds": round(time.monotonic() - began, 2)})
        return model


@dataclass(frozen=True, slots=True)
class ModelState:
    """What is known of a model now. `reason` says in words why it failed; the card is known once it is ready."""

    name: str
    state: State
    card: ModelCard | None = None
    reason: str | None = None


class Registry:
    """All models of one service.

    offers: the first is the default model.
    aliases: names of other services → names here.
    """

    def __init__(self, offers: list[Offer[Engine]], aliases: Mapping[str, str]) -> None:
        self._models = {offer.name: Loading(offer) for offer in offers}
        self.default = offers[0].name
        self._aliases = {DEFAULT: self.default, **aliases}
        self.created = int(time.time())

    def resolve(self, name: str | None) -> str:
        """The name of the model that a request means; None or empty means the default. Raises ModelNotFound."""
        wanted = name or DEFAULT
        for _ in range(len(self._aliases) + 1):  # an alias may name another one
            if wanted in self._models:
                return wanted
            if wanted not in self._aliases:
                break
            wanted = self._aliases[wanted]
        raise ModelNotFound(
            f"There is no model {(name or '')[:80]!r} here. Models: {', '.join(self._models)}; "
            f"{DEFAULT!r} is {self.default!r}.",
            param="model",
        )

    def begin_loading(self, name: str | None = None) -> None:
        """Start to load a model, the default one by default, without waiting for it."""
        self._models[self.resolve(name)].begin()

    async def engine(self, name: str | None = None) -> Engine:
        """The engine of a model, once it is loaded. Raises ModelNotFound, ModelUnavailable."""
        return await self._models[self.resolve(name)].get()

    def states(self) -> list[ModelState]:
        """Every model and how far it is."""
        return [self.state(name) for name in self._models]

    def state(self, name: str | None = None) -> ModelState:
        """How far one model is, the default one by default. Raises ModelNotFound."""
        found = self._models[self.resolve(name)]
        return ModelState(found.name, found.state, found.model.card if found.model else None, found.reason)

    async def close(self) -> None:
        """Free every model."""
        for model in self._models.values():
            await model.close()
