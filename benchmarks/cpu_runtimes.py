"""Which library multiplies fastest what a decoding step of Qwen3-ASR 0.6B multiplies: all its matrices, for few rows.

    python benchmarks/cpu_runtimes.py [--rounds 4] [--ways openvino-int8-256 onnx-int8 …]

Needs openvino, onnxruntime with onnx, and torch. Each way runs in a process of its own that waits while another one
runs; they take turns within every round. Printed are the least and the median of the milliseconds.

The ways: `openvino-int8-N`, OpenVINO in float32 with weights of 8 bits and activations rounded to 8 bits in groups of
N; `openvino-int8-bf16`, the same weights multiplied in bfloat16, which is the library's default where the hardware does
it; `openvino-int4-…` likewise; `onnx-int8`, `onnx-int4`, onnxruntime's MatMulNBits; `torch`, PyTorch's dynamic int8.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable
from statistics import median
from typing import Any

import numpy as np

LAYERS, HIDDEN, MIXED, QKV, INNER, VOCABULARY = 28, 1024, 2048, 4096, 3072, 151_936
SHAPES = ((QKV, HIDDEN), (HIDDEN, MIXED), (2 * INNER, HIDDEN), (HIDDEN, INNER))
"""The matrices of one layer (out, in): queries with keys and values, output, gate with up, down."""
ROWS = (1, 4, 8, 16, 160)
THREADS = 2
Run = Callable[[np.ndarray], object]
DICE = np.random.default_rng(0)


def openvino(bits: str, how: str) -> Run:
    """OpenVINO; scales to a row in 8 bits, to 64 columns in 4."""
    import openvino as library
    from openvino import Type
    from openvino import opset13 as op

    def product(x: Any, out: int, into: int) -> Any:  # noqa: ANN401  nodes have no useful type
        if bits == "int8":
            whole = op.convert(op.constant(DICE.integers(-127, 127, (out, into), dtype=np.int8)), Type.f32)
            weight = op.multiply(whole, op.constant(np.full((out, 1), 3e-4, np.float32)))
        else:
            packed = library.Tensor(Type.i4, library.Shape([out, into // 64, 64]))
            packed.data[:] = DICE.integers(0, 255, packed.data.shape, dtype=np.uint8)
            scales = op.constant(np.full((out, into // 64, 1), 3e-3, np.float32))
            weight = op.multiply(op.convert(op.constant(packed), Type.f32), scales)
            weight = op.reshape(weight, op.constant(np.array([out, into])), special_zero=False)
        return op.matmul(x, weight, transpose_a=False, transpose_b=True)

    def part(x: Any, begin: int, end: int, axis: int = 1) -> Any:  # noqa: ANN401  as above
        return op.slice(x, *(op.constant([number]) for number in (begin, end, 1, axis)))

    x = hidden = op.parameter(library.PartialShape([-1, HIDDEN]), Type.f32)
    for _ in range(LAYERS):
        hidden = op.add(hidden, product(part(product(hidden, *SHAPES[0]), 0, MIXED), *SHAPES[1]))
        both = product(hidden, *SHAPES[2])
        inner = op.multiply(op.swish(part(both, 0, INNER)), part(both, INNER, 2 * INNER))
        hidden = op.add(hidden, product(inner, *SHAPES[3]))
    logits = product(part(hidden, -16, 1 << 30, 0), VOCABULARY, HIDDEN)
    graph = library.Model([op.reduce_max(logits, op.constant([1]))], [x], "step")
    options = {
        "INFERENCE_PRECISION_HINT": "bf16" if how == "bf16" else "f32",
        "DYNAMIC_QUANTIZATION_GROUP_SIZE": 0 if how == "bf16" else int(how),
        "INFERENCE_NUM_THREADS": THREADS,
    }
    request = library.Core().compile_model(graph, "CPU", options).create_infer_request()
    return lambda rows: request.infer([rows])


def onnx(bits: str) -> Run:
    """Onnxruntime's MatMulNBits with activations in 8 bits; scales to 128 columns in 8 bits, to 64 in 4."""
    import onnx as format_
    import onnxruntime
    from onnx import TensorProto, helper, numpy_helper

    width, block = (8, 128) if bits == "int8" else (4, 64)
    stored: list[Any] = []
    nodes: list[Any] = []

    def constant(value: np.ndarray) -> str:
        stored.append(numpy_helper.from_array(value, f"c{len(stored)}"))
        return str(stored[-1].name)

    def node(kind: str, *inputs: str, **more: Any) -> str:  # noqa: ANN401  attributes of any type
        nodes.append(helper.make_node(kind, inputs, [f"n{len(nodes)}"], **more))
        return str(nodes[-1].output[0])

    def product(x: str, out: int, into: int) -> str:
        numbers = constant(DICE.integers(0, 255, (out, into // block, block * width // 8), dtype=np.uint8))
        scales = constant(np.full(out * into // block, 3e-4, np.float32))
        sizes = {"K": into, "N": out, "bits": width, "block_size": block, "accuracy_level": 4}
        return node("MatMulNBits", x, numbers, scales, domain="com.microsoft", **sizes)

    def part(x: str, begin: int, end: int, axis: int = 1) -> str:
        return node("Slice", x, *(constant(np.array([number])) for number in (begin, end, axis)))

    hidden = "x"
    for _ in range(LAYERS):
        hidden = node("Add", hidden, product(part(product(hidden, *SHAPES[0]), 0, MIXED), *SHAPES[1]))
        both = product(hidden, *SHAPES[2])
        gate = part(both, 0, INNER)
        inner = node("Mul", node("Mul", gate, node("Sigmoid", gate)), part(both, INNER, 2 * INNER))
        hidden = node("Add", hidden, product(inner, *SHAPES[3]))
    logits = product(part(hidden, -16, 1 << 30, 0), VOCABULARY, HIDDEN)
    end = node("ReduceMax", logits, constant(np.array([1])), keepdims=0)
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in ("x", end)]
    graph = helper.make_graph(nodes, "step", values[:1], values[1:], stored)
    imports = [helper.make_opsetid("", 18), helper.make_opsetid("com.microsoft", 1)]
    made = helper.make_model(graph, opset_imports=imports, ir_version=9)
    assert isinstance(made, format_.ModelProto)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = THREADS
    # As the service must: on a machine that does other work too, waiting threads that spin take its cores.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = onnxruntime.InferenceSession(made.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return lambda rows: session.run(None, {"x": rows})


def torch() -> Run:
    """PyTorch's dynamic int8."""
    import torch as library
    from torch import nn

    library.set_num_threads(THREADS)
    library.backends.quantized.engine = "onednn"

    def product(out: int, into: int) -> nn.Module:
        plain = nn.Sequential(nn.Linear(into, out, bias=False))
        return library.ao.quantization.quantize_dynamic(plain, {nn.Linear}, dtype=library.qint8)[0]

    layers = [[product(*shape) for shape in SHAPES] for _ in range(LAYERS)]
    head = product(VOCABULARY, HIDDEN)

    def step(rows: np.ndarray) -> object:
        with library.inference_mode():
            hidden = library.from_numpy(rows)
            for qkv, out, gate_up, down in layers:
                hidden = hidden + out(qkv(hidden)[:, :MIXED])
                gate, up = gate_up(hidden).chunk(2, dim=-1)
                hidden = hidden + down(nn.functional.silu(gate) * up)
            return head(hidden[-16:]).amax(1)

    return step


WAYS: dict[str, Callable[..., Run]] = {"openvino": openvino, "onnx": onnx, "torch": torch}
DEFAULT = ("openvino-int8-256", "openvino-int8-bf16", "openvino-int4-64", "openvino-int4-bf16")
DEFAULT += ("onnx-int8", "onnx-int4", "torch")


def work(way: str) -> None:
    """The side of a child: for every line with a number of rows, answer with a line of times."""
    name, *how = way.split("-")
    run = WAYS[name](*how)
    rows = {count: (DICE.standard_normal((count, HIDDEN)) * 0.1).astype(np.float32) for count in ROWS}
    for x in rows.values():
        run(x)
    print(json.dumps("ready"), flush=True)
    for line in sys.stdin:
        times = []
        for _ in range(6 if int(line) < 100 else 2):
            begun = time.perf_counter()
            run(rows[int(line)])
            times.append(1000 * (time.perf_counter() - begun))
        print(json.dumps(times), flush=True)


def main() -> None:
    """The command line."""
    line = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    line.add_argument("--rounds", type=int, default=4)
    line.add_argument("--ways", nargs="+", default=DEFAULT)
    line.add_argument("--work", help=argparse.SUPPRESS)
    given = line.parse_args()
    if given.work:
        work(given.work)
        return
    children = {
        way: subprocess.Popen(
            [sys.executable, __file__, "--work", way], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for way in given.ways
    }
    taken: dict[tuple[str, int], list[float]] = {}
    for child in children.values():
        assert child.stdout
        child.stdout.readline()
    for _ in range(given.rounds):
        for count in ROWS:
            for way, child in children.items():
                assert child.stdin
                assert child.stdout
                child.stdin.write(f"{count}\n")
                child.stdin.flush()
                taken.setdefault((way, count), []).extend(json.loads(child.stdout.readline()))
    print(f"{'ms (least, median) for rows':28}" + "".join(f"{count:>14}" for count in ROWS))
    for way, child in children.items():
        cells = "".join(f"{min(taken[way, count]):8.0f}{median(taken[way, count]):6.0f}" for count in ROWS)
        print(f"{way:28}{cells}")
        assert child.stdin
        child.stdin.close()
        child.wait()


if __name__ == "__main__":
    main()
