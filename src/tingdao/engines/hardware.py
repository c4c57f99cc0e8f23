"""Which device and which type of numbers a model runs on, and how much memory is free there."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch.nn import functional

from tingdao import cores
from tingdao.errors import SetupError

log = logging.getLogger(__name__)

torch.set_num_threads(min(torch.get_num_threads(), cores.COUNT))  # it does not know of a container's share


def choose_device(wanted: str) -> torch.device:
    """`auto`, `cpu`, `cuda` or `cuda:N` → a device that is there. Raises SetupError."""
    if wanted == "auto":
        wanted = "cuda" if torch.cuda.is_available() else "cpu"
    device = torch.device(wanted)
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise SetupError(
            f"There is no GPU {wanted!r} that PyTorch can use: it finds {torch.cuda.device_count()}. "
            "Set `device` to auto or cpu, or install a PyTorch with CUDA and its driver."
        )
    return device


def choose_dtype(wanted: str, device: torch.device) -> torch.dtype:
    """`auto` or a name of torch's → the type to compute in."""
    if wanted != "auto":
        named: torch.dtype = getattr(torch, wanted)
        return named
    if device.type == "cuda":
        with torch.cuda.device(device):
            native = torch.cuda.is_bf16_supported(including_emulation=False)
        return torch.bfloat16 if native else torch.float16
    return torch.bfloat16 if packs(device, torch.bfloat16) and _bfloat16_is_faster() else torch.float32


def packs(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether matrices are packed for oneDNN: on CPUs that multiply bf16 in hardware.

    On a 2-core Sapphire Rapids, few rows times a matrix read 25 GB/s packed, and 15 GB/s plain.
    """
    if device.type != "cpu" or dtype != torch.bfloat16 or not torch.backends.mkldnn.is_available():
        return False
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())  # noqa: SLF001  no other way


def pack(weight: torch.Tensor) -> torch.Tensor:
    """A matrix (out, in) in the order that oneDNN reads fastest; for `packed_product` only."""
    packed: torch.Tensor = torch.ops.mkldnn._reorder_linear_weight(weight, None)  # noqa: SLF001  torch's own name
    return packed


def packed_product(x: torch.Tensor, packed: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    """Give x (n, in) times a packed matrix, plus a bias (out,) → (n, out)."""
    product: torch.Tensor = torch.ops.mkldnn._linear_pointwise(x, packed, bias, "none", [], "")  # noqa: SLF001  as above
    return product


def free_memory(device: torch.device) -> int:
    """Bytes that can still be taken on a device."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    free = pages // 2
    meminfo = Path("/proc/meminfo")
    if meminfo.is_file():
        lines = dict(line.split(":", 1) for line in meminfo.read_text().splitlines())
        free = int(lines["MemAvailable"].split()[0]) * 1024
    limit = Path("/sys/fs/cgroup/memory.max")
    if limit.is_file() and (bound := limit.read_text().strip()).isdigit():
        free = min(free, int(bound) - int(limit.with_name("memory.current").read_text()))
    return max(free, 0)


@contextmanager
def memory_errors() -> Iterator[None]:
    """Torch's ways to say that memory ran out → MemoryError."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        torch.cuda.empty_cache()
        raise MemoryError(str(error)) from error
    except RuntimeError as error:
        if "can't allocate memory" in str(error) or "not enough memory" in str(error):
            raise MemoryError(str(error)) from error
        raise


def _bfloat16_is_faster() -> bool:
    """Measured, in about 50 ms: a matrix of the 0.6B model times one row of a batch of eight."""
    seconds = {}
    for dtype in (torch.float32, torch.bfloat16):
        weights = [torch.randn(3072, 1024).to(dtype) for _ in range(8)]
        if dtype == torch.bfloat16:
            weights = [pack(weight) for weight in weights]
        product = packed_product if dtype == torch.bfloat16 else functional.linear
        x = torch.randn(8, 1024).to(dtype)
        times = []
        for _ in range(4):
            for weight in weights:
                begun = time.perf_counter()
                product(x, weight)
                times.append(time.perf_counter() - begun)
        seconds[dtype] = min(times)
    log.info(
        "bfloat16 against float32",
        extra={"microseconds": {str(dtype)[6:]: round(1e6 * least) for dtype, least in seconds.items()}},
    )
    return seconds[torch.bfloat16] < seconds[torch.float32]
