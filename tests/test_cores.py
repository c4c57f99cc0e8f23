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


@pytest.mark.parametrize(
    ("membership", "files", "count"),
    [
        ("0::/", {"cpu.max": "max 100000"}, 16),
        ("0::/", {"cpu.max": "250000 100000"}, 3),
        ("0::/", {"cpu.max": "20000 100000"}, 1),
        ("0::/", {"cpu.max": "9900000 100000"}, 16),
        ("0::/a.slice/b.service", {"a.slice/cpu.max": "200000 100000", "a.slice/b.service/cpu.max": "max 100000"}, 2),
        ("0::/not/mounted/here", {"cpu.max": "400000 100000"}, 4),
        ("4:memory:/x\n3:cpu,b:/x\n0::/", {"cpu/x/cpu.cfs_quota_us": "150\n", "cpu/x/cpu.cfs_period_us": "50"}, 3),
        ("3:cpu,cpuacct:/docker/1f", {"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, 16),
        ("2:cpuset:/", {"cpu.max": "100000 100000"}, 16),
        (None, {}, 16),
    ],
)  # fmt: skip
def test_a_containers_share_counts(tmp_path, monkeypatch, membership, files, count):
    monkeypatch.setattr(cores, "MEMBERSHIP", tmp_path / "membership")
    monkeypatch.setattr(cores, "GROUPS", tmp_path / "groups")
    monkeypatch.setattr(cores.os, "sched_getaffinity", lambda _: set(range(16)), raising=False)
    if membership:
        cores.MEMBERSHIP.write_text(f"{membership}\n")
    for name, text in files.items():
        file = cores.GROUPS / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    assert cores.available() == count


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
