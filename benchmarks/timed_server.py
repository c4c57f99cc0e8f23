"""The service with an engine that takes exactly as long as it is told, for what depends on its speed and nothing else.

    python benchmarks/timed_server.py --seconds 0.5 --width 4

Everything but the model is real: server, door, decoder, voice activity, pipeline. It listens on a free port, which the
line `serving` of its log tells. Settings come from the environment, as always.
"""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import AsyncIterator
from functools import partial

from tingdao import models, server
from tingdao.engines.base import Ask, ModelCard, Partial, Recognition
from tingdao.engines.offer import Offer
from tingdao.settings import load
from tingdao.types import Clip


class TimedEngine:
    """Takes `seconds` for each clip, `width` at once."""

    def __init__(self, seconds: float, width: int) -> None:
        self.card = ModelCard("timed", "timed", frozenset({"en", "zh"}), 30.0, width, frozenset({"words"}))
        self._seconds = seconds
        self._free = asyncio.Semaphore(width)

    async def recognise(self, clip: Clip, ask: Ask) -> Recognition:
        """Nothing, after a while."""
        async with self._free:
            await asyncio.sleep(self._seconds)
        return Recognition("Ask not what your country can do for you.", "en")

    async def recognise_stream(self, clip: Clip, ask: Ask) -> AsyncIterator[Partial]:
        """The same at once."""
        recognition = await self.recognise(clip, ask)
        yield Partial(recognition.text, recognition)

    async def close(self) -> None:
        """There is nothing to free."""


def main() -> None:
    """Serve."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=0.5, help="that a clip takes")
    parser.add_argument("--width", type=int, default=4, help="clips at once")
    given = parser.parse_args()
    offer = Offer("timed", lambda: TimedEngine(given.seconds, given.width))
    models.offers = lambda _: [offer]
    read = partial(load, server={"port": 0})
    server.serve(read(), read)


if __name__ == "__main__":
    main()
