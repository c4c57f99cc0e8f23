"""How much memory there is, how much a model will take of it, and how to give it back. Needs no torch."""

from __future__ import annotations

import ctypes
import gc
import os
import sys
from dataclasses import dataclass
from pathlib import Path

FACTOR = 2
"""Memory that a model takes, in sizes of its weights' files: they may become float32, twice the size on disk, and
where they stay bfloat16 the rest is room to work."""


def free_memory() -> int:
    """Bytes that this process can still take of the machine's memory, or of what its control group may have."""
    free = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
    meminfo = Path("/proc/meminfo")
    if meminfo.is_file():
        free = _numbers(meminfo, ":")["MemAvailable"] * 1024
    group = Path("/sys/fs/cgroup")
    limit = group / "memory.max"
    if limit.is_file() and (bound := limit.read_text().strip()).isdigit():
        used = int((group / "memory.current").read_text())
        # Files that were read count as used, and make room when it is needed.
        files = _numbers(group / "memory.stat", " ")["inactive_file"]
        free = min(free, int(bound) - used + files)
    return max(free, 0)


def resident() -> int:
    """Bytes of memory that this process occupies; 0 where nobody says."""
    file = Path("/proc/self/statm")
    return int(file.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") if file.is_file() else 0


@dataclass(frozen=True, slots=True)
class Gpu:
    """Memory of one GPU, in bytes. used: by whomever. reserved: by this process."""

    number: int
    used: int
    reserved: int
    total: int


def gpus() -> list[Gpu]:
    """The GPUs that this process computes on."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_initialized():
        return []
    found = []
    for number in range(torch.cuda.device_count()):
        # Asking a GPU that is not used would take some of its memory.
        if reserved := torch.cuda.memory_reserved(number):
            free, total = torch.cuda.mem_get_info(number)
            found.append(Gpu(number, total - free, reserved, total))
    return found


def estimate(folder: Path) -> int:
    """Bytes that a model will take whose weights lie in a folder; 0 when nobody knows."""
    return FACTOR * sum(file.stat().st_size for file in folder.glob("*.safetensors"))


def give_back() -> None:
    """Give what nobody refers to any more back to the system. Blocks, for up to a second with much memory."""
    gc.collect()
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        torch.cuda.empty_cache()
    # glibc keeps what was freed, which with weights is most of the process; other C libraries have no such call.
    if trim := getattr(ctypes.CDLL(None), "malloc_trim", None):
        trim(0)


def _numbers(file: Path, separator: str) -> dict[str, int]:
    """The numbers in a file of lines `name number …`."""
    lines = (line.partition(separator) for line in file.read_text().splitlines())
    return {name: int(rest.split()[0]) for name, _, rest in lines}
