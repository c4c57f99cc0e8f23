"""Writes a Qwen3-ASR checkpoint with random weights: the real shapes for measuring speed and parity, no transcripts.

    python benchmarks/random_checkpoint.py OUT --tokenizer FOLDER [--size 0.6b|1.7b|tiny] [--layout native|original]

FOLDER holds the tokenizer.json of any Qwen3 model; the tokens of Qwen3-ASR are added where they are missing. The rows
of the ending tokens are zero, so greedy decoding never ends early and gives exactly as many tokens as are asked for.
"""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path

import torch
from safetensors.torch import save_file
from tokenizers import AddedToken, Tokenizer

from tingdao.engines.qwen.weights import RENAMES, Config, expected

SPOKEN = ["<|audio_start|>", "<|audio_end|>", "<tts_pad>", "<tts_text_bos>", "<tts_text_eod>", "<tts_text_bos_single>"]
SPOKEN += ["<non_speech>", "<|audio_pad|>", *(f"<blank{number}>" for number in range(1, 28))]
ADDED = ["content", "lstrip", "normalized", "rstrip", "single_word", "special"]
PLAIN = ["<asr_text>", "<timestamp>"]
TEMPLATE = """
{%- if messages[0].role != "system" %}{{ "<|im_start|>system\\n<|im_end|>\\n" }}{% endif -%}
{%- for message in messages %}{{ "<|im_start|>" + message.role + "\\n" }}
{%- if message.content is string %}{{ message.content }}{% else %}{% for part in message.content %}
{%- if part.type == "text" %}{{ part.text }}{% else %}{{ "<|audio_start|><|audio_pad|><|audio_end|>" }}{% endif %}
{%- endfor %}{% endif %}{{ "<|im_end|>\\n" }}{% endfor -%}
{%- if add_generation_prompt %}{{ "<|im_start|>assistant\\n" }}{% endif -%}
"""
# encoder: width, layers, heads, inner, channels; decoder: width, layers, heads, key heads, head, inner
SIZES = {
    "tiny": ((64, 2, 2, 128, 16), (64, 2, 2, 1, 64, 128)),
    "0.6b": ((896, 18, 14, 3584, 480), (1024, 28, 16, 8, 128, 3072)),
    "1.7b": ((1024, 24, 16, 4096, 480), (2048, 28, 16, 8, 128, 6144)),
}


def tokenizer(folder: Path) -> Tokenizer:
    """The tokenizer with the tokens of Qwen3-ASR."""
    made = Tokenizer.from_file(str(folder / "tokenizer.json"))
    known = made.get_vocab(with_added_tokens=True)
    made.add_special_tokens([AddedToken(text, normalized=False) for text in SPOKEN if text not in known])
    made.add_tokens([AddedToken(text, normalized=False) for text in PLAIN if text not in known])
    return made


def config(size: str, made: Tokenizer) -> Config:
    """The config in the native layout."""
    (width, layers, heads, inner, channels), (hidden, deep, queries, keys, head, mlp) = SIZES[size]
    ends = [made.token_to_id("<|endoftext|>"), made.token_to_id("<|im_end|>")]
    return {
        "architectures": ["Qwen3ASRForConditionalGeneration"],
        "model_type": "qwen3_asr",
        "dtype": "bfloat16",
        "audio_config": {
            "model_type": "qwen3_asr_encoder",
            "num_mel_bins": 128,
            "d_model": width,
            "encoder_layers": layers,
            "encoder_attention_heads": heads,
            "encoder_ffn_dim": inner,
            "downsample_hidden_size": channels,
            "output_dim": hidden,
            "n_window": 50,
            "n_window_infer": 800,
            "activation_function": "gelu",
            "max_position_embeddings": 13,
        },
        "text_config": {
            "model_type": "qwen3",
            # A whole Qwen3 vocabulary has the published matrix's rows, some of them spare.
            "vocab_size": 151_936 if made.get_vocab_size() > 100_000 else -(-made.get_vocab_size() // 64) * 64,
            "hidden_size": hidden,
            "num_hidden_layers": deep,
            "num_attention_heads": queries,
            "num_key_value_heads": keys,
            "head_dim": head,
            "intermediate_size": mlp,
            "hidden_act": "silu",
            "max_position_embeddings": 65536,
            "rms_norm_eps": 1e-6,
            "tie_word_embeddings": True,
            "attention_bias": False,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1_000_000},
        },
        "audio_token_id": made.token_to_id("<|audio_pad|>"),
        "timestamp_token_id": made.token_to_id("<timestamp>"),
        "eos_token_id": ends,
        "pad_token_id": ends[1],
        "tie_word_embeddings": True,
    }


def weights(settings: Config, made: Tokenizer, seed: int) -> dict[str, torch.Tensor]:
    """Random tensors by their native names."""
    dice = torch.Generator().manual_seed(seed)
    tensors = {}
    for name, shape in expected(settings).items():
        if len(shape) == 1:
            value = torch.zeros(shape) if name.endswith("bias") else torch.ones(shape)
        else:
            # Strong layers over faint embeddings: else the tied output would only repeat the last token.
            scale = 0.02 if "embed_tokens" in name else math.prod(shape[1:]) ** -0.5
            value = torch.randn(shape, generator=dice) * scale
        tensors[name] = value.bfloat16()
    tensors["model.language_model.embed_tokens.weight"][made.token_to_id("<|endoftext|>") :] = 0
    return tensors


def original(settings: Config, tensors: dict[str, torch.Tensor]) -> tuple[Config, dict[str, torch.Tensor]]:
    """Config and tensors in the original layout, the tied output matrix stored as the published files have it."""
    backwards = [(new, old) for old, new in RENAMES if old != "thinker.lm_head."]
    renamed = {}
    for name, tensor in tensors.items():
        new, old = next(pair for pair in backwards if name.startswith(pair[0]))
        renamed[old + name.removeprefix(new)] = tensor
    renamed["thinker.lm_head.weight"] = tensors["model.language_model.embed_tokens.weight"].clone()
    audio, text = dict(settings["audio_config"]), dict(settings["text_config"])
    audio |= {"model_type": "qwen3_asr_audio_encoder", "max_source_positions": 1500, "conv_chunksize": 500}
    third = text["head_dim"] // 6
    text |= {
        "rope_theta": text.pop("rope_parameters")["rope_theta"],
        "rope_scaling": {
            "mrope_interleaved": True,
            "mrope_section": [text["head_dim"] // 2 - 2 * third, third, third],
            "rope_type": "default",
        },
    }
    thinker = {
        "model_type": "qwen3_asr_thinker",
        "audio_config": audio,
        "text_config": text,
        "audio_token_id": settings["audio_token_id"],
        "dtype": "bfloat16",
    }
    whole = {"architectures": ["Qwen3ASRForConditionalGeneration"], "model_type": "qwen3_asr"}
    return {**whole, "thinker_config": thinker}, renamed


def write(out: Path, source: Path, size: str, layout: str, seed: int = 0) -> None:
    """Write a whole folder."""
    out.mkdir(parents=True, exist_ok=True)
    made = tokenizer(source)
    settings = config(size, made)
    tensors = weights(settings, made, seed)
    extractor = {"feature_size": 128, "sampling_rate": 16000, "hop_length": 160, "n_fft": 400, "chunk_length": 30}
    marks = {"audio_token": "<|audio_pad|>", "audio_bos_token": "<|audio_start|>", "audio_eos_token": "<|audio_end|>"}
    words = {"tokenizer_class": "Qwen2Tokenizer", "processor_class": "Qwen3ASRProcessor", **marks}
    words |= {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>", "extra_special_tokens": marks}
    texts: dict[str, Config] = {}
    if layout == "original":
        settings, tensors = original(settings, tensors)
        whole = json.loads(made.to_str())["model"]
        merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in whole["merges"]]
        (out / "merges.txt").write_text("\n".join(["#version: 0.2", *merges, ""]), encoding="utf-8")
        texts["vocab.json"] = whole["vocab"]
        texts["chat_template.json"] = {"chat_template": TEMPLATE}
        texts["preprocessor_config.json"] = {**extractor, "feature_extractor_type": "WhisperFeatureExtractor"}
        added = made.get_added_tokens_decoder()
        words["added_tokens_decoder"] = {
            str(number): {name: getattr(token, name) for name in ADDED} for number, token in added.items()
        }
    else:
        made.save(str(out / "tokenizer.json"))
        (out / "chat_template.jinja").write_text(TEMPLATE, encoding="utf-8")
        extractor |= {"feature_extractor_type": "Qwen3ASRFeatureExtractor", "n_window": 50}
        texts["processor_config.json"] = {"processor_class": "Qwen3ASRProcessor", "feature_extractor": extractor}
    texts["tokenizer_config.json"] = words
    texts["generation_config.json"] = {"do_sample": False, "eos_token_id": [made.token_to_id("<|im_end|>")]}
    texts["config.json"] = settings
    for name, content in texts.items():
        (out / name).write_text(json.dumps(content, ensure_ascii=False, indent=1), encoding="utf-8")
    save_file(tensors, out / "model.safetensors", metadata={"format": "pt"})


def main() -> None:
    """The command line."""
    line = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    line.add_argument("out", type=Path)
    line.add_argument("--tokenizer", type=Path, required=True)
    line.add_argument("--size", choices=list(SIZES), default="0.6b")
    line.add_argument("--layout", choices=["native", "original"], default="native")
    line.add_argument("--seed", type=int, default=0)
    given = line.parse_args()
    write(given.out, given.tokenizer, given.size, given.layout, given.seed)
    print(f"{given.out}: {(given.out / 'model.safetensors').stat().st_size / 1e6:,.0f} MB")


if __name__ == "__main__":
    main()
