"""A model that can be loaded, and a model that was."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Generic, Protocol, TypeVar

from tingdao.engines.servers import Servers

log = logging.getLogger(__name__)

NO_LIMIT = 1 << 62
"""Bytes."""


class Closable(Protocol):
    """Whatever holds a model."""

    async def close(self) -> None:
        """Free it."""
        ...


ModelT = TypeVar("ModelT", bound=Closable)


@dataclass(frozen=True, slots=True)
class Offer(Generic[ModelT]):
    """A model that can be loaded.

    load: blocks; raises SetupError when something is missing.
    recipe: what `load` depends on. An offer of the same name with another recipe is another model.
    memory: bytes that it will take, roughly; 0 when nobody knows.
    free: bytes that are free where it will be; may block.
    alone: it cannot be loaded beside an older version that says so too, whatever the memory.
    open: finishes the loading in the event loop, for models that live there; it may be cancelled.
    trouble: why a loaded model cannot work now, or how far it is while it opens, in words for the operator; None while
        it can.
    servers: those that a loaded model runs on; None for models that run here.
    adopt: lets a loaded model of the same recipe take up what else new settings say. Raises SetupError; then the model
    is as before.
    """

    name: str
    load: Callable[[], ModelT]
    recipe: object = None
    memory: int = 0
    free: Callable[[], int] = lambda: NO_LIMIT
    alone: bool = False
    open: Callable[[ModelT], Awaitable[None]] | None = None
    trouble: Callable[[ModelT], str | None] = lambda _: None
    servers: Callable[[ModelT], Servers] | None = None
    adopt: Callable[[ModelT], Awaitable[None]] | None = None


@dataclass(eq=False, slots=True)
class Version(Generic[ModelT]):
    """A loaded model and how many use it now.

    hears: whether it copes with the canary; None before it was asked.
    since: when it was loaded, in seconds of the epoch.
    """

    model: ModelT
    hears: bool | None = None
    since: float = field(default_factory=time.time)
    users: int = 0
    unused: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        self.unused.set()

    @contextmanager
    def used(self) -> Iterator[None]:
        """One use of it."""
        self.users += 1
        self.unused.clear()
        try:
            yield
        finally:
            self.users -= 1
            if not self.users:
                self.unused.set()

    async def close(self) -> None:
        """Free the model, and let go of it."""
        try:
            await self.model.close()
        except Exception:
            log.exception("a model could not be closed")
        del self.model
