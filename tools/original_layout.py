#!/usr/bin/env python3
"""Write a Qwen3-ASR or Qwen3-ForcedAligner folder in the original layout, from one in transformers' own.

    python tools/original_layout.py SRC DST [--real-ids]

SRC has the layout of `Qwen/Qwen3-ASR-*-hf` (weights `model.*`, `tokenizer.json`), DST gets that of
`Qwen/Qwen3-ASR-*` (`thinker_config`, weights `thinker.*`, `vocab.json` and `merges.txt`, Whisper's feature extractor),
which vLLM and the package `qwen-asr` load. The tensors are the same ones; only names change, and an ASR model's
`lm_head`, which is tied, is stored once more. Needs torch and safetensors.

Some engines have the real models' end tokens built in as numbers (`qwen-asr` 0.0.6, OpenVINO GenAI) and never stop with
the cut vocabulary of the tiny models. `--real-ids` moves the special tokens to their real numbers, 151643 and up, and
leaves the numbers between empty: the file grows to some 100 MB, the answers stay the same.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

TENSOR_NAMES = (  # transformers' prefix, original prefix; the first that fits counts
    ("model.multi_modal_projector.linear_1.", "thinker.audio_tower.proj1."),
    ("model.multi_modal_projector.linear_2.", "thinker.audio_tower.proj2."),
    ("model.audio_tower.", "thinker.audio_tower."),
    ("model.language_model.", "thinker.model."),
    ("score.", "thinker.lm_head."),
)
EMBEDDING, HEAD = "thinker.model.embed_tokens.weight", "thinker.lm_head.weight"
FIRST_ADDED, VOCABULARY = 151_643, 151_936
"""The real models' first special token and size of vocabulary."""
LANGUAGES = [
    *(
        "Chinese",
        "English",
        "Cantonese",
        "Arabic",
        "German",
        "French",
        "Spanish",
        "Portuguese",
        "Indonesian",
        "Italian",
    ),
    *("Korean", "Russian", "Thai", "Vietnamese", "Japanese", "Turkish", "Hindi", "Malay", "Dutch", "Swedish"),
    *("Danish", "Finnish", "Polish", "Czech", "Filipino", "Persian", "Greek", "Romanian", "Hungarian", "Macedonian"),
]


def original_name(name: str) -> str:
    """The original name of a tensor. Raises ValueError for one that belongs to neither model."""
    for ours, theirs in TENSOR_NAMES:
        if name.startswith(ours):
            return theirs + name.removeprefix(ours)
    raise ValueError(f"not a tensor of Qwen3-ASR: {name}")


def original_config(config: dict[str, Any], ids: dict[str, int]) -> dict[str, Any]:
    """`config.json` with a `thinker_config`; ids: the special tokens' ids by name."""
    aligner = "Qwen3ASRForTokenClassification" in config["architectures"]
    head_half = config["text_config"]["head_dim"] // 2
    temporal = head_half - 2 * (head_half * 5 // 16)  # 24 + 20 + 20 of the real 64
    rope = {"rope_type": "default", "type": "default", "interleaved": True, "mrope_interleaved": True}
    rope["mrope_section"] = [temporal, head_half * 5 // 16, head_half * 5 // 16]
    text = config["text_config"] | {
        "rope_theta": config["text_config"]["rope_parameters"]["rope_theta"],
        "rope_scaling": rope,
    }
    audio = config["audio_config"] | {
        "model_type": "qwen3_asr_audio_encoder",
        "num_hidden_layers": config["audio_config"]["encoder_layers"],
        "max_source_positions": 1500,
        "conv_chunksize": 500,
    }
    del text["rope_parameters"], audio["max_position_embeddings"]
    thinker: dict[str, Any] = {
        "architectures": ["Qwen3ASRThinkerForConditionalGeneration"],
        "model_type": "qwen3_forced_aligner" if aligner else "qwen3_asr_thinker",
        "audio_config": audio,
        "text_config": text,
        "audio_token_id": ids["<|audio_pad|>"],
        "audio_start_token_id": ids["<|audio_start|>"],
        "audio_end_token_id": ids["<|audio_end|>"],
        "user_token_id": 872,
        "initializer_range": config["initializer_range"],
        "dtype": config["dtype"],
    }
    whole: dict[str, Any] = {
        "architectures": ["Qwen3ASRForConditionalGeneration"],
        "model_type": "qwen3_asr",
        "support_languages": LANGUAGES,
        "thinker_config": thinker,
    }
    if aligner:
        text["tie_word_embeddings"] = False  # the head is that of the steps
        thinker["classify_num"] = len(config["id2label"])
        whole |= {"timestamp_token_id": ids["<timestamp>"], "timestamp_segment_time": 80}
    return whole


def write_tokenizer(tokenizer: dict[str, Any], shift: int, source: Path, target: Path) -> dict[str, int]:
    """Write `vocab.json`, `merges.txt` and `tokenizer_config.json`; gives the added tokens' ids.

    tokenizer: the content of `tokenizer.json`. shift: what is added to the added tokens' ids.
    """
    settings = json.loads((source / "tokenizer_config.json").read_text(encoding="utf-8"))
    added = {str(token.pop("id") + shift): token for token in tokenizer["added_tokens"]}
    ids = {token["content"]: int(number) for number, token in added.items()}
    named = settings.pop("model_specific_special_tokens")
    for name in ("backend", "is_local", "local_files_only"):
        settings.pop(name, None)
    settings |= named | {
        "added_tokens_decoder": added,
        "additional_special_tokens": settings.pop("extra_special_tokens"),
        "extra_special_tokens": named,
    }
    # Past a gap the tokens keep their numbers only when the vocabulary has them too.
    write_json(target / "vocab.json", tokenizer["model"]["vocab"] | (ids if shift else {}))
    merges = "".join(f"{left} {right}\n" for left, right in tokenizer["model"]["merges"])
    (target / "merges.txt").write_text(f"#version: 0.2\n{merges}", encoding="utf-8")
    write_json(target / "tokenizer_config.json", settings)
    return ids


def write_json(path: Path, value: object) -> None:
    """Write a JSON file the way model hubs show it."""
    path.write_text(json.dumps(value, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")


def spread(embedding: torch.Tensor, first_added: int) -> torch.Tensor:
    """The rows of a cut vocabulary at the ids of the real one; the rows between are zero."""
    whole = embedding.new_zeros(VOCABULARY, embedding.shape[1])
    added = embedding[first_added:][: VOCABULARY - FIRST_ADDED]
    whole[:first_added] = embedding[:first_added]
    whole[FIRST_ADDED : FIRST_ADDED + len(added)] = added
    return whole


def convert(source: Path, target: Path, *, real_ids: bool = False) -> None:
    """Write the whole folder. Raises FileNotFoundError, KeyError or ValueError when the source is not complete."""
    target.mkdir(parents=True, exist_ok=True)
    tokenizer = json.loads((source / "tokenizer.json").read_text(encoding="utf-8"))
    first_added = min(token["id"] for token in tokenizer["added_tokens"])
    ids = write_tokenizer(tokenizer, FIRST_ADDED - first_added if real_ids else 0, source, target)
    config = json.loads((source / "config.json").read_text(encoding="utf-8"))
    if real_ids:
        config["text_config"]["vocab_size"] = VOCABULARY
    write_json(target / "config.json", original_config(config, ids))

    extractor = json.loads((source / "processor_config.json").read_text(encoding="utf-8"))["feature_extractor"]
    for name in ("min_length", "n_window"):
        del extractor[name]
    extractor |= {"feature_extractor_type": "WhisperFeatureExtractor", "processor_class": "Qwen3ASRProcessor"}
    write_json(target / "preprocessor_config.json", extractor)
    template = (source / "chat_template.jinja").read_text(encoding="utf-8")
    for mark in ("{% generation %}", "{% endgeneration %}"):  # known to newer template engines only
        template = template.replace(mark, "")
    write_json(target / "chat_template.json", {"chat_template": template})
    generation = {"do_sample": False, "eos_token_id": [ids["<|endoftext|>"], ids["<|im_end|>"]]}
    write_json(target / "generation_config.json", generation | {"pad_token_id": ids["<|im_end|>"]})

    tensors = {original_name(name): tensor for name, tensor in load_file(source / "model.safetensors").items()}
    if real_ids:
        tensors[EMBEDDING] = spread(tensors[EMBEDDING], first_added)
    if HEAD not in tensors:
        tensors[HEAD] = tensors[EMBEDDING].clone()
    save_file(tensors, target / "model.safetensors", metadata={"format": "pt"})
    (target / "model.safetensors").chmod(0o644)  # safetensors writes it for the owner only


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("source", type=Path, metavar="SRC")
    parser.add_argument("target", type=Path, metavar="DST")
    parser.add_argument("--real-ids", action="store_true", help="special tokens at the real models' ids")
    args = parser.parse_args()
    convert(args.source, args.target, real_ids=args.real_ids)


if __name__ == "__main__":
    main()
