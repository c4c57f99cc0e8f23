"""How many cores there are for this process; and work for processors beside the event loop, on as many threads.

More threads would not be faster; they would take turns with each other and with the event loop. What waits instead of
working (files, other threads, the network) is for `asyncio.to_thread`, whose threads it does not matter to hold up.

A container sees all cores of its machine, and is stopped for the rest of each tenth of a second in which it used up its
share of them: with a thread for each core of a large machine that is most of the time. So its share counts.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from functools import partial
from math import ceil, inf
from pathlib import Path
from typing import ParamSpec, TypeVar

MEMBERSHIP, GROUPS = Path("/proc/self/cgroup"), Path("/sys/fs/cgroup")
"""Linux: which control groups this process is in, and where they are. See cgroups(7)."""


def available() -> int:
    """Cores that this process may use: that it is bound to, and no more than its control group has time for."""
    bound = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, ceil(min(bound, _share())))


def _share() -> float:
    """How many cores' time the control group may have, and those that it is in; infinite without a limit."""
    least = inf
    for line in MEMBERSHIP.read_text().splitlines() if MEMBERSHIP.is_file() else ():
        _, controllers, path = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):  # of version 1; version 2 names none
            continue
        root = GROUPS / "cpu" if controllers else GROUPS
        folder = root / path.lstrip("/")
        for each in (folder, *folder.parents):
            if each.is_relative_to(root):
                least = min(least, _limit(each))
    return least


def _limit(folder: Path) -> float:
    """How many cores' time one group may have."""
    try:
        if (file := folder / "cpu.max").is_file():
            quota, period = file.read_text().split()
        else:
            quota, period = ((folder / f"cpu.cfs_{name}_us").read_text().strip() for name in ("quota", "period"))
    except OSError:
        return inf
    return inf if quota in ("max", "-1") else int(quota) / int(period)


COUNT = available()
"""Cores that this process may use, as it was started."""

_THREADS = ThreadPoolExecutor(COUNT, thread_name_prefix="core")

P = ParamSpec("P")
T = TypeVar("T")


async def on_core(work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """What `work` returns or raises, done on one of the threads. For milliseconds of work, not for seconds."""
    call = partial(copy_context().run, work, *args, **kwargs)
    return await asyncio.get_running_loop().run_in_executor(_THREADS, call)
