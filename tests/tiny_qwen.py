"""The tiny model of `fixtures` and the recordings that it knows, without PyTorch."""

from __future__ import annotations

import csv
import json
import struct
from pathlib import Path

import av
import numpy as np

from test_qwen_weights import in_original
from tingdao.types import Clip

RECORDINGS = Path(__file__).parent / "recordings"
TRAINED = Path(__file__).parent / "fixtures" / "tiny-qwen3-asr"
ALIGNER = TRAINED.with_name("tiny-aligner")
ADDED = ("content", "lstrip", "normalized", "rstrip", "single_word", "special")


def spoken_files() -> dict[str, tuple[str, str]]:
    """File name → (text, language) of the recordings that the tiny model knows."""
    with (RECORDINGS / "manifest.tsv").open(encoding="utf-8", newline="") as stream:
        rows = [row for row in csv.DictReader(stream, delimiter="\t") if row["language"] in {"en", "zh"}]
    return {row["file"]: (row["text"], row["language"]) for row in rows}


def spoken() -> list[tuple[Clip, str, str]]:
    """(clip, text, language) of those recordings."""
    return [(Clip(_samples(RECORDINGS / file)), *said) for file, said in spoken_files().items()]


def _samples(file: Path) -> np.ndarray:
    resampler = av.AudioResampler("flt", "mono", 16_000)
    with av.open(str(file)) as container:
        frames = [piece for frame in container.decode(audio=0) for piece in resampler.resample(frame)]
    return np.concatenate([frame.to_ndarray()[0] for frame in frames])


def write_original(folder: Path) -> Path:
    """The tiny model as `Qwen/Qwen3-ASR-*` would be published: other names, and the tokenizer in its parts only."""
    folder.mkdir()
    stored = (TRAINED / "model.safetensors").read_bytes()
    length = struct.unpack("<Q", stored[:8])[0]
    header = json.loads(stored[8 : 8 + length])
    renamed = {name if name == "__metadata__" else in_original(name): entry for name, entry in header.items()}
    head = json.dumps(renamed).encode()
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(head)) + head + stored[8 + length :])
    config = json.loads((TRAINED / "config.json").read_text())
    text = config["text_config"]
    text["rope_theta"] = text.pop("rope_parameters")["rope_theta"]
    thinker = {"audio_config": config["audio_config"], "text_config": text}
    made = json.loads((TRAINED / "tokenizer.json").read_text(encoding="utf-8"))
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in made["model"]["merges"]]
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges, ""]), encoding="utf-8")
    added = {str(token["id"]): {name: token[name] for name in ADDED} for token in made["added_tokens"]}
    for name, content in {
        "config.json": {"model_type": "qwen3_asr", "thinker_config": thinker},
        "vocab.json": made["model"]["vocab"],
        "tokenizer_config.json": {"added_tokens_decoder": added},
    }.items():
        (folder / name).write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")
    return folder
