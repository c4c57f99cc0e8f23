"""Checkpoints of Qwen3-ASR on disk: which layout a folder has, whether it is whole, and its tensors by one naming.

Two layouts are published. *Native* is what transformers loads (`audio_config`, `text_config`, tensors `model.*`).
*Original* is that of `Qwen/Qwen3-ASR-*` (`thinker_config`, tensors `thinker.*`); transformers given that one only
warns and runs random weights. The difference is one of names, so tensors are renamed while they are read and nothing
is rewritten on disk.

Only safetensors are read, and no code from the folder is ever run. Looking at a folder needs neither torch nor
transformers, so that `tingdao check` can do it anywhere; only `Checkpoint.tensor` and `mapped` do.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from tingdao.errors import SetupError

if TYPE_CHECKING:
    import torch

Config = dict[str, Any]
Kind = Literal["model", "aligner"]
"""Qwen3-ASR itself, or Qwen3-ForcedAligner: the same but for its head, and for the text it is given."""
Shape = tuple[int, ...]

SIZES = {"BF16": 2, "F16": 2, "F32": 4, "I8": 1, "U8": 1}
"""Bytes of one number, by the names that safetensors gives to types."""
FLOATS = {"BF16": np.float32, "F16": np.float16, "F32": np.float32}
RENAMES = (
    ("thinker.audio_tower.proj1.", "model.multi_modal_projector.linear_1."),
    ("thinker.audio_tower.proj2.", "model.multi_modal_projector.linear_2."),
    ("thinker.lm_head.", "lm_head."),
    ("thinker.model.", "model.language_model."),
    ("thinker.", "model."),
)
"""Names of the original layout → names of the native one; the first that fits counts."""
ALIGNER_RENAMES = (("thinker.lm_head.", "score."), *RENAMES)
"""The same for the forced aligner, whose output matrix scores steps of time instead of tokens."""
STEP_MS = 80
"""Milliseconds to a step of the aligner, where its folder does not say."""
CONSTANT = (
    ("audio_config", "n_window", 50),
    ("audio_config", "activation_function", "gelu"),
    ("text_config", "hidden_act", "silu"),
    ("text_config", "attention_bias", False),
)
"""What all published checkpoints have in common, and the arithmetic here relies on."""
EXPORTS = (".xml", ".onnx", ".gguf", ".ggml", ".mnn")
"""How the weights end that other programs were given: OpenVINO GenAI, onnxruntime, llama.cpp and their like."""
HEADER_LIMIT = 100_000_000
"""Bytes; the limit that the safetensors format sets itself."""
AGAIN = "Download it again: `tingdao download 0.6b`, `1.7b` or `aligner`."


@dataclass(frozen=True, slots=True)
class Entry:
    """Where one tensor lies: `count` numbers of type `kind`, from byte `offset` of `file` on."""

    file: Path
    kind: str
    shape: Shape
    offset: int

    @property
    def size(self) -> int:
        """Bytes."""
        return prod(self.shape) * SIZES[self.kind]

    def floats(self, begin: int = 0, end: int | None = None) -> NDArray[np.float32]:
        """The tensor, or its rows from `begin` to `end`, as float32. Only those are read."""
        rows = range(self.shape[0])[begin:end]
        row = self.size // self.shape[0]
        data = np.fromfile(self.file, np.uint8, len(rows) * row, offset=self.offset + rows.start * row)
        if self.kind == "BF16":  # the upper half of a float32
            data = (data.view(np.uint16).astype(np.uint32) << 16).view(np.float32)
        numbers: NDArray[np.float32] = data.view(FLOATS[self.kind]).astype(np.float32, copy=False)
        return numbers.reshape(len(rows), *self.shape[1:])


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A folder that was found whole.

    config: in the native layout's terms, whichever layout is on disk.
    entries: native tensor name → where it lies. A tied output matrix is not among them, even where it is stored.
    """

    folder: Path
    layout: Literal["native", "original"]
    config: Config
    entries: Mapping[str, Entry]

    @property
    def size(self) -> int:
        """Bytes of all tensors."""
        return sum(entry.size for entry in self.entries.values())

    def tensor(self, name: str, device: torch.device, dtype: torch.dtype) -> torch.Tensor:
        """A copy of one tensor. The file is mapped for this one read only, so memory never holds it twice."""
        return self.mapped(name).to(device, dtype, copy=True)

    def mapped(self, name: str) -> torch.Tensor:
        """One tensor as it lies in the file, of the file's type: pages of it are read when they are touched."""
        import torch

        entry = self.entries[name]
        data = np.memmap(entry.file, dtype=np.uint8, mode="c", offset=entry.offset, shape=(entry.size,))
        kinds = {"BF16": torch.bfloat16, "F16": torch.float16, "F32": torch.float32}
        return torch.from_numpy(data).view(kinds[entry.kind]).view(entry.shape)


def open_checkpoint(folder: Path, kind: Kind = "model") -> Checkpoint:
    """Look at a folder, and promise that every tensor is there. Raises SetupError with the next step in words."""
    if not folder.is_dir():
        raise SetupError(f"{folder} is not a folder. Give the folder that holds config.json. {AGAIN}")
    _refuse_code(folder)
    config, layout = _config(folder, kind)
    renames = ALIGNER_RENAMES if kind == "aligner" else RENAMES
    stored = {_native(name, renames): entry for name, entry in _entries(folder).items()}
    wanted = expected(config)
    missing = [name for name in wanted if name not in stored]
    if missing:
        raise SetupError(
            f"{folder} holds only a part of the weights: {len(missing)} of {len(wanted)} tensors are missing, "
            f"such as {missing[0]}. {AGAIN}"
        )
    for name, shape in wanted.items():
        if stored[name].shape != shape:
            raise SetupError(
                f"{folder} contradicts itself: {name} has the shape {stored[name].shape}, and config.json asks for "
                f"{shape}. {AGAIN}"
            )
    if not any(
        all((folder / name).is_file() for name in names) for names in (["tokenizer.json"], ["vocab.json", "merges.txt"])
    ):
        raise SetupError(f"{folder} has no tokenizer: neither tokenizer.json nor vocab.json with merges.txt. {AGAIN}")
    return Checkpoint(folder, layout, config, {name: stored[name] for name in wanted})


def expected(config: Config) -> dict[str, Shape]:
    """Every tensor that a model of this config has: native name → shape."""
    audio, text = config["audio_config"], config["text_config"]
    width, inner, channels = audio["d_model"], audio["encoder_ffn_dim"], audio["downsample_hidden_size"]
    bins = audio["num_mel_bins"]
    shapes: dict[str, Shape] = {}

    def affine(name: str, out: int, into: int) -> None:
        shapes[f"{name}.weight"], shapes[f"{name}.bias"] = (out, into), (out,)

    def norm(name: str) -> None:
        shapes[f"{name}.weight"], shapes[f"{name}.bias"] = (width,), (width,)

    tower = "model.audio_tower"
    for number in (1, 2, 3):
        shapes[f"{tower}.conv2d{number}.weight"] = (channels, 1 if number == 1 else channels, 3, 3)
        shapes[f"{tower}.conv2d{number}.bias"] = (channels,)
        bins = (bins + 1) // 2
    shapes[f"{tower}.conv_out.weight"] = (width, channels * bins)
    for number in range(audio["encoder_layers"]):
        layer = f"{tower}.layers.{number}"
        for name in ("q_proj", "k_proj", "v_proj", "out_proj"):
            affine(f"{layer}.self_attn.{name}", width, width)
        norm(f"{layer}.self_attn_layer_norm")
        affine(f"{layer}.fc1", inner, width)
        affine(f"{layer}.fc2", width, inner)
        norm(f"{layer}.final_layer_norm")
    norm(f"{tower}.ln_post")
    hidden, head, mlp = text["hidden_size"], text["head_dim"], text["intermediate_size"]
    affine("model.multi_modal_projector.linear_1", width, width)
    affine("model.multi_modal_projector.linear_2", hidden, width)

    shapes["model.language_model.embed_tokens.weight"] = (text["vocab_size"], hidden)
    queries, keys = text["num_attention_heads"] * head, text["num_key_value_heads"] * head
    for number in range(text["num_hidden_layers"]):
        layer = f"model.language_model.layers.{number}"
        shapes |= {
            f"{layer}.input_layernorm.weight": (hidden,),
            f"{layer}.self_attn.q_proj.weight": (queries, hidden),
            f"{layer}.self_attn.k_proj.weight": (keys, hidden),
            f"{layer}.self_attn.v_proj.weight": (keys, hidden),
            f"{layer}.self_attn.q_norm.weight": (head,),
            f"{layer}.self_attn.k_norm.weight": (head,),
            f"{layer}.self_attn.o_proj.weight": (hidden, queries),
            f"{layer}.post_attention_layernorm.weight": (hidden,),
            f"{layer}.mlp.gate_proj.weight": (mlp, hidden),
            f"{layer}.mlp.up_proj.weight": (mlp, hidden),
            f"{layer}.mlp.down_proj.weight": (hidden, mlp),
        }
    shapes["model.language_model.norm.weight"] = (hidden,)
    if "num_labels" in config:
        shapes["score.weight"] = (config["num_labels"], hidden)
    elif not text.get("tie_word_embeddings", True):
        shapes["lm_head.weight"] = (text["vocab_size"], hidden)
    return shapes


def _native(name: str, renames: tuple[tuple[str, str], ...]) -> str:
    for old, new in renames:
        if name.startswith(old):
            return new + name.removeprefix(old)
    return name


def read_json(file: Path) -> Config:
    """A JSON object from a model folder. Raises SetupError."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise SetupError(f"{file} is missing. {AGAIN}") from None
    except (OSError, ValueError) as error:
        raise SetupError(f"{file} cannot be read ({error}). {AGAIN}") from None
    if not isinstance(content, dict):
        raise SetupError(f"{file} is not a JSON object. {AGAIN}")
    return content


def _refuse_code(folder: Path) -> None:
    for file in ("config.json", "tokenizer_config.json", "processor_config.json", "preprocessor_config.json"):
        if (folder / file).is_file() and "auto_map" in read_json(folder / file):
            raise SetupError(
                f"{folder / file} asks for Python code from the folder to be run (auto_map). That is never done here; "
                f"Qwen3-ASR needs none of it. {AGAIN}"
            )


def _config(folder: Path, kind: Kind) -> tuple[Config, Literal["native", "original"]]:
    """The config in native terms, and the layout it was written in."""
    config = read_json(folder / "config.json")
    family = config.get("model_type")
    thinker = config.get("thinker_config")
    whole = thinker if isinstance(thinker, dict) else config
    if family != "qwen3_asr" or not all(isinstance(whole.get(part), dict) for part in ("audio_config", "text_config")):
        raise SetupError(f"{folder} holds another kind of model ({family or 'unknown'}), not Qwen3-ASR. {AGAIN}")
    aligner = "Qwen3ASRForTokenClassification" in (config.get("architectures") or []) or "forced_aligner" in str(
        whole.get("model_type")
    )
    if kind == "model" and aligner:
        raise SetupError(f"{folder} holds the forced aligner, which gives times and no text. {AGAIN}")
    if kind == "aligner" and not aligner:
        raise SetupError(f"{folder} holds Qwen3-ASR itself, which gives text and no times. {AGAIN}")
    text = dict(whole["text_config"])
    theta = text.pop("rope_theta", 1_000_000)
    rope = text.get("rope_parameters") or {}
    # The three position axes of the original's interleaved rope are always equal here: it is the plain rope. Its old
    # name must not stay either: transformers would prefer it, and lose the theta.
    text.pop("rope_scaling", None)
    text["rope_parameters"] = {"rope_type": "default", "rope_theta": rope.get("rope_theta", theta)}
    native = {**whole, "model_type": "qwen3_asr", "text_config": text}
    if aligner:
        native["num_labels"] = whole.get("classify_num", len(config.get("id2label") or ()))
        native["timestamp_segment_time"] = _step(folder, config)
    for part, name, value in CONSTANT:
        if native[part].get(name, value) != value:
            raise SetupError(
                f"{folder} is a Qwen3-ASR that this version does not know: {part}.{name} is {native[part][name]!r} "
                f"instead of {value!r}. Look for a newer version of Tingdao."
            )
    try:
        expected(native)
    except (KeyError, TypeError) as error:
        raise SetupError(f"{folder / 'config.json'} is incomplete or wrong at {error}. {AGAIN}") from None
    return native, "original" if thinker is not None else "native"


def _step(folder: Path, config: Config) -> int:
    """Milliseconds to a step of the aligner: the original layout has it in the config, the native in the processor."""
    processor = folder / "processor_config.json"
    said = (read_json(processor) if processor.is_file() else {}) | config
    step = said.get("timestamp_segment_time", STEP_MS)
    if not isinstance(step, int | float) or int(step) < 1:
        raise SetupError(f"{folder} says that a step of time is {step!r} milliseconds. {AGAIN}")
    return int(step)


def _entries(folder: Path) -> dict[str, Entry]:
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        listed = read_json(index).get("weight_map")
        if not isinstance(listed, dict) or not all(isinstance(name, str) for name in listed.values()):
            raise SetupError(f"{index} lists no files. {AGAIN}")
        names = sorted(set(listed.values()))
        if odd := [name for name in names if Path(name).name != name or not name.endswith(".safetensors")]:
            raise SetupError(f"{index} names {odd[0]!r}, which is not a safetensors file beside it. {AGAIN}")
        if gone := [name for name in names if not (folder / name).is_file()]:
            raise SetupError(f"{folder} lacks {len(gone)} of {len(names)} weight files: {', '.join(gone)}. {AGAIN}")
        files = [folder / name for name in names]
    else:
        files = sorted(folder.glob("*.safetensors"))
    if not files:
        if other := next((path.name for end in EXPORTS for path in sorted(folder.glob(f"*{end}"))), None):
            raise SetupError(
                f"{folder} is an export for another program ({other}). What a CPU needs is made here from the original "
                f"weights. {AGAIN}"
            )
        if any(next(folder.glob(pattern), None) for pattern in ("*.bin", "*.pt", "*.pth", "*.pkl", "*.ckpt")):
            raise SetupError(
                f"{folder} holds pickled weights only. A pickle can run any code, so none is ever opened; take the "
                f"safetensors of the same model. {AGAIN}"
            )
        raise SetupError(f"{folder} holds no weights (*.safetensors). {AGAIN}")
    return {name: entry for file in files for name, entry in read_header(file).items()}


def read_header(file: Path, kinds: frozenset[str] = frozenset(FLOATS)) -> dict[str, Entry]:
    """The tensors of one file, of these types only. The format: https://github.com/huggingface/safetensors#format.

    Raises SetupError.
    """
    size = file.stat().st_size
    damaged = SetupError(f"{file} is damaged or was not downloaded to its end. {AGAIN}")
    with file.open("rb") as stream:
        first = stream.read(8)
        length = struct.unpack("<Q", first)[0] if len(first) == 8 else 0
        if not 2 <= length <= min(HEADER_LIMIT, size - 8):
            raise damaged
        try:
            header = json.loads(stream.read(length))
            begin = 8 + length
            entries = {
                name: Entry(file, item["dtype"], tuple(item["shape"]), begin + item["data_offsets"][0])
                for name, item in header.items()
                if name != "__metadata__"
            }
        except (ValueError, KeyError, TypeError, AttributeError):
            raise damaged from None
    for name, entry in entries.items():
        if entry.kind not in kinds:
            raise SetupError(
                f"{name} in {file} has the type {entry.kind}; only {', '.join(sorted(kinds))} are known. {AGAIN}"
            )
        if entry.offset < begin or entry.offset + entry.size > size:
            raise damaged
    return entries
