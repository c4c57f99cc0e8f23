"""Work for processors beside the event loop: on as many threads as there are cores, for the whole service.

More threads would not be faster; they would take turns with each other and with the event loop. What waits instead of
working (files, other threads, the network) is for `asyncio.to_thread`, whose threads it does not matter to hold up.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from functools import partial
from typing import ParamSpec, TypeVar

COUNT = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
"""Cores that this process may use."""

_THREADS = ThreadPoolExecutor(COUNT, thread_name_prefix="core")

P = ParamSpec("P")
T = TypeVar("T")


async def on_core(work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """What `work` returns or raises, done on one of the threads. For milliseconds of work, not for seconds."""
    call = partial(copy_context().run, work, *args, **kwargs)
    return await asyncio.get_running_loop().run_in_executor(_THREADS, call)
