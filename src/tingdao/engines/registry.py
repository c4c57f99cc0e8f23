"""Names → engines: which models there are, which one a request gets, and how far each is loaded.

A model is described by an `Offer`: its name and how to load it. Loading happens once, in a thread, so that the HTTP
side answers from the first second; whoever asks for the model meanwhile waits for the same load.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

from tingdao.engines.base import Engine, ModelCard
from tingdao.errors import ModelNotFound, ModelUnavailable, SetupError

log = logging.getLogger(__name__)

DEFAULT = "default"
"""The name that always means the default model."""


@dataclass(frozen=True, slots=True)
class Offer:
    """A model that can be loaded. `load` blocks; it raises SetupError when something is missing."""

    name: str
    load: Callable[[], Engine]


@dataclass(frozen=True, slots=True)
class ModelState:
    """What is known of a model now. `reason` says in words why it failed; the card is known once it is ready."""

    name: str
    state: Literal["idle", "loading", "ready", "failed"]
    card: ModelCard | None = None
    reason: str | None = None


class Registry:
    """All models of one service.

    offers: the first is the default model.
    aliases: names of other services → names here.
    """

    def __init__(self, offers: list[Offer], aliases: Mapping[str, str]) -> None:
        self._offers = {offer.name: offer for offer in offers}
        self.default = offers[0].name
        self._aliases = {DEFAULT: self.default, **aliases}
        self._loads: dict[str, asyncio.Task[Engine]] = {}
        self.created = int(time.time())

    def resolve(self, name: str | None) -> str:
        """The name of the model that a request means; None or empty means the default. Raises ModelNotFound."""
        wanted = name or DEFAULT
        for _ in range(len(self._aliases) + 1):  # an alias may name another one
            if wanted in self._offers:
                return wanted
            if wanted not in self._aliases:
                break
            wanted = self._aliases[wanted]
        raise ModelNotFound(
            f"There is no model {(name or '')[:80]!r} here. Models: {', '.join(self._offers)}; "
            f"{DEFAULT!r} is {self.default!r}.",
            param="model",
        )

    def begin_loading(self, name: str | None = None) -> None:
        """Start to load a model, the default one by default, without waiting for it."""
        self._load(self.resolve(name))

    async def engine(self, name: str | None = None) -> Engine:
        """The engine of a model, once it is loaded. Raises ModelNotFound, ModelUnavailable."""
        resolved = self.resolve(name)
        try:
            return await asyncio.shield(self._load(resolved))
        except SetupError as error:
            raise ModelUnavailable(
                f"The model {resolved!r} could not be loaded. Its operator finds the reason in the log "
                "and with `tingdao check`.",
                retry_after=60,
            ) from error

    def states(self) -> list[ModelState]:
        """Every model and how far it is."""
        return [self.state(name) for name in self._offers]

    def state(self, name: str | None = None) -> ModelState:
        """How far one model is, the default one by default. Raises ModelNotFound."""
        name = self.resolve(name)
        task = self._loads.get(name)
        if task is None:
            return ModelState(name, "idle")
        if not task.done() or task.cancelled():
            return ModelState(name, "loading")
        if error := task.exception():
            return ModelState(name, "failed", reason=str(error))
        return ModelState(name, "ready", card=task.result().card)

    async def close(self) -> None:
        """Stop loading and free every model."""
        for task in self._loads.values():
            try:
                await (await task).close()
            except SetupError:
                continue  # it never loaded, and the log says why
        self._loads.clear()

    def _load(self, name: str) -> asyncio.Task[Engine]:
        task = self._loads.get(name)
        # A failed load is tried again by the next request: the operator may have put the weights in place.
        if task is None or (task.done() and task.exception()):
            task = self._loads[name] = asyncio.create_task(self._load_logged(name), name=f"load {name}")
        return task

    async def _load_logged(self, name: str) -> Engine:
        began = time.monotonic()
        try:
            engine = await asyncio.to_thread(self._offers[name].load)
        except SetupError as error:
            log.error("model not loaded", extra={"model": name, "reason": str(error)})
            raise
        except Exception as error:
            log.exception("model not loaded", extra={"model": name})
            raise SetupError(f"Loading {name} failed: {type(error).__name__}: {error}") from error
        log.info("model ready", extra={"model": name, "seconds": round(time.monotonic() - began, 2)})
        return engine
