"""An engine on doubles of vLLM servers (`upstream.Double`), for all tests that need one."""

from __future__ import annotations

import asyncio
import time
from contextlib import asynccontextmanager

import numpy as np

from tingdao.engines.canary import recording
from tingdao.engines.vllm.engine import VllmEngine
from tingdao.engines.vllm.roster import system_lookup
from tingdao.settings import VllmSettings
from tingdao.types import Clip

SAID = "In eighteen thirteen."
CLIP = Clip(np.resize(recording().samples, 16_000 * 4))


def run(main):
    """Run a coroutine function to its end."""
    return asyncio.run(main())


@asynccontextmanager
async def engine_on(*doubles, lookup=system_lookup, **settings):
    settings.setdefault("upstreams", [double.url for double in doubles])
    engine = VllmEngine(VllmSettings(**settings), lookup)
    await engine.open()
    try:
        yield engine
    finally:
        await engine.close()


async def until(condition, seconds=10):
    """Wait for something to come about; a test that waits in vain fails here."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it never came to that"
        await asyncio.sleep(0.005)


def of(engine, double):
    """What an engine knows of a double."""
    (upstream,) = [each for address, each in engine.fleet.upstreams.all.items() if address.url == double.url]
    return upstream
