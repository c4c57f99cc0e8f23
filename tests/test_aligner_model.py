"""The aligner with random weights, against transformers' own way through the same model. Needs the extras.

Random weights give random times, the same ones every time: 14 steps, so that they lie within every recording.
"""

import asyncio
import csv
import sys
from pathlib import Path

import numpy as np
import pytest
from faster_whisper import decode_audio

from test_aligner import ALIGNER, in_order
from test_qwen_dialogue import SPECIAL, byte_tokenizer
from test_qwen_weights import write_config
from tingdao.engines.aligner.engine import Aligner
from tingdao.engines.aligner.words import split
from tingdao.errors import EngineFailed, SetupError
from tingdao.settings import AlignerSettings
from tingdao.types import SAMPLE_RATE, Clip

pytestmark = pytest.mark.qwen

ROOT = Path(__file__).parent.parent
RECORDINGS = ROOT / "tests" / "recordings"
EXACT = AlignerSettings(device="cpu", dtype="float32")
LAYOUTS = ("native", "original")
# As the published processor has it: the audio, then each word with two marks behind it.
TEMPLATE = (
    "{% for part in messages[0].content %}{% if part.type == 'audio' %}<|audio_start|><|audio_pad|><|audio_end|>"
    "{% else %}{{ part.text }}<timestamp><timestamp>{% endif %}{% endfor %}"
)


@pytest.fixture
def aligner_model():
    """The module itself, imported here because the default tests collect this file without PyTorch."""
    from tingdao.engines.aligner import model as aligner_model

    return aligner_model


@pytest.fixture(scope="session")
def folders(tmp_path_factory):
    """One random aligner in both layouts."""
    sys.path.insert(0, str(ROOT / "benchmarks"))
    import random_checkpoint
    import torch
    from safetensors.torch import save_file

    root = tmp_path_factory.mktemp("aligner")
    byte_tokenizer([*SPECIAL, "<timestamp>"]).save(str(root / "tokenizer.json"))
    made = random_checkpoint.tokenizer(root)
    config = random_checkpoint.config("tiny", made) | {"num_labels": 14}
    tensors = random_checkpoint.weights(config, made, seed=1)
    dice = torch.Generator().manual_seed(2)
    for name, tensor in tensors.items():
        # Louder than a trained model, so that the answer hangs on what is heard and read, not on the mark alone.
        if tensor.dim() == 2:
            tensors[name] = (torch.randn(tensor.shape, generator=dice) * 3 * tensor.shape[1] ** -0.5).bfloat16()
    head = tensors.pop("score.weight")
    native = {name: value for name, value in config.items() if name != "num_labels"}
    native |= {"architectures": ALIGNER["architectures"], "id2label": ALIGNER["id2label"]}
    original, renamed = random_checkpoint.original(config, tensors)
    renamed["thinker.lm_head.weight"] = head
    thinker = original["thinker_config"]
    thinker |= {"model_type": "qwen3_forced_aligner", "classify_num": 14}
    written = {"native": (native, tensors | {"score.weight": head}), "original": (original, renamed)}
    for layout, (settings, named) in written.items():
        (root / layout).mkdir()
        write_config(root / layout, settings)
        made.save(str(root / layout / "tokenizer.json"))
        save_file(named, root / layout / "model.safetensors", metadata={"format": "pt"})
    return root


@pytest.fixture(scope="session")
def said():
    """(clip, text, language) of every recording."""
    with (RECORDINGS / "manifest.tsv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    return [(Clip(decode_audio(str(RECORDINGS / row["file"]))), row["text"], row["language"]) for row in rows]


def run(folder, work, settings=EXACT):
    """What `work`, given an aligner, comes to."""

    async def main():
        aligner = Aligner.load(folder, settings)
        try:
            return await work(aligner)
        finally:
            await aligner.close()

    return asyncio.run(main())


def together(said):
    return lambda aligner: asyncio.gather(*(aligner.align(*one) for one in said))


async def alone(aligner, said):
    return [await aligner.align(*one) for one in said]


def processor(folder):
    from transformers import PreTrainedTokenizerFast, Qwen3ASRFeatureExtractor, Qwen3ASRProcessor

    tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(folder / "tokenizer.json"), pad_token="<|endoftext|>")
    for name, token in (("", "<|audio_pad|>"), ("_bos", "<|audio_start|>"), ("_eos", "<|audio_end|>")):
        setattr(tokenizer, f"audio{name}_token", token)
    return Qwen3ASRProcessor(Qwen3ASRFeatureExtractor(), tokenizer, chat_template=TEMPLATE)


def by_transformers(folder, said):
    """The words and times of each recording as transformers' manual has it, and all steps that were predicted."""
    import torch
    from transformers import Qwen3ASRForTokenClassification

    prepare = processor(folder)
    model = Qwen3ASRForTokenClassification.from_pretrained(folder, dtype=torch.float32).eval()
    mark = model.config.timestamp_token_id
    found, steps = [], set()
    for clip, text, language in said:
        inputs, words = prepare.prepare_forced_aligner_inputs([clip.samples], text, language)
        inputs.pop("num_audio_tokens", None)
        with torch.inference_mode():
            logits = model(**inputs).logits
        steps |= set(logits.argmax(-1)[inputs["input_ids"] == mark].tolist())
        found += prepare.decode_forced_alignment(logits, inputs["input_ids"], words, mark)
    return found, steps


def test_the_same_as_transformers_on_the_same_model(folders, said):
    wanted, steps = by_transformers(folders / "native", said)
    assert len(steps) > 6, "a model that always says the same proves nothing"
    for layout in LAYOUTS:
        for (clip, text, language), found, want in zip(
            said, run(folders / layout, together(said)), wanted, strict=True
        ):
            assert [unit.spoken for unit in split(text, language)] == [word["text"] for word in want]
            assert [(word.start, word.end) for word in found.words] == [
                (min(word["start_time"], clip.duration), min(word["end_time"], clip.duration)) for word in want
            ]
            in_order(found, clip.duration)


def test_together_as_alone_in_any_order(folders, said, monkeypatch, aligner_model):
    monkeypatch.setitem(aligner_model.PASS, "cpu", 100_000)
    clips = [*said, (Clip(said[0][0].samples[:3000]), "And", "en"), (Clip(said[1][0].samples[:1]), "one", "en")]
    one_by_one = run(folders / "native", lambda aligner: alone(aligner, clips))
    assert run(folders / "native", together(clips)) == one_by_one
    assert run(folders / "native", together(clips[::-1])) == one_by_one[::-1]


def test_words_are_parted_as_transformers_parts_them(folders):
    part = processor(folders / "native").split_words_for_alignment
    for language, text in {
        "English": "“Well,” he said: ill-disposed, isn't it? (3.5 km)",
        "Chinese": "我有2个iPhone 15, don't worry。𠮷野家二〇二四年。",
        "French": "L’été, c'est « ici ».",
        "Russian": "Привет, мир! Ёлка 5-я.",
        "Japanese": "今日は、東京 タワーでＡＢＣを１２㌔見ました。ｶﾞｷﾞ「本当？」",
    }.items():
        code = {"English": "en", "Chinese": "zh", "French": "fr", "Russian": "ru", "Japanese": "ja"}[language]
        assert [unit.spoken for unit in split(text, code)] == part(text, language)


def test_japanese_is_shown_as_written(folders):
    text = "「今日は、東京 タワーで１２㌔見ました。」"
    units = split(text, "ja")
    assert "".join(text[unit.begin : unit.end] for unit in units) == "今日は東京タワーで１２㌔見ました"


def test_many_words_in_a_short_clip(folders):
    clip = Clip(np.zeros(SAMPLE_RATE, np.float32))
    found = run(folders / "native", lambda aligner: aligner.align(clip, "word " * 5000, "en"))
    assert len(found.words) == 5000
    assert found.flags[-4000:] == ("untimed",) * 4000
    in_order(found, 1.0)


def test_a_cancelled_call_leaves_the_others_alone(folders, said):
    async def work(aligner):
        calls = [asyncio.create_task(aligner.align(*one)) for one in said]
        await asyncio.sleep(0)
        for call in calls[::2]:
            call.cancel()
        return await asyncio.gather(*calls, return_exceptions=True)

    wanted = run(folders / "native", together(said))
    found = run(folders / "native", work)
    assert found[1::2] == wanted[1::2]
    assert all(isinstance(one, asyncio.CancelledError) for one in found[::2])


def test_one_that_fails_fails_alone(folders, said, monkeypatch, aligner_model):
    steps, bad = aligner_model.AlignerModel._steps, said[3][0].samples

    def failing(self, jobs):
        if any(job.samples is bad or np.array_equal(job.samples, bad) for job in jobs):
            raise ValueError("no")
        return steps(self, jobs)

    wanted = run(folders / "native", together(said))
    monkeypatch.setattr(aligner_model.AlignerModel, "_steps", failing)
    found = run(
        folders / "native",
        lambda aligner: asyncio.gather(*(aligner.align(*one) for one in said), return_exceptions=True),
    )
    assert isinstance(found[3], EngineFailed)
    assert [*found[:3], *found[4:]] == [*wanted[:3], *wanted[4:]]


def test_memory_that_runs_out_makes_smaller_passes(folders, said, monkeypatch, aligner_model):
    steps = aligner_model.AlignerModel._steps
    monkeypatch.setitem(aligner_model.PASS, "cpu", 100_000)
    sizes = []

    def little(self, jobs):
        sizes.append(len(jobs))
        if len(jobs) > 2:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 bytes.")
        return steps(self, jobs)

    wanted = run(folders / "native", together(said))
    monkeypatch.setattr(aligner_model.AlignerModel, "_steps", little)
    assert run(folders / "native", together(said)) == wanted
    assert max(sizes) > 2


def test_in_bfloat16(folders, said):
    for (clip, _, _), found in zip(
        said, run(folders / "original", together(said), AlignerSettings(device="cpu", dtype="bfloat16")), strict=True
    ):
        in_order(found, clip.duration)


def test_a_gpu_that_is_not_there(folders):
    with pytest.raises(SetupError, match="no GPU 'cuda:99'"):
        Aligner.load(folders / "native", AlignerSettings(device="cuda:99"))
