#!/usr/bin/env python3
"""Train the two tiny models that the tests use in place of Qwen3-ASR and Qwen3-ForcedAligner.

    python tools/train_tiny_checkpoint.py asr        # writes tests/fixtures/tiny-qwen3-asr
    python tools/train_tiny_checkpoint.py aligner    # writes tests/fixtures/tiny-aligner

The architecture and its code path are the real ones, transformers' own `qwen3_asr`; only the sizes and the vocabulary
are small. What they learn is in `tiny_lessons.py`; what they must be able to do afterwards in
`check_tiny_checkpoint.py`, which runs on the written folder at the end. The exit status is 1 when a check fails.

Needs torch, transformers >= 5.23, av, numpy, tqdm. Seeded: the same command with the same versions and threads gives
the same weights.
"""

import argparse
import hashlib
import json
import math
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import check_tiny_checkpoint
import numpy as np
import torch
from tiny_lessons import RATE, TESTS, Composer, Scene, load_recordings
from torch.nn import functional
from tqdm import tqdm
from transformers import (
    AutoTokenizer,
    BatchFeature,
    GenerationConfig,
    Qwen3ASRConfig,
    Qwen3ASRFeatureExtractor,
    Qwen3ASRForConditionalGeneration,
    Qwen3ASRForTokenClassification,
    Qwen3ASRProcessor,
)

FIXTURES = TESTS / "fixtures"
WORD_TOKENS, VOCABULARY = 1984, 2048
LABELS = 500
"""Time steps that the tiny aligner knows: 40 s of 80 ms; the real one has 5,000."""
STEP = 0.08
"""Seconds."""
LONGEST = {"asr": 20.0, "aligner": 24.0}
"""Seconds of the longest clip composed for training."""
SHARES = {
    "asr": {"whole": 0.25, "phrase": 0.2, "medley": 0.38, "nothing": 0.08, "loop": 0.09},
    "aligner": {"whole": 0.4, "phrase": 0.2, "medley": 0.4},
}
DELAY = 6.0
"""Seconds of silence, at most, put before some of the aligner's clips."""
STEPS = {"asr": 3500, "aligner": 2000}
RATES = {"asr": 2e-3, "aligner": 3e-3}
"""Learning rates at their highest."""
BATCH_TOKENS = 1000
"""Tokens of a batch, with padding."""
SIZES = {
    "asr": {"encoder": (3, 128), "decoder": (4, 192), "channels": 32},
    "aligner": {"encoder": (3, 128), "decoder": (3, 128), "channels": 32},
}
"""Layers and width of encoder and decoder; channels of the convolutions before the encoder."""

ADDED_BY_ASR = [
    *("<|audio_start|>", "<|audio_end|>", "<tts_pad>", "<tts_text_bos>", "<tts_text_eod>", "<tts_text_bos_single>"),
    *("<non_speech>", "<|audio_pad|>", *(f"<blank{n}>" for n in range(1, 28)), "<asr_text>", "<timestamp>"),
]
NOT_SPECIAL = {"<non_speech>", "<asr_text>"}
ROLES = {"audio_token": "<|audio_pad|>", "audio_bos_token": "<|audio_start|>", "audio_eos_token": "<|audio_end|>"}

# The system turn is always there; only text counts in it. Assistant turns come out as they are, for a forced language.
ASR_TEMPLATE = """\
{%- macro texts(content) -%}
{%- if content is string -%}{{- content -}}
{%- else -%}{%- for part in content if part.type == 'text' -%}{{- part.text -}}{%- endfor -%}
{%- endif -%}
{%- endmacro -%}
{{- '<|im_start|>system\\n' -}}
{%- for message in messages if message.role == 'system' -%}{{- texts(message.content) -}}{%- endfor -%}
{{- '<|im_end|>\\n<|im_start|>user\\n' -}}
{%- for message in messages if message.content is not string -%}
{%- for part in message.content if part.type == 'audio' or 'audio' in part or 'audio_url' in part -%}
{{- '<|audio_start|><|audio_pad|><|audio_end|>' -}}
{%- endfor -%}
{%- endfor -%}
{{- '<|im_end|>\\n' -}}
{%- for message in messages if message.role == 'assistant' -%}
{{- '<|im_start|>assistant\\n' -}}
{% generation %}{{- texts(message.content) + '<|im_end|>\\n' -}}{% endgeneration %}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n' -}}{%- endif -%}"""
ALIGNER_TEMPLATE = """\
{%- for message in messages if message.content is not string -%}
{%- for part in message.content if part.type == 'audio' or 'audio' in part or 'audio_url' in part -%}
{{- '<|audio_start|><|audio_pad|><|audio_end|>' -}}
{%- endfor -%}
{%- endfor -%}
{%- for message in messages if message.content is not string -%}
{%- for part in message.content if part.type == 'text' -%}
{{- part.text + '<timestamp><timestamp>' -}}
{%- endfor -%}
{%- endfor -%}"""


def build_processor(tokenizer_file: Path, template: str) -> Qwen3ASRProcessor:
    """The real processor with the first `WORD_TOKENS` of Qwen3's vocabulary and all special tokens behind them.

    tokenizer_file: a `tokenizer.json` of Qwen3 or Qwen3-ASR, or one that this function has made.
    """
    whole = json.loads(tokenizer_file.read_text(encoding="utf-8"))
    model = whole["model"]
    vocabulary = {token: number for token, number in model["vocab"].items() if number < WORD_TOKENS}
    merges = [pair if isinstance(pair, list) else pair.split(" ") for pair in model["merges"]]
    model["vocab"] = vocabulary
    model["merges"] = [pair for pair in merges if {*pair, "".join(pair)} <= vocabulary.keys()]
    special = {token["content"]: token["special"] for token in whole["added_tokens"]}
    names = [name for name in special if name not in ADDED_BY_ASR] + ADDED_BY_ASR
    plain = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    whole["added_tokens"] = [
        {"id": number, "content": name, **plain, "special": special.get(name, name not in NOT_SPECIAL)}
        for number, name in enumerate(names, WORD_TOKENS)
    ]
    settings = {
        "tokenizer_class": "Qwen2Tokenizer", "add_prefix_space": False, "bos_token": None, "eos_token": "<|im_end|>",
        "pad_token": "<|endoftext|>", "unk_token": None, "errors": "replace", "model_max_length": 131072,
        "clean_up_tokenization_spaces": False, "split_special_tokens": False,
        "extra_special_tokens": ["<|im_start|>", "<|im_end|>", *sorted(ROLES.values())],
        "model_specific_special_tokens": ROLES, **ROLES,
    }  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "tokenizer.json").write_text(json.dumps(whole), encoding="utf-8")
        (Path(folder) / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
        tokenizer = AutoTokenizer.from_pretrained(folder)
    return Qwen3ASRProcessor(Qwen3ASRFeatureExtractor(), tokenizer, chat_template=template)


def build_config(kind: str, processor: Qwen3ASRProcessor) -> Qwen3ASRConfig:
    """The config of a tiny model, kind "asr" or "aligner"."""
    size, number = SIZES[kind], processor.tokenizer.convert_tokens_to_ids
    (encoder_layers, encoder_width), (decoder_layers, width) = size["encoder"], size["decoder"]
    audio = {
        "encoder_layers": encoder_layers, "d_model": encoder_width, "encoder_attention_heads": encoder_width // 32,
        "encoder_ffn_dim": 4 * encoder_width, "output_dim": width, "downsample_hidden_size": size["channels"],
    }  # fmt: skip
    text = {
        "num_hidden_layers": decoder_layers, "hidden_size": width, "intermediate_size": width * 8 // 3,
        "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 64, "vocab_size": VOCABULARY,
        "max_position_embeddings": 65536, "tie_word_embeddings": True,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1_000_000},
    }  # fmt: skip
    return Qwen3ASRConfig(
        audio_config=audio,
        text_config=text,
        audio_token_id=number("<|audio_pad|>"),
        timestamp_token_id=number("<timestamp>"),
        pad_token_id=number("<|im_end|>"),
        eos_token_id=[number("<|endoftext|>"), number("<|im_end|>")],
        **({"num_labels": LABELS} if kind == "aligner" else {}),
    )


def start_weights(model: torch.nn.Module) -> None:
    """Draw weights that keep the size of what passes through them.

    The library's own start, 0.02 everywhere, is for wide models: in this one the sound would drown in the position
    code behind the narrow convolutions, and the model would learn to tell clips by their length.
    """
    for name, weight in model.named_parameters():
        if weight.dim() > 1:
            deviation = weight[0].numel() ** -0.5
            if "conv2d" in name:
                deviation *= math.sqrt(2)
            if name.endswith(("out_proj.weight", "o_proj.weight", "fc2.weight", "down_proj.weight")):
                deviation *= 0.4  # what is added to the residual stream
            torch.nn.init.normal_(weight, std=deviation)


class AsrLessons:
    """Prompts with answers, and a helping task: to tell from each step of the sound which word is being said.

    weights: of the helping task, thrown away after training.
    """

    def __init__(self, composer: Composer, processor: Qwen3ASRProcessor, rng: np.random.Generator) -> None:
        self._composer, self._processor, self._rng = composer, processor, rng
        units = {word.unit.lower() for recording in composer.recordings for word in recording.words}
        self._classes = {unit: number for number, unit in enumerate(sorted(units), 1)}
        self._head = torch.nn.Linear(SIZES["asr"]["decoder"][1], len(units) + 1)
        self.weights = list(self._head.parameters())

    def draw(self) -> tuple[Scene, str, str]:
        """A scene, the prompt up to the answer, the answer."""
        scene = self._composer.draw(SHARES["asr"], LONGEST["asr"])
        prompt = (
            f"<|im_start|>system\n{self._composer.draw_context()}<|im_end|>\n<|im_start|>user\n"
            "<|audio_start|><|audio_pad|><|audio_end|><|im_end|>\n<|im_start|>assistant\n"
        )
        tag, text = f"language {scene.language}<asr_text>", scene.text + "<|im_end|>" * (not scene.endless)
        if self._rng.random() < 0.3:  # a forced language is part of the prompt
            if scene.language == "None":
                tag = f"language {self._rng.choice(['English', 'Chinese'])}<asr_text>"
            return scene, prompt + tag, text
        return scene, prompt, tag + text

    def cost(self, lesson: tuple[Scene, str, str]) -> int:
        """Tokens, about."""
        return int(len(lesson[0].samples) / RATE / STEP) + len(
            self._processor.tokenizer(lesson[1] + lesson[2]).input_ids
        )

    def loss(self, model: Qwen3ASRForConditionalGeneration, lessons: list[tuple[Scene, str, str]]) -> torch.Tensor:
        """Loss of the answers, and of telling from each step of the sound which word is being said."""
        texts = [prompt + answer for _, prompt, answer in lessons]
        inputs = self._processor(text=texts, audio=[scene.samples for scene, _, _ in lessons], sampling_rate=RATE)
        labels = torch.full_like(inputs["input_ids"], -100)
        words = []
        for row, (scene, _, answer) in enumerate(lessons):
            length = len(self._processor.tokenizer(answer).input_ids)
            labels[row, -length:] = inputs["input_ids"][row, -length:]  # padding is on the left
            times = token_times(int((inputs["input_ids"][row] == model.config.audio_token_id).sum()))
            said = torch.zeros(len(times), dtype=torch.long)
            for word in scene.words:
                said[(times > word.start - STEP / 2) & (times < word.end)] = self._classes[word.unit.lower()]
            words.append(said)
        output = model(**inputs, labels=labels, position_ids=self._positions(inputs))
        return output.loss + 0.3 * functional.cross_entropy(self._head(output.audio_hidden_states), torch.cat(words))

    def _positions(self, inputs: BatchFeature) -> torch.Tensor:
        """Positions of the tokens; in half of the rows some are left out in the system turn, as if it were long."""
        positions = (inputs["attention_mask"].cumsum(dim=1) - 1).clamp(min=0)
        for row, ids in enumerate(inputs["input_ids"]):
            if self._rng.random() < 0.5:
                turn = int((inputs["attention_mask"][row] == 0).sum())
                sound = int((ids == self._processor.audio_bos_token_id).nonzero())
                positions[row, self._rng.integers(turn + 3, sound) :] += int(10 ** self._rng.uniform(0, 3.6))
        return positions


class AlignerLessons:
    """Words, and the steps at which each starts and ends; with helps without which so small a model learns it slowly.

    To say when a word starts, the model must know where in the text it is, where in the clip each piece of the sound
    is, which word is heard there, and look from the one to the other. Each of these is a task of its own:

        place    from each piece of the sound, before the last layer: its own time
        sound    from the same: which of all words of all recordings it belongs to
        text     from each mark behind a word, before the last layer: which of all words that is
        look     of the first head of the last layer: to look from each mark at its place in the sound

    weights: of the tasks, thrown away after training.
    """

    def __init__(self, composer: Composer, processor: Qwen3ASRProcessor, rng: np.random.Generator) -> None:
        self._composer, self._processor, self._rng = composer, processor, rng
        self._words = sum(len(recording.words) for recording in composer.recordings)
        self._which = torch.nn.Linear(SIZES["aligner"]["decoder"][1], self._words + 1)
        self.weights = list(self._which.parameters())

    def draw(self) -> Scene:
        """A scene in which no word of a recording comes twice."""
        while True:
            scene = self._composer.draw(SHARES["aligner"], LONGEST["aligner"])
            if len({word.key for word in scene.words}) == len(scene.words):
                return self._composer.delayed(scene, DELAY) if self._rng.random() < 0.3 else scene

    def cost(self, scene: Scene) -> int:
        """Tokens, about."""
        return int(len(scene.samples) / RATE / STEP) + 4 * len(scene.words)

    def loss(self, model: Qwen3ASRForTokenClassification, scenes: list[Scene]) -> torch.Tensor:
        """Cross entropy at the marks against a bell over the neighbouring steps, and those of the helping tasks."""
        texts = [
            "<|audio_start|><|audio_pad|><|audio_end|>"
            + "".join(word.unit + "<timestamp><timestamp>" for word in scene.words)
            for scene in scenes
        ]
        inputs = self._processor(text=texts, audio=[scene.samples for scene in scenes], sampling_rate=RATE)
        output = model.model(**inputs, output_hidden_states=True, output_attentions=True, use_cache=False)
        sounds = inputs["input_ids"] == model.config.audio_token_id
        marks = inputs["input_ids"] == model.config.timestamp_token_id
        before = model.model.language_model.norm(output.hidden_states[-2])

        wanted, heard, looks = [], [], []
        for scene, sound, mark, looked in zip(scenes, sounds, marks, output.attentions[-1][:, 0], strict=True):
            times = token_times(int(sound.sum()))
            said = torch.full((len(times),), self._words)
            for word in scene.words:
                said[(times > word.start - STEP / 2) & (times < word.end)] = word.key
            heard.append(said)
            wanted += (edges := [step for word in scene.words for step in steps(word.start, word.end)])
            aims = bell((torch.tensor(edges)[:, None] * STEP - times) / (0.7 * STEP))
            looks.append(-(aims * (looked[mark][:, sound] + 1e-6).log()).sum(dim=1))
        every = torch.arange(LABELS)
        places = torch.cat([token_times(int(sound.sum())) for sound in sounds]) / STEP
        keys = torch.tensor([word.key for scene in scenes for word in scene.words]).repeat_interleave(2)
        return (
            functional.cross_entropy(
                model.score(output.last_hidden_state[marks]), bell(torch.tensor(wanted)[:, None] - every)
            )
            + functional.cross_entropy(model.score(before[sounds]), bell(places[:, None] - every))
            + functional.cross_entropy(self._which(before[sounds]), torch.cat(heard))
            + 0.5 * functional.cross_entropy(self._which(before[marks]), keys)
            + 0.5 * torch.cat(looks).mean()
        )


def token_times(count: int) -> torch.Tensor:
    """When each of the first `count` pieces of sound begins, in seconds; 13 of them make one second."""
    pieces = torch.arange(count)
    return pieces // 13 + pieces % 13 * STEP


def bell(distances: torch.Tensor) -> torch.Tensor:
    """Shares that fall with the distance, shape (rows, places); those of each row sum to 1."""
    shares = torch.exp(-0.5 * distances**2)
    return shares / shares.sum(dim=1, keepdim=True)


def steps(start: float, end: float) -> tuple[int, int]:
    """A span in seconds as steps of 80 ms, never empty."""
    first = max(0, round(start / STEP))
    return first, max(first + 1, round(end / STEP))


def batches(draw: Callable, cost: Callable, rng: np.random.Generator) -> Iterator[list]:
    """Lessons of similar length together, as many as `BATCH_TOKENS` allow."""
    while True:
        pool = sorted((draw() for _ in range(64)), key=cost)
        groups: list[list] = [[]]
        for lesson in pool:
            if groups[-1] and cost(lesson) * (len(groups[-1]) + 1) > BATCH_TOKENS:
                groups.append([])
            groups[-1].append(lesson)
        for place in rng.permutation(len(groups)):
            yield groups[place]


def train(
    model: torch.nn.Module, lessons: AsrLessons | AlignerLessons, count: int, rate: float, rng: np.random.Generator
) -> None:
    """AdamW with a warm-up of 50 steps and a cosine to nearly nothing."""
    weights = [weight for weight in [*model.parameters(), *lessons.weights] if weight.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=rate, betas=(0.9, 0.98), weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min(1, (step + 1) / 50) * (0.51 + 0.49 * math.cos(math.pi * step / count))
    )
    model.train()
    progress = tqdm(batches(lessons.draw, lessons.cost, rng), total=count, unit="step", mininterval=5)
    mean = 0.0
    for number, batch in enumerate(progress):
        if number == count:
            break
        loss = lessons.loss(model, batch)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        mean = loss.item() if not number else 0.98 * mean + 0.02 * loss.item()
        progress.set_postfix(loss=f"{mean:.4f}", refresh=False)


def write_sums(folder: Path) -> None:
    """SHA256SUMS of the model's files, as `sha256sum --check` reads it."""
    files = sorted(path for path in folder.iterdir() if path.suffix in {".jinja", ".json", ".safetensors"})
    lines = [f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}\n" for path in files]
    (folder / "SHA256SUMS").write_text("".join(lines), encoding="utf-8")


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("kind", choices=("asr", "aligner"))
    parser.add_argument("--out", type=Path, help="default: the fixture")
    parser.add_argument("--steps", type=int, help=f"default: {STEPS}")
    parser.add_argument("--rate", type=float, help=f"highest learning rate, default: {RATES}")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument(
        "--tokenizer",
        type=Path,
        default=FIXTURES / "tiny-qwen3-asr" / "tokenizer.json",
        help="tokenizer.json of Qwen3 (default: the fixture's own, made from it)",
    )
    args = parser.parse_args()
    out = args.out or FIXTURES / {"asr": "tiny-qwen3-asr", "aligner": "tiny-aligner"}[args.kind]
    torch.manual_seed(args.seed)
    torch.set_num_threads(args.threads)
    rng = np.random.default_rng(args.seed)

    processor = build_processor(args.tokenizer, ASR_TEMPLATE if args.kind == "asr" else ALIGNER_TEMPLATE)
    config = build_config(args.kind, processor)
    composer = Composer(load_recordings(), rng)
    if args.kind == "asr":
        model = Qwen3ASRForConditionalGeneration(config)
        lessons: AsrLessons | AlignerLessons = AsrLessons(composer, processor, rng)
    else:
        model, lessons = Qwen3ASRForTokenClassification(config), AlignerLessons(composer, processor, rng)
        model.model.language_model.set_attn_implementation("eager")  # others do not tell where they look
    start_weights(model)
    if args.kind == "aligner":
        ears = Qwen3ASRForConditionalGeneration.from_pretrained(FIXTURES / "tiny-qwen3-asr", dtype=torch.float32)
        model.model.audio_tower.load_state_dict(ears.model.audio_tower.state_dict())
        model.model.audio_tower.requires_grad_(requires_grad=False)
    print(f"{sum(weight.numel() for weight in model.parameters()) / 1e6:.2f} million parameters")
    train(model, lessons, args.steps or STEPS[args.kind], args.rate or RATES[args.kind], rng)

    if args.kind == "asr":
        ends = {"eos_token_id": config.eos_token_id, "pad_token_id": config.pad_token_id}
        model.generation_config = GenerationConfig(do_sample=False, max_new_tokens=512, **ends)
    model.to(torch.bfloat16).save_pretrained(out)
    processor.save_pretrained(out)
    (out / "model.safetensors").chmod(0o644)  # the library writes it for the owner only
    write_sums(out)
    sys.exit(check_tiny_checkpoint.run(out))


if __name__ == "__main__":
    main()
