"""From an offer to a version that may serve: load, open, and the canary.

    Offer ─ load, in a thread ─► model ─ open, in the event loop ─► Version ─ canary ─► one that may replace another

A thread cannot be stopped; `Offer.open`, which may take minutes, can be given up.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Generic

from tingdao.engines import memory
from tingdao.engines.offer import ModelT, Offer, Version
from tingdao.errors import SetupError

log = logging.getLogger(__name__)

CANARY_SECONDS = 60.0
"""How long a model may take for the canary."""

Canary = Callable[[ModelT], Awaitable[bool]]
"""Tries a model on a known recording: whether it makes sense of it. Raises whatever the model raises."""


@dataclass(frozen=True, slots=True)
class _Opening(Generic[ModelT]):
    """A model whose loading is being finished in the event loop."""

    offer: Offer[ModelT]
    model: ModelT
    task: asyncio.Future[None]


class Loader(Generic[ModelT]):
    """Loads one version after the other under one name.

    unwanted: set when nothing is to be opened any more, since everything ends.
    """

    def __init__(self, name: str, canary: Canary[ModelT]) -> None:
        self._name, self._canary = name, canary
        self._opening: _Opening[ModelT] | None = None
        self.unwanted = False

    @property
    def opening(self) -> Offer[ModelT] | None:
        """What is being opened, and could be given up."""
        return self._opening.offer if self._opening else None

    @property
    def progress(self) -> str | None:
        """How far a model is that is being opened, in words for the operator."""
        return self._opening.offer.trouble(self._opening.model) if self._opening else None

    def give_up(self) -> bool:
        """End a load that is being opened, which then fails; whether there is one."""
        if self._opening:
            self._opening.task.cancel()
        return self._opening is not None

    async def load(self, offer: Offer[ModelT]) -> Version[ModelT]:
        """Load a version, which does not serve yet. Raises SetupError."""
        began = time.monotonic()
        version = None
        try:
            version = Version(await asyncio.to_thread(offer.load))
            await self._open(offer, version.model)
        except SetupError as error:
            log.error("model not loaded", extra={"model": self._name, "reason": str(error)})
            reason = str(error)
        except Exception as error:
            # Whatever a model library raises must not kill the service.
            log.exception("model not loaded", extra={"model": self._name})
            reason = f"Loading {self._name} failed: {type(error).__name__}: {error}"
        else:
            log.info("model ready", extra={"model": self._name, "seconds": round(time.monotonic() - began, 2)})
            return version
        if version:
            await version.close()
        # Raised here and not above: an error's traceback would keep what was loaded until then.
        await asyncio.to_thread(memory.give_back)
        raise SetupError(reason)

    async def replacement(self, offer: Offer[ModelT], *, hears: bool) -> Version[ModelT]:
        """A new version, which does not serve yet, and has been seen to work. Raises SetupError.

        hears: whether it must cope with the canary, since the old one does.
        """
        version = await self.load(offer)
        why = offer.trouble(version.model) or await self._fault(version, hears=hears)
        if why is None:
            return version
        await version.close()
        await asyncio.to_thread(memory.give_back)
        raise SetupError(f"{self._name} was loaded, but does not serve: {why.removesuffix('.')}.")

    async def hears(self, old: Version[ModelT]) -> bool:
        """Whether the canary can be expected of a new version: a broken or random one may be replaced by any.

        Asked once, since it stands in the old one's queue.
        """
        if old.hears is None:
            try:
                async with asyncio.timeout(CANARY_SECONDS):
                    old.hears = await self._canary(old.model)
            except Exception as error:  # noqa: BLE001  whatever it is, it is the old one's
                log.warning("the old model fails on the canary", extra={"model": self._name, "reason": repr(error)})
        return bool(old.hears)

    async def _fault(self, version: Version[ModelT], *, hears: bool) -> str | None:
        """What is wrong with how a new version does with the canary."""
        try:
            async with asyncio.timeout(CANARY_SECONDS):
                version.hears = await self._canary(version.model)
        except TimeoutError:
            return f"it took more than {CANARY_SECONDS:g} s over the canary recording"
        except Exception as error:  # whatever it is, this model must not serve
            log.exception("canary failed", extra={"model": self._name})
            return f"it failed on the canary recording: {type(error).__name__}: {error}"
        if hears and not version.hears:
            return "it makes nothing of the canary recording, and the old one does"
        return None

    async def _open(self, offer: Offer[ModelT], model: ModelT) -> None:
        """Finish a load. Raises SetupError when it is given up, and whatever the model raises."""
        if offer.open is None:
            return
        given_up = SetupError("It was given up before it was ready.")
        if self.unwanted:
            raise given_up
        self._opening = _Opening(offer, model, asyncio.ensure_future(offer.open(model)))
        try:
            await asyncio.wait({self._opening.task})
            if self._opening.task.cancelled():
                raise given_up
            self._opening.task.result()
        finally:
            self._opening = None
