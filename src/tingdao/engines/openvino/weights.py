"""The weights of Qwen3-ASR for OpenVINO: as published, or converted to 8 or 4 bits and kept.

    published folder ─ convert: tensor by tensor, in bounded memory ─► converted folder ─ open_converted ─► Weights

A converted folder holds config.json (the native config, and under `tingdao` how it was made), tokenizer.json, and one
safetensors file. Of the decoder's matrices (out, in) there are whole numbers and their scales, one to a row or to a
group of columns. The encoder's stay bfloat16: many tokens go through them at once, which makes 8 bits slower there.
So do the embeddings, of which only the few rows that are looked up are ever read. Everything else is float32. The file
is mapped, not read: OpenVINO takes the numbers from there into its own order.

Needs numpy only, so that converting needs neither PyTorch nor OpenVINO.
"""

from __future__ import annotations

import json
import logging
import mmap
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from tingdao.engines.qwen.tokenizer import read_tokenizer
from tingdao.engines.qwen.weights import Checkpoint, Config, Entry, expected, read_header, read_json
from tingdao.errors import SetupError

log = logging.getLogger(__name__)

Precision = Literal["int8", "int4"]

FORMAT = 1
"""Raised when converted folders change; others are refused."""
TEXT, AUDIO, HEAD = "model.language_model.", "model.audio_tower.", "lm_head."
PROJECTOR = "model.multi_modal_projector."
ENCODER = (AUDIO, PROJECTOR)
TABLE = f"{TEXT}embed_tokens.weight"
WEIGHTS = "weights.safetensors"
GROUP = 64
"""Columns that share a scale in 4 bits."""
ROWS = 4096
"""Rows of a matrix quantised at once: 16 MB of float32 in the larger model."""
SPARE = 64 * 1024 * 1024
"""Bytes that stay free on the disk."""
STALE_SECONDS = 3600
"""What nobody wrote to for so long, nobody is building any more."""
KINDS = {"I8": np.int8, "U8": np.uint8, "F32": np.float32, "BF16": np.uint16, "F16": np.float16}

Progress = Callable[[int, int], object]
"""(bytes of the original that are through, all of them)."""


@dataclass(frozen=True, slots=True)
class Matrix:
    """A matrix (out, in): numbers, and where they are whole numbers the scales that make them the weights.

    numbers: float32, int8, or uint16 with the bits of bfloat16, (out, in); of 4 bits uint8 (out, in / 2), two to a
        byte, the first in the lower half.
    scales: float32 (out, 1) for int8, (out, groups, 1) for 4 bits; None when the numbers are the weights.
    mapped: whether the numbers lie in a mapped file, and stay there as long as the `Weights` that gave them.
    """

    shape: tuple[int, int]
    numbers: NDArray[Any]
    scales: NDArray[np.float32] | None = None
    mapped: bool = False


class Weights(Protocol):
    """What the graphs are made of. Names are those of the native layout.

    folder: where they were read from, and the tokenizer lies. config: in the native layout's terms.
    precision: of the matrices.
    """

    folder: Path
    config: Config
    precision: str

    def array(self, name: str) -> NDArray[np.float32]:
        """A tensor that is no matrix to be multiplied with."""
        ...

    def matrix(self, name: str) -> Matrix:
        """A matrix, by the name of its tensor."""
        ...

    def embed(self, ids: list[int]) -> NDArray[np.float32]:
        """Token ids → embeddings (n, hidden)."""
        ...

    def release(self) -> None:
        """Give back the memory that reading took; everything can still be read again."""
        ...


class Published:
    """A published folder in full precision: exact, and four times as large and slow as 8 bits."""

    precision = "float32"

    def __init__(self, checkpoint: Checkpoint) -> None:
        self.folder, self.config, self._entries = checkpoint.folder, checkpoint.config, checkpoint.entries
        self._table = _Table(self._entries[TABLE])

    def array(self, name: str) -> NDArray[np.float32]:
        """A tensor that is no matrix to be multiplied with."""
        return self._entries[name].floats()

    def matrix(self, name: str) -> Matrix:
        """A matrix, by the name of its tensor."""
        numbers = _stored(self._entries, name).floats()
        return Matrix((numbers.shape[0], numbers.shape[1]), numbers)

    def embed(self, ids: list[int]) -> NDArray[np.float32]:
        """Token ids → embeddings (n, hidden)."""
        return self._table.rows(ids)

    def release(self) -> None:
        """Nothing is held."""


class Converted:
    """A converted folder. Made by `open_converted`."""

    def __init__(self, folder: Path, config: Config, precision: Precision, entries: dict[str, Entry]) -> None:
        self.folder, self.config, self._entries = folder, config, entries
        self.precision: str = precision
        self._table = _Table(entries[TABLE])
        with entries[TABLE].file.open("rb") as stream:
            # OpenVINO takes only memory that may be written to; a private copy may, and nobody does.
            self._data = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_COPY)

    def array(self, name: str) -> NDArray[np.float32]:
        """A tensor that is no matrix to be multiplied with."""
        return self._view(name)

    def matrix(self, name: str) -> Matrix:
        """A matrix, by the name of its tensor."""
        numbers = self._view(name)
        if _scale(name) not in self._entries:
            return Matrix((numbers.shape[0], numbers.shape[1]), numbers, mapped=True)
        scales = self._view(_scale(name))
        columns = numbers.shape[1] * (1 if scales.ndim == 2 else 2)
        return Matrix((numbers.shape[0], columns), numbers, scales, mapped=True)

    def embed(self, ids: list[int]) -> NDArray[np.float32]:
        """Token ids → embeddings (n, hidden)."""
        return self._table.rows(ids)

    def release(self) -> None:
        """Let go of the pages read so far; the file stays mapped, for whoever still points into it."""
        if hasattr(mmap, "MADV_DONTNEED"):
            self._data.madvise(mmap.MADV_DONTNEED)

    def _view(self, name: str) -> NDArray[Any]:
        entry = self._entries[name]
        made = np.frombuffer(self._data, KINDS[entry.kind], prod(entry.shape), entry.offset)
        return made.reshape(entry.shape)


class _Table:
    """Embeddings on disk, of which the rows are read that are asked for."""

    def __init__(self, entry: Entry) -> None:
        kind = KINDS[entry.kind]
        self._rows = np.memmap(entry.file, kind, "r", entry.offset, (entry.shape[0], entry.shape[1]))

    def rows(self, ids: list[int]) -> NDArray[np.float32]:
        found = np.asarray(self._rows[np.asarray(ids, np.int64)])
        return widened(found) if found.dtype == np.uint16 else found.astype(np.float32)


def is_converted(folder: Path) -> bool:
    """Whether a folder was made by `convert`, by any version of it."""
    return (folder / WEIGHTS).is_file()


def open_converted(folder: Path) -> Converted:
    """Look at a converted folder, and promise that it is whole. Raises SetupError with the next step in words."""
    config = read_json(folder / "config.json")
    made = config.get("tingdao")
    again = "Convert the original weights again: `tingdao convert FOLDER`."
    if not isinstance(made, dict) or made.get("format") != FORMAT:
        said = made.get("format") if isinstance(made, dict) else None
        raise SetupError(
            f"{folder} was converted by another version of Tingdao (format {said}; this one reads {FORMAT}). {again}"
        )
    if made.get("precision") not in ("int8", "int4"):
        raise SetupError(f"{folder} does not say how it was converted. {again}")
    try:
        entries = read_header(folder / WEIGHTS, frozenset(KINDS))
    except SetupError:
        raise SetupError(f"{folder / WEIGHTS} is damaged or was not copied to its end. {again}") from None
    try:
        layout = _layout(config, made["precision"], str(made.get("table")))
    except (KeyError, TypeError) as error:
        raise SetupError(f"{folder / 'config.json'} is incomplete or wrong at {error}. {again}") from None
    for name, (kind, shape) in layout.items():
        if name not in entries or (entries[name].kind, entries[name].shape) != (kind, shape):
            raise SetupError(f"{folder} contradicts itself at {name}. {again}")
    if not (folder / "tokenizer.json").is_file():
        raise SetupError(f"{folder} has no tokenizer.json. {again}")
    return Converted(folder, config, made["precision"], entries)


def converted_name(folder: Path, precision: Precision) -> str:
    """What the converted twin of a model folder is called."""
    return f"{folder.resolve().name}-{precision}"


def source_of(checkpoint: Checkpoint) -> list[list[str | int]]:
    """What tells one state of a published folder from another: name, size and time of its weight files."""
    files = sorted({entry.file for entry in checkpoint.entries.values()})
    return [[file.name, file.stat().st_size, file.stat().st_mtime_ns] for file in files]


def converted_from(folder: Path, checkpoint: Checkpoint) -> bool:
    """Whether a folder holds this checkpoint as this version converts it."""
    if not is_converted(folder):
        return False
    made = read_json(folder / "config.json").get("tingdao")
    return isinstance(made, dict) and (made.get("format"), made.get("source")) == (FORMAT, source_of(checkpoint))


def convert(checkpoint: Checkpoint, folder: Path, precision: Precision, progress: Progress) -> None:
    """Write a converted folder, put in place when it is whole. Raises SetupError."""
    tokenizer = read_tokenizer(checkpoint.folder)
    table = checkpoint.entries[TABLE].kind
    config = checkpoint.config | {
        "tingdao": {"format": FORMAT, "precision": precision, "table": table, "source": source_of(checkpoint)}
    }
    layout = _layout(config, precision, table)
    need = sum(_bytes(kind, shape) for kind, shape in layout.values())
    aside = None
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(folder.parent).free
        if free < need + SPARE:
            raise SetupError(
                f"The converted weights take more than {folder.parent} has free ({free / 1e9:.2f} GB). "
                f"{_elsewhere(need)}"
            )
        # Built aside and renamed, so that a crash or a second process never leaves half a model in place.
        _sweep(folder)
        aside = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
        _write(aside / WEIGHTS, layout, _tensors(checkpoint, precision, progress))
        tokenizer.save(str(aside / "tokenizer.json"))
        (aside / "config.json").write_text(json.dumps(config, indent=1), encoding="utf-8")
        shutil.rmtree(folder, ignore_errors=True)
        try:
            aside.rename(folder)
        except OSError:
            if not converted_from(folder, checkpoint):  # else another process was first
                raise
    except OSError as error:
        raise SetupError(
            f"The converted weights cannot be written to {folder} ({error.strerror}). {_elsewhere(need)}"
        ) from error
    finally:
        if aside is not None:
            shutil.rmtree(aside, ignore_errors=True)


def _elsewhere(need: int) -> str:
    """What to do where converted weights of so many bytes cannot be."""
    return (
        f"They need {need / 1e9:.2f} GB. Make room, or convert to another place and serve that: "
        "`tingdao convert FOLDER --to OTHER`, `tingdao serve --model OTHER`."
    )


def _sweep(folder: Path) -> None:
    """Remove what was being built for this place by processes that were killed."""
    for left in folder.parent.glob(f".{folder.name}-*"):
        with suppress(OSError):  # it was just put in place
            newest = max(path.stat().st_mtime for path in (left, *left.iterdir()))
            if time.time() - newest > STALE_SECONDS:
                shutil.rmtree(left, ignore_errors=True)


Layout = dict[str, tuple[str, tuple[int, ...]]]
"""Tensor name → (type, shape), in the order in the file."""


def _layout(config: Config, precision: str, table: str) -> Layout:
    """What a converted folder of this config holds."""
    layout: Layout = {}
    for name, shape in expected(config).items():
        if name == TABLE:
            layout[name] = (table, shape)
        elif name != f"{HEAD}weight":
            _add(layout, name, shape, precision)
    text = config["text_config"]
    _add(layout, f"{HEAD}weight", (text["vocab_size"], text["hidden_size"]), precision)
    return layout


def _add(layout: Layout, name: str, shape: tuple[int, ...], precision: str) -> None:
    if len(shape) != 2:
        layout[name] = ("F32", shape)
    elif name.startswith(ENCODER):
        layout[name] = ("BF16", shape)
    elif precision == "int4" and _in_four(name, shape):
        layout[name] = ("U8", (shape[0], shape[1] // 2))
        layout[_scale(name)] = ("F32", (shape[0], shape[1] // GROUP, 1))
    else:
        layout[name] = ("I8", shape)
        layout[_scale(name)] = ("F32", (shape[0], 1))


def _in_four(name: str, shape: tuple[int, ...]) -> bool:
    """Whether a matrix bears 4 bits: those of the decoder's layers; the output keeps 8."""
    return name.startswith(f"{TEXT}layers.") and shape[1] % GROUP == 0


def _tensors(checkpoint: Checkpoint, precision: Precision, progress: Progress) -> Iterator[NDArray[Any]]:
    """The data of a converted folder, piece by piece in the order of `_layout`."""
    done, whole = 0, checkpoint.size
    for name in [*(name for name in checkpoint.entries if name != f"{HEAD}weight"), f"{HEAD}weight"]:
        entry = _stored(checkpoint.entries, name)
        if name == TABLE:
            for begin in range(0, entry.size, ROWS * 1024):
                yield np.fromfile(
                    entry.file, np.uint8, min(ROWS * 1024, entry.size - begin), offset=entry.offset + begin
                )
        elif len(entry.shape) != 2:
            yield entry.floats()
        elif name.startswith(ENCODER):
            yield halved(entry.floats())
        else:
            reduce = _four if precision == "int4" and _in_four(name, entry.shape) else _eight
            scales = []
            for begin in range(0, entry.shape[0], ROWS):
                numbers, scale = reduce(entry.floats(begin, begin + ROWS))
                scales.append(scale)
                yield numbers
            yield np.concatenate(scales)
        done = min(done + entry.size, whole)
        progress(done, whole)


def halved(numbers: NDArray[np.float32]) -> NDArray[np.uint16]:
    """float32 → the bits of the nearest bfloat16."""
    bits = np.ascontiguousarray(numbers).view(np.uint32)
    return ((bits + (0x7FFF + ((bits >> 16) & 1))) >> 16).astype(np.uint16)


def widened(bits: NDArray[np.uint16]) -> NDArray[np.float32]:
    """The bits of bfloat16 → float32."""
    return (bits.astype(np.uint32) << 16).view(np.float32)


def quantised(matrix: Matrix) -> Matrix:
    """A matrix of bfloat16 in 8 bits."""
    return Matrix(matrix.shape, *_eight(widened(matrix.numbers)))


def _eight(rows: NDArray[np.float32]) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    scales = np.maximum(np.abs(rows).max(axis=1, keepdims=True), np.float32(1e-30)) / np.float32(127)
    return np.rint(rows / scales).astype(np.int8), scales


def _four(rows: NDArray[np.float32]) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    grouped = rows.reshape(len(rows), -1, GROUP)
    # The number of the largest size becomes -8, the one end that reaches further than the other.
    at = np.abs(grouped).argmax(axis=2, keepdims=True)
    scales = np.take_along_axis(grouped, at, axis=2) / np.float32(-8)
    scales[scales == 0] = 1
    numbers = np.clip(np.rint(grouped / scales), -8, 7).astype(np.int8).reshape(len(rows), -1)
    nibbles = numbers.view(np.uint8) & np.uint8(15)
    pairs: NDArray[np.uint8] = nibbles[:, ::2] | nibbles[:, 1::2] << np.uint8(4)
    return pairs, scales.astype(np.float32, copy=False)


def _write(file: Path, layout: Layout, pieces: Iterator[NDArray[Any]]) -> None:
    """A safetensors file: https://github.com/huggingface/safetensors#format."""
    header: dict[str, Any] = {"__metadata__": {"format": "np"}}
    end = 0
    for name, (kind, shape) in layout.items():
        begin, end = end, end + _bytes(kind, shape)
        header[name] = {"dtype": kind, "shape": shape, "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 64 + 56)  # with its length before it, the data begins at a multiple of 64
    with file.open("wb") as stream:
        stream.write(len(text).to_bytes(8, "little") + text)
        for piece in pieces:
            piece.tofile(stream)
        assert stream.tell() == 8 + len(text) + end


def _bytes(kind: str, shape: tuple[int, ...]) -> int:
    return prod(shape) * np.dtype(KINDS[kind]).itemsize


def _scale(name: str) -> str:
    return f"{name.removesuffix('.weight')}.scale"


def _stored(entries: Any, name: str) -> Entry:  # noqa: ANN401  any mapping of entries
    """Where a tensor lies; a tied output matrix is the table of embeddings."""
    found: Entry = entries[TABLE] if name == f"{HEAD}weight" and name not in entries else entries[name]
    return found
