"""Work beside the event loop."""

import asyncio
import threading
from contextvars import ContextVar

import pytest

from tingdao import cores


def test_no_more_at_once_than_cores_and_the_rest_in_turn():
    at_work, most, lock, full = set(), 0, threading.Lock(), threading.Barrier(cores.COUNT, timeout=5)

    def work(number):
        nonlocal most
        with lock:
            at_work.add(number)
            most = max(most, len(at_work))
        full.wait()  # only gets on when all cores are at work
        with lock:
            at_work.remove(number)
        return number

    async def main():
        return await asyncio.gather(*(cores.on_core(work, number) for number in range(3 * cores.COUNT)))

    assert asyncio.run(main()) == list(range(3 * cores.COUNT))
    assert most == cores.COUNT


def test_it_knows_whose_work_it_is_and_fails_as_the_work_does():
    whose = ContextVar("whose")

    async def main():
        whose.set("Ada")
        assert await cores.on_core(whose.get) == "Ada"
        with pytest.raises(ValueError, match="no number"):
            await cores.on_core(fail)

    def fail():
        raise ValueError("no number")

    asyncio.run(main())
