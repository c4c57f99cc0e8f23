"""Qwen3-ASR as two graphs of OpenVINO operations, built in code straight from the weights.

    decoder: embeddings of all rows' tokens, one after the other (T, hidden) ─ layers ─ logits of the asked positions
    encoder: log-mel chunks of 1 s (chunks, 1, bins, 100) ─ convolutions ─ windows (w, tokens, width) ─ layers ─ tokens

The decoder's attention is OpenVINO's paged one: keys and values of every row lie in blocks that a table names, so rows
of any length, with one new token or a piece of a prompt, go through together without padding, and nothing is copied
when a row joins or leaves. The operation is marked experimental, which is why the extra pins the version.

Nothing is traced from another library's model, so none is needed, and the graphs are exactly what serves. Weights come
as `Matrix`: plain, or whole numbers with a factor for each row or group of columns; those are multiplied as they are,
which is most of the speed. This module does not know about rows, clips or files.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import openvino
from numpy.typing import NDArray
from openvino import Type
from openvino import opset13 as op
from openvino.op import Parameter
from openvino.op import _PagedAttentionExtension as PagedAttention

from tingdao.engines.openvino.weights import AUDIO, HEAD, PROJECTOR, TEXT, Matrix, Weights, quantised
from tingdao.engines.qwen.dialogue import CHUNK, audio_tokens

Node = Any
"""A node of a graph, or one of its outputs: the package gives neither a useful type."""

TABLES = ("past_lens", "subsequence_begins", "block_indices", "block_indices_begins")
"""Inputs of the decoder that say which row each token and each block belongs to, all int32 (n,)."""


def decoder_graph(weights: Weights) -> openvino.Model:
    """The graph of the decoder.

    Inputs, beside those in `TABLES`: `x` (T, hidden); `cosine`, `sine` (T, 1, 1, head), the turns of each token's
    position; `asked` int32 (n,), whose logits are wanted; `max_context_len` int32 (); `key_cache.i`, `value_cache.i`,
    whose type and shape the compiled model tells. Output: logits (n, vocabulary).
    """
    text = weights.config["text_config"]
    heads, key_heads, size = text["num_attention_heads"], text["num_key_value_heads"], text["head_dim"]
    epsilon = text["rms_norm_eps"]
    x = _input("x", [-1, text["hidden_size"]])
    cosine, sine = _input("cosine", [-1, 1, 1, size]), _input("sine", [-1, 1, 1, size])
    asked = _input("asked", [-1], Type.i32)
    tables = [_input(name, [-1], Type.i32) for name in TABLES]
    longest = _input("max_context_len", [], Type.i32)
    caches: list[Node] = []

    def attend(number: int, queries: Node, keys: Node, values: Node) -> Node:
        names = f"key_cache.{number}", f"value_cache.{number}"
        pair = [_input(name, [-1, -1, -1, -1], Type.dynamic) for name in names]
        caches.extend(pair)
        # What follows the first 13 inputs are ways to keep less than everything, all of them left empty.
        scale, whole = op.constant(np.float32(size**-0.5)), op.constant(np.int32(0))
        given = [queries, keys, values, *pair, *tables, scale, whole, _empty("f32"), longest, _empty("i32")]
        given += [_empty("i32"), _empty("i32"), _empty("f32"), _empty("f32"), whole, whole, _empty("f32")]
        given += [whole, _empty("i32"), _empty("i32"), _empty("i32"), _empty("i32"), _empty("u8"), _empty("i32")]
        node = PagedAttention([each.output(0) for each in given])
        for name in ("num_k_heads", "num_v_heads"):
            node.get_rt_info()[name] = key_heads
        for name in ("k_head_size", "v_head_size"):
            node.get_rt_info()[name] = size
        return node.output(0)

    hidden: Node = x
    for number in range(text["num_hidden_layers"]):
        layer = f"{TEXT}layers.{number}."
        normal = _rms(hidden, weights.array(f"{layer}input_layernorm.weight"), epsilon)
        queries, keys, values = (
            _product(normal, weights.matrix(f"{layer}self_attn.{name}_proj.weight")) for name in "qkv"
        )
        turned = []
        for name, node, count in (("q", queries, heads), ("k", keys, key_heads)):
            split = op.reshape(node, _ints(-1, count, 1, size), special_zero=False)
            split = _rms(split, weights.array(f"{layer}self_attn.{name}_norm.weight"), epsilon)
            turned.append(op.reshape(_turn(split, cosine, sine, size), _ints(-1, count * size), special_zero=False))
        mixed = attend(number, turned[0], turned[1], values)
        if number == text["num_hidden_layers"] - 1:  # from here on nothing looks at other positions
            hidden, mixed = (op.gather(node, asked, op.constant(np.int32(0))) for node in (hidden, mixed))
        hidden = op.add(hidden, _product(mixed, weights.matrix(f"{layer}self_attn.o_proj.weight")))
        normal = _rms(hidden, weights.array(f"{layer}post_attention_layernorm.weight"), epsilon)
        gate = op.swish(_product(normal, weights.matrix(f"{layer}mlp.gate_proj.weight")))
        inner = op.multiply(gate, _product(normal, weights.matrix(f"{layer}mlp.up_proj.weight")))
        hidden = op.add(hidden, _product(inner, weights.matrix(f"{layer}mlp.down_proj.weight")))
    hidden = _rms(hidden, weights.array(f"{TEXT}norm.weight"), epsilon)
    logits = _product(hidden, weights.matrix(f"{HEAD}weight"))
    return openvino.Model([op.result(logits)], [x, cosine, sine, asked, *tables, longest, *caches], "decoder")


def encoder_graph(weights: Weights, kind: Type) -> openvino.Model:
    """The graph of the encoder and projector, computing in bfloat16 or float32.

    Inputs: `chunks` (c, 1, bins, 100), log-mel; `windows` int32 (1,), how many windows of equal length they make;
    `tokens` int32 (1,), how many tokens of each window are audio. Output: (windows, tokens, hidden), float32.
    """
    audio = weights.config["audio_config"]
    width, heads = audio["d_model"], audio["encoder_attention_heads"]
    chunks = _input("chunks", [-1, 1, audio["num_mel_bins"], CHUNK])
    windows, tokens = _input("windows", [1], Type.i32), _input("tokens", [1], Type.i32)
    x: Node = chunks if kind == Type.f32 else op.convert(chunks, kind)

    def affine(node: Node, name: str) -> Node:
        matrix, bias = weights.matrix(f"{name}.weight"), weights.array(f"{name}.bias")
        return op.add(_product(node, matrix, kind), _constant(bias, kind))

    def layer_norm(node: Node, name: str) -> Node:
        scaled = op.multiply(
            op.mvn(node, _ints(-1), normalize_variance=True, eps=1e-5, eps_mode="INSIDE_SQRT"), vector(f"{name}.weight")
        )
        return op.add(scaled, vector(f"{name}.bias"))

    def vector(name: str) -> Node:
        return _constant(weights.array(name), kind)

    for number in (1, 2, 3):
        kernel = vector(f"{AUDIO}conv2d{number}.weight")
        bias = _constant(weights.array(f"{AUDIO}conv2d{number}.bias").reshape(1, -1, 1, 1), kind)
        x = op.gelu(op.add(op.convolution(x, kernel, [2, 2], [1, 1], [1, 1], [1, 1]), bias), "erf")
    x = op.transpose(x, _ints(0, 3, 1, 2))
    x = op.reshape(x, _ints(0, 0, -1), special_zero=True)
    places = _constant(_places(audio_tokens(CHUNK), width), kind)
    x = op.add(_product(x, weights.matrix(f"{AUDIO}conv_out.weight"), kind), places)
    shape = op.concat([windows, op.constant(np.array([-1, width], np.int32))], axis=0)
    x = op.reshape(x, shape, special_zero=False)
    x = op.slice(x, _ints(0), tokens, op.constant(np.array([1], np.int32)), _ints(1))
    for number in range(audio["encoder_layers"]):
        layer = f"{AUDIO}layers.{number}."
        normal = layer_norm(x, f"{layer}self_attn_layer_norm")
        parts = []
        for name in ("q", "k", "v"):
            part = affine(normal, f"{layer}self_attn.{name}_proj")
            part = op.reshape(part, _ints(0, 0, heads, width // heads), special_zero=True)
            parts.append(op.transpose(part, _ints(0, 2, 1, 3)))
        mixed = op.transpose(op.scaled_dot_product_attention(*parts), _ints(0, 2, 1, 3))
        mixed = op.reshape(mixed, _ints(0, 0, width), special_zero=True)
        x = op.add(x, affine(mixed, f"{layer}self_attn.out_proj"))
        normal = layer_norm(x, f"{layer}final_layer_norm")
        x = op.add(x, affine(op.gelu(affine(normal, f"{layer}fc1"), "erf"), f"{layer}fc2"))
    x = layer_norm(x, f"{AUDIO}ln_post")
    x = affine(op.gelu(affine(x, f"{PROJECTOR}linear_1"), "erf"), f"{PROJECTOR}linear_2")
    x = x if kind == Type.f32 else op.convert(x, Type.f32)
    return openvino.Model([op.result(x)], [chunks, windows, tokens], "encoder")


def _input(name: str, shape: Sequence[int], kind: Type = Type.f32) -> Node:
    made = Parameter(kind, openvino.PartialShape(list(shape)))
    made.set_friendly_name(name)
    made.output(0).get_tensor().set_names({name})
    return made


def _empty(kind: str) -> Node:
    return op.constant(np.empty(0, {"f32": np.float32, "i32": np.int32, "u8": np.uint8}[kind]))


def _ints(*values: int) -> Node:
    return op.constant(np.array(values, np.int64))


def _constant(numbers: NDArray[np.float32], kind: Type) -> Node:
    node = op.constant(numbers)
    return node if kind == Type.f32 else op.convert(node, kind)


def _product(x: Node, matrix: Matrix, kind: Type = Type.f32) -> Node:
    """Give x @ matrixᵀ, in the form that OpenVINO recognises and multiplies without unpacking."""
    if matrix.numbers.dtype == np.uint16:
        if kind == Type.bf16:
            return op.matmul(x, _typed(matrix, list(matrix.shape), kind), transpose_a=False, transpose_b=True)
        matrix = quantised(matrix)
    if matrix.scales is None:
        return op.matmul(x, op.constant(matrix.numbers), transpose_a=False, transpose_b=True)
    if matrix.scales.ndim == 2:
        numbers = op.constant(matrix.numbers, shared_memory=matrix.mapped)
    else:
        groups = matrix.scales.shape[1]
        numbers = _typed(matrix, [matrix.shape[0], groups, matrix.shape[1] // groups], Type.i4)
    weight = op.multiply(op.convert(numbers, Type.f32), op.constant(matrix.scales))
    if matrix.scales.ndim == 3:
        weight = op.reshape(weight, _ints(*matrix.shape), special_zero=False)
    return op.matmul(x, weight, transpose_a=False, transpose_b=True)


def _typed(matrix: Matrix, shape: list[int], kind: Type) -> Node:
    """The numbers of a mapped matrix as a type that numpy has not."""
    assert matrix.mapped
    return op.constant(openvino.Tensor(matrix.numbers, openvino.Shape(shape), kind), shared_memory=True)


def _rms(x: Node, weight: NDArray[np.float32], epsilon: float) -> Node:
    mean = op.reduce_mean(op.power(x, op.constant(np.float32(2))), _ints(-1), keep_dims=True)
    root = op.sqrt(op.add(mean, op.constant(np.float32(epsilon))))
    return op.multiply(op.multiply(x, op.divide(op.constant(np.float32(1)), root)), op.constant(weight))


def _turn(x: Node, cosine: Node, sine: Node, size: int) -> Node:
    """Rotary position embedding of x (T, heads, 1, head)."""
    halves = op.variadic_split(x, op.constant(np.int64(3)), _ints(size // 2, size // 2))
    other = op.concat([op.multiply(halves.output(1), op.constant(np.float32(-1))), halves.output(0)], axis=-1)
    return op.add(op.multiply(x, cosine), op.multiply(other, sine))


def _places(count: int, width: int) -> NDArray[np.float32]:
    """Whisper's sinusoids for the positions within a chunk, (count, width)."""
    rates = np.exp(-np.log(10_000) / (width // 2 - 1) * np.arange(width // 2, dtype=np.float32)).astype(np.float32)
    angles = np.arange(count, dtype=np.float32)[:, None] * rates
    return np.concatenate([np.sin(angles), np.cos(angles)], axis=1).astype(np.float32)
