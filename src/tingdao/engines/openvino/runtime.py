"""How graphs are compiled and run: threads, types of numbers, and what this processor is good at."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import openvino

from tingdao import cores

log = logging.getLogger(__name__)

ACTIVATIONS = 256
"""Numbers of a row that are rounded to 8 bits with a scale of their own, before they meet a matrix of 8 bits."""
CPUINFO = Path("/proc/cpuinfo")
FAST = ("avx512_vnni", "avx_vnni")
"""Instructions, by the names in /proc/cpuinfo, that multiply 8 bits at full speed."""


def compile_graph(graph: openvino.Model, threads: int, **options: Any) -> openvino.CompiledModel:  # noqa: ANN401  as is
    """Make a graph ready to run.

    threads: 0 means all cores that this process may use.
    options: properties of OpenVINO's CPU plugin.
    """
    given = {"INFERENCE_NUM_THREADS": threads or cores.COUNT, "NUM_STREAMS": 1, **options}
    return openvino.Core().compile_model(graph, "CPU", given)


@contextmanager
def computing() -> Iterator[None]:
    """Turn OpenVINO's error for want of memory into MemoryError."""
    try:
        yield
    except RuntimeError as error:
        if "bad_alloc" in str(error) or "llocat" in str(error):
            raise MemoryError(str(error)) from error
        raise


def exact() -> dict[str, Any]:
    """Properties of the plugin with which everything is computed in float32."""
    return {"INFERENCE_PRECISION_HINT": "f32", "DYNAMIC_QUANTIZATION_GROUP_SIZE": 0, "KV_CACHE_PRECISION": "f32"}


def fast(group: int = ACTIVATIONS) -> dict[str, Any]:
    """Properties with which products and memory are in 8 bits, and everything between them in float32.

    group: numbers of a row with a scale of their own. Not more than share one in the matrix: else the library unpacks
    the matrix, and a prompt takes 2.5 times as long.
    """
    whole = {"DYNAMIC_QUANTIZATION_GROUP_SIZE": group, "KV_CACHE_PRECISION": "u8"}
    return exact() | whole


def half() -> dict[str, Any]:
    """Properties with which a graph of bfloat16 is computed as it is."""
    return exact() | {"INFERENCE_PRECISION_HINT": "bf16"}


def has_bfloat16() -> bool:
    """Whether this processor multiplies bfloat16 in hardware."""
    return "BF16" in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


def slow_reason() -> str | None:
    """Why 8 bits are not at full speed here, in words; None when they are, or when there is no telling."""
    if not CPUINFO.is_file():
        return None
    flags = next((line for line in CPUINFO.read_text().splitlines() if line.startswith("flags")), "")
    if not flags or any(name in flags.split() for name in FAST):
        return None
    return f"this processor has none of {', '.join(FAST)}"
