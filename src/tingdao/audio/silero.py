"""Silero VAD v6: 16 kHz samples -> the probability of speech in each 32 ms frame, on onnxruntime.

The weights are read from the ONNX file that the package faster-whisper ships, which is MIT-licensed by Silero
(https://github.com/snakers4/silero-vad). Its graph runs every frame as five tiny convolutions, whose matrix
products are only four columns wide. Here the same sums are written as a few wide products over a whole batch of
frames, which takes less than a third of the time and differs by rounding only. An LSTM follows in both.

    frame of 512 samples and 64 before it ─ 4 windows of 256 ─ magnitudes of the short-time Fourier transform
        ─ 4 convolutions over those 4 columns ─ LSTM, which remembers ─ probability

This module knows nothing of spans, pauses or files other than the model's.
"""

from __future__ import annotations

import hashlib
import importlib.util
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnxruntime
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from tingdao.errors import SetupError

FRAME = 512
"""Samples that one probability stands for: 32 ms."""

MODEL_PACKAGE, MODEL_FILE = "faster_whisper", "assets/silero_vad_v6.onnx"
MODEL_SHA256 = "4cbf549b8326f60f80f2536d9eefeb450a9abe83365a098031c89719f1be17d2"

_BATCH = 64
"""Frames a run (2 s): enough to fill the matrix products, and few enough to stay in a core's cache."""
_SILENCE = 0.1
"""Probability below which nothing is heard."""
_CONTEXT, _WINDOW, _HOP, _STATE = 64, 256, 128, 128
_STRIDES = (1, 2, 2, 1)
_COLUMNS, _BINS = 4, 129

Floats = NDArray[np.float32]


class Silero:
    """The loaded model. Thread-safe and without state: `listen` gives each recording its own.

    Raises SetupError when the model file is missing or not the expected one.
    """

    def __init__(self) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1  # recordings share the cores, not frames
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        self._session = onnxruntime.InferenceSession(
            _wide_graph(_weights(_model())), options, providers=["CPUExecutionProvider"]
        )

    def listen(self) -> Listener:
        """Start on a recording."""
        return Listener(self._session)


class Listener:
    """Hears one recording from its start, in pieces of any length; not thread-safe.

    However the recording is cut into pieces, the probabilities are the same.

    The model grows deaf in a long silence: after twenty seconds it misses the first words that follow, after some
    minutes whole sentences. So silence beyond the first batch of it is forgotten: at the end of each further batch
    without speech the memory is set back to what it was after the first, which knows the background already.
    """

    def __init__(self, session: onnxruntime.InferenceSession) -> None:
        self._session = session
        self._memory: tuple[Floats, Floats] = (np.zeros((1, 1, _STATE), "f4"), np.zeros((1, 1, _STATE), "f4"))
        self._rested: tuple[Floats, Floats] | None = None  # memory after the first batch without speech
        self._pending = np.zeros(_CONTEXT, np.float32)
        self._in_batch = 0  # frames that the batch has already; batches are counted from the recording's start
        self._loudest = 0.0  # probability in the batch so far

    def hear(self, samples: Floats) -> Floats:
        """Return the probability of speech, shape (frames,), of every frame that is now complete.

        samples: float32, shape (n,), mono at 16 kHz, following those of the last call.
        """
        heard = np.concatenate((self._pending, samples))
        frames = (len(heard) - _CONTEXT) // FRAME
        self._pending = heard[frames * FRAME :].copy()
        probabilities = np.empty(frames, np.float32)
        first = 0
        while first < frames:
            last = min(first + _BATCH - self._in_batch, frames)
            windows = _windows(heard[first * FRAME : last * FRAME + _CONTEXT])
            h, c = self._memory
            probabilities[first:last], h, c = self._session.run(None, {"windows": windows, "h": h, "c": c})
            self._memory = (h, c)
            self._count(probabilities[first:last])
            first = last
        return probabilities

    def end(self) -> Floats:
        """Return the probability of the last, partly filled frame: shape (1,), or (0,) when there is none."""
        rest = len(self._pending) - _CONTEXT
        return self.hear(np.zeros(FRAME - rest if rest else 0, np.float32))

    def _count(self, probabilities: Floats) -> None:
        self._in_batch += len(probabilities)
        self._loudest = max(self._loudest, float(probabilities.max()))
        if self._in_batch == _BATCH:
            if self._loudest >= _SILENCE:
                self._rested = None
            elif self._rested is None:
                self._rested = self._memory
            else:
                self._memory = self._rested
            self._in_batch, self._loudest = 0, 0.0


def _windows(samples: Floats) -> Floats:
    """Cut frames with their context into the windows of the transform, shape (frames * 4, 256).

    The last window reaches past the frame and is filled with the frame's end, mirrored.
    """
    frames = sliding_window_view(samples, _CONTEXT + FRAME)[::FRAME]
    windows = np.empty((len(frames), _COLUMNS, _WINDOW), np.float32)
    for column in range(_COLUMNS - 1):
        windows[:, column] = frames[:, column * _HOP : column * _HOP + _WINDOW]
    windows[:, -1, :-_CONTEXT] = frames[:, (_COLUMNS - 1) * _HOP :]
    windows[:, -1, -_CONTEXT:] = frames[:, -2 : -2 - _CONTEXT : -1]
    return windows.reshape(-1, _WINDOW)


def _model() -> bytes:
    """Read and check the model file, without importing the package that carries it."""
    spec = importlib.util.find_spec(MODEL_PACKAGE)
    folders = (spec.submodule_search_locations if spec else None) or []
    file = next((path for folder in folders if (path := Path(folder, MODEL_FILE)).is_file()), None)
    if file is None:
        raise SetupError("The speech detector's model is missing. Type: pip install faster-whisper==1.2.1")
    model = file.read_bytes()
    if hashlib.sha256(model).hexdigest() != MODEL_SHA256:
        raise SetupError(
            f"The speech detector's model is not the expected one: the SHA-256 of {MODEL_FILE} differs. "
            "Type: pip install --force-reinstall --no-deps faster-whisper==1.2.1"
        )
    return model


# The wide graph. ONNX files are protobuf messages; the numbers below are the fields of
# https://github.com/onnx/onnx/blob/main/onnx/onnx.proto.


def _wide_graph(weights: dict[str, Floats]) -> bytes:
    """Write the model as matrix products: windows (n * 4, 256), h, c -> probabilities (n,), h, c."""
    basis = weights["encoder.feature_extractor.forward_basis_buffer"].reshape(2, _BINS, _WINDOW)
    tensors = {
        "cosines": basis[0].T,
        "sines": basis[1].T,
        "input_weights": weights["onnx::LSTM_209"].reshape(1, 4 * _STATE, _STATE),
        "state_weights": weights["onnx::LSTM_210"].reshape(1, 4 * _STATE, _STATE),
        "lstm_bias": weights["onnx::LSTM_211"].reshape(1, 8 * _STATE),
        "out_weights": weights["decoder.conv1d.weight"].reshape(_STATE, 1),
        "out_bias": weights["decoder.conv1d.bias"],
        "per_frame": np.array([-1, _COLUMNS * _BINS]),
        "as_sequence": np.array([-1, 1, _STATE]),
        "as_rows": np.array([-1, _STATE]),
        "flat": np.array([-1]),
    }
    nodes = [
        _node("MatMul", "windows cosines", "real"),
        _node("MatMul", "windows sines", "imaginary"),
        _node("Mul", "real real", "real_square"),
        _node("Mul", "imaginary imaginary", "imaginary_square"),
        _node("Add", "real_square imaginary_square", "power"),
        _node("Sqrt", "power", "magnitude"),
        _node("Reshape", "magnitude per_frame", "x0"),
    ]
    columns = _COLUMNS
    for layer, stride in enumerate(_STRIDES):
        bias = weights[f"encoder.conv_layers.{layer}.bias"]
        kernel = weights[f"encoder.conv_layers.{layer}.weight"].reshape(len(bias), -1, 3)
        tensors[f"w{layer}"] = _convolution_as_matrix(kernel, columns, stride)
        columns = (columns - 1) // stride + 1
        tensors[f"b{layer}"] = np.tile(bias, columns)
        nodes.append(_node("Gemm", f"x{layer} w{layer} b{layer}", f"sum{layer}"))
        nodes.append(_node("Relu", f"sum{layer}", f"x{layer + 1}"))
    nodes += [
        _node("Reshape", f"x{len(_STRIDES)} as_sequence", "sequence"),
        _node("LSTM", ("sequence", "input_weights", "state_weights", "lstm_bias", "", "h", "c"),
              "states h_next c_next", hidden_size=_STATE),
        _node("Reshape", "states as_rows", "rows"),
        _node("Relu", "rows", "heard"),
        _node("Gemm", "heard out_weights out_bias", "logits"),
        _node("Sigmoid", "logits", "column"),
        _node("Reshape", "column flat", "probabilities"),
    ]  # fmt: skip
    state = (1, 1, _STATE)
    graph = _message(
        *((1, node) for node in nodes),
        (2, "silero_vad_wide"),
        *((5, _tensor(name, value)) for name, value in tensors.items()),
        *((11, _port(name, shape)) for name, shape in (("windows", ("n", _WINDOW)), ("h", state), ("c", state))),
        *(
            (12, _port(name, shape))
            for name, shape in (("probabilities", ("frames",)), ("h_next", state), ("c_next", state))
        ),
    )
    return _message((1, 8), (7, graph), (8, _message((1, ""), (2, 18))))


def _convolution_as_matrix(kernel: Floats, columns: int, stride: int) -> Floats:
    """Spell out a convolution over few columns (zeros beside them) as one matrix.

    kernel: shape (out, in, 3). Returns shape (columns * in, columns_out * out).
    """
    out, into, taps = kernel.shape
    columns_out = (columns - 1) // stride + 1
    matrix = np.zeros((columns, into, columns_out, out), np.float32)
    for target in range(columns_out):
        for tap in range(taps):
            source = target * stride + tap - 1
            if 0 <= source < columns:
                matrix[source, :, target] = kernel[:, :, tap].T
    return matrix.reshape(columns * into, columns_out * out)


def _weights(model: bytes) -> dict[str, Floats]:
    """Read the float tensors of an ONNX file, flat, by name."""
    graph = next(value for number, value in _fields(model) if number == 7)
    weights = {}
    for number, tensor in _fields(graph):
        if number == 5:
            parts = dict(_fields(tensor))
            if parts[2] == b"\x01":  # float32
                weights[parts[8].decode()] = np.frombuffer(parts[9], np.float32)
    return weights


def _fields(message: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield (number, value) of each field of a protobuf message that has only varints and byte strings."""
    at = 0
    while at < len(message):
        key, at = _varint(message, at)
        value, end = _varint(message, at)
        if key & 7 == 2:
            at, end = end, end + value
        yield key >> 3, message[at:end]
        at = end


def _varint(message: bytes, at: int) -> tuple[int, int]:
    """Read the varint at `at`; return it and where it ends."""
    end = at
    while message[end] & 128:
        end += 1
    return sum((byte & 127) << 7 * place for place, byte in enumerate(message[at : end + 1])), end + 1


def _message(*fields: tuple[int, int | str | bytes]) -> bytes:
    """Write a protobuf message."""
    parts = []
    for number, value in fields:
        if isinstance(value, int):
            parts += [_write_varint(number << 3), _write_varint(value)]
        else:
            data = value.encode() if isinstance(value, str) else value
            parts += [_write_varint(number << 3 | 2), _write_varint(len(data)), data]
    return b"".join(parts)


def _write_varint(value: int) -> bytes:
    low = value & 127
    return bytes([low]) if low == value else bytes([low | 128]) + _write_varint(value >> 7)


def _node(operator: str, inputs: str | tuple[str, ...], outputs: str, **numbers: int) -> bytes:
    names = inputs.split() if isinstance(inputs, str) else inputs
    return _message(
        *((1, name) for name in names),
        *((2, name) for name in outputs.split()),
        (4, operator),
        *((5, _message((1, name), (3, value), (20, 2))) for name, value in numbers.items()),
    )


def _tensor(name: str, value: NDArray[np.float32] | NDArray[np.int64]) -> bytes:
    kind = {np.dtype(np.float32): 1, np.dtype(np.int64): 7}[value.dtype]
    return _message(*((1, size) for size in value.shape), (2, kind), (8, name), (9, value.tobytes()))


def _port(name: str, shape: tuple[int | str, ...]) -> bytes:
    sizes = ((1, _message((2 if isinstance(size, str) else 1, size))) for size in shape)
    return _message((1, name), (2, _message((1, _message((1, 1), (2, _message(*sizes)))))))
