"""Clips → word times around a model that only pretends: folders, parts of long clips, limits. Needs no torch."""

import asyncio
import json
import random
import sys
from itertools import pairwise

import numpy as np
import pytest
from tokenizers import AddedToken

from test_qwen_dialogue import byte_tokenizer
from test_qwen_weights import AUDIO, NATIVE, TEXT, expected, in_original, write_config, write_safetensors
from tingdao.engines.aligner.engine import CLIP_LIMIT, Aligner
from tingdao.engines.aligner.prompt import Prompter
from tingdao.engines.qwen.weights import open_checkpoint
from tingdao.errors import EngineFailed, SetupError, UnsupportedOption
from tingdao.settings import AlignerSettings
from tingdao.types import SAMPLE_RATE, Clip

STEP = 0.08
LABELS = {"id2label": {str(number): f"LABEL_{number}" for number in range(14)}}
ALIGNER = NATIVE | LABELS | {"architectures": ["Qwen3ASRForTokenClassification"]}
SHAPES = expected(NATIVE | {"num_labels": 14})


def aligner_tokenizer():
    made = byte_tokenizer()
    made.add_special_tokens([AddedToken("<timestamp>", normalized=False)])
    return made


TOKENIZER = aligner_tokenizer()


class Pretender:
    """Answers like a model that knows when each word is said, in a recording whose samples are their own time.

    times: for each word of the recording its start and end in seconds; the words are their own numbers. What is not
    in the clip that it hears it piles up at the end, as the real one does. odd: answers at random instead.
    """

    step_ms = 80

    def __init__(self, times=(), odd=None):
        self.times, self.odd, self.jobs, self.heard = times, odd, [], []

    def cost(self, job):
        return len(job.ids)

    def enter(self, job):
        self.jobs.append(job)

    def leave(self, job):
        self.jobs.remove(job)

    def step(self):
        for job in self.jobs:
            self.heard.append((len(job.samples) / SAMPLE_RATE, len(job.ids), job.words))
            job.steps = self.answer(job)
            job.ended = "stop"
        return list(self.jobs)

    def answer(self, job):
        begin, end = float(job.samples[0]), float(job.samples[-1])
        text = TOKENIZER.decode(job.ids, skip_special_tokens=False)
        words = text.split("<|audio_end|>")[1].split("<timestamp><timestamp>")[:-1]
        assert len(words) == job.words
        if self.odd:
            return [self.odd.randint(0, 3000) for _ in range(2 * job.words)]
        moments = [moment for word in words for moment in self.times[int(word)]]
        return [round((min(max(moment, begin), end) - begin) / STEP) for moment in moments]


def recording(seconds):
    return Clip(np.arange(int(seconds * SAMPLE_RATE), dtype=np.float32) / SAMPLE_RATE)


def align(model, clip, text, language="en"):
    async def main():
        aligner = Aligner(model, Prompter(TOKENIZER))
        try:
            return await aligner.align(clip, text, language)
        finally:
            await aligner.close()

    return asyncio.run(main())


def in_order(alignment, duration):
    edges = [moment for word in alignment.words for moment in (word.start, word.end)]
    assert all(a <= b for a, b in pairwise([0.0, *edges, duration]))
    assert len(alignment.flags) == len(alignment.words)
    for word, flag in zip(alignment.words, alignment.flags, strict=True):
        assert (flag == "untimed") == (word.start == word.end)


def test_words_as_the_text_shows_them_with_their_times():
    model = Pretender([(0.16, 0.4), (0.4, 0.8), (1.6, 1.6)])
    found = align(model, recording(3), "— 0, “1”… 2.")
    assert [(word.text, word.start, word.end) for word in found.words] == [
        ("0", 0.16, 0.4),
        ("1", 0.4, 0.8),
        ("2", 1.6, 1.6),
    ]
    assert found.flags == ("", "", "untimed")


@pytest.mark.parametrize("text", ["", " \n", "?!", "。。。"])
def test_without_words_the_model_is_not_asked(text):
    model = Pretender()
    found = align(model, recording(1), text)
    assert (found.words, found.flags, model.heard) == ((), (), [])


def test_a_language_that_is_not_timed_is_refused_before_and_at_the_work():
    with pytest.raises(UnsupportedOption, match="Hindi"):
        align(Pretender(), recording(1), "नमस्ते", "hi")
    aligner = Aligner(Pretender(), Prompter(TOKENIZER))
    assert "hi" not in aligner.languages
    with pytest.raises(UnsupportedOption, match="Hindi"):
        aligner.require("hi")
    asyncio.run(aligner.close())


def test_far_more_text_than_anybody_could_say():
    model = Pretender([(0.1, 0.2)] * 100_000)
    found = align(model, recording(2), " ".join(map(str, range(20_000))))
    ((_, tokens, words),) = model.heard
    assert tokens < 600
    assert words < 200
    assert len(found.words) == 20_000
    assert set(found.flags[words:]) == {"untimed"}
    in_order(found, 2)


def test_one_endless_word():
    found = align(Pretender(), recording(2), "a" * 100_000)
    assert found.flags == ("untimed",)


def test_no_sound_at_all():
    found = align(Pretender([(0, 0)]), Clip(np.zeros(1, np.float32)), "0")
    assert found.flags == ("untimed",)


def spoken(seconds, seed):
    """Word times of a talk with pauses, slow and fast stretches, and minutes of nothing."""
    dice, now, times = random.Random(seed), 3.0, []
    while now < seconds - 2:
        pace = 0.12 + 0.5 * (1 + np.sin(now / 40)) / 2
        end = now + pace * dice.uniform(0.7, 1)
        times.append((round(now / STEP) * STEP, round(end / STEP + 1) * STEP))
        now = end + 2 * STEP + (dice.uniform(0.3, 1.5) if dice.random() < 0.1 else 0)
        if 300 < now < 310:
            now += 100
    return times


@pytest.mark.parametrize("seconds", [170, 181, 400, 1200])
def test_a_long_clip_is_aligned_in_parts(seconds):
    times = spoken(seconds, seconds)
    model = Pretender(times)
    found = align(model, recording(seconds), " ".join(map(str, range(len(times)))))
    assert max(length for length, _, _ in model.heard) <= CLIP_LIMIT
    assert len(model.heard) <= 1 + seconds / (CLIP_LIMIT / 2)
    assert [word.text for word in found.words] == list(map(str, range(len(times))))
    in_order(found, seconds)
    off = [abs(word.start - start) + abs(word.end - end) for word, (start, end) in zip(found.words, times, strict=True)]
    assert max(off) < 4 * STEP
    assert set(found.flags) == {""}


def test_a_long_clip_whose_text_is_not_in_it_still_comes_to_an_end():
    model = Pretender(odd=random.Random(0))
    found = align(model, recording(700), " ".join(map(str, range(2500))))
    assert len(model.heard) <= 1 + 700 / (CLIP_LIMIT / 2)
    assert len(found.words) == 2500
    assert len([flag for flag in found.flags if not flag]) < 300
    in_order(found, 700)


def test_a_long_clip_with_little_text():
    model = Pretender([(500.0, 500.4)])
    found = align(model, recording(600), "0")
    assert len(found.words) == 1
    in_order(found, 600)


def test_after_closing_nothing_is_aligned():
    async def main():
        aligner = Aligner(Pretender([(0.1, 0.2)]), Prompter(TOKENIZER))
        await aligner.close()
        with pytest.raises(EngineFailed, match="shut down"):
            await aligner.align(recording(1), "0", "en")

    asyncio.run(main())


def test_a_tokenizer_of_another_model():
    with pytest.raises(SetupError, match=r"lacks <timestamp>.*tingdao download"):
        Prompter(byte_tokenizer())


@pytest.fixture
def folder(tmp_path):
    write_config(tmp_path, ALIGNER)
    write_safetensors(tmp_path / "model.safetensors", SHAPES)
    TOKENIZER.save(str(tmp_path / "tokenizer.json"))
    return tmp_path


def test_a_folder_in_the_native_layout(folder):
    (folder / "processor_config.json").write_text('{"timestamp_segment_time": 40}', encoding="utf-8")
    found = open_checkpoint(folder, "aligner")
    assert found.layout == "native"
    assert found.entries.keys() == SHAPES.keys()
    assert found.config["timestamp_segment_time"] == 40


def test_a_folder_in_the_original_layout(folder):
    thinker = {"model_type": "qwen3_forced_aligner", "audio_config": AUDIO, "text_config": TEXT, "classify_num": 14}
    write_config(folder, {"model_type": "qwen3_asr", "thinker_config": thinker, "timestamp_segment_time": 40})
    shapes = {in_original(name): shape for name, shape in expected(NATIVE).items()}
    write_safetensors(folder / "model.safetensors", shapes | {"thinker.lm_head.weight": SHAPES["score.weight"]})
    found = open_checkpoint(folder, "aligner")
    assert found.layout == "original"
    assert found.entries.keys() == SHAPES.keys()
    assert found.config["num_labels"] == 14
    assert found.config["timestamp_segment_time"] == 40


def refused(folder, says):
    with pytest.raises(SetupError, match=says):
        Aligner.load(folder, AlignerSettings())


def test_folders_that_are_not_an_aligner(folder, tmp_path):
    refused(tmp_path / "nowhere", "is not a folder.*aligner")
    write_config(folder, NATIVE)
    refused(folder, "gives text and no times")
    write_config(folder, {"model_type": "bert"})
    refused(folder, r"another kind of model \(bert\)")


def test_a_folder_without_its_head(folder):
    write_safetensors(folder / "model.safetensors", expected(NATIVE))
    refused(folder, r"1 of \d+ tensors are missing, such as score\.weight")


def test_pickles_only(folder):
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    refused(folder, "pickled weights only")


@pytest.mark.parametrize("step", [0, -80, "80", None])
def test_a_step_that_is_none(folder, step):
    (folder / "processor_config.json").write_text(json.dumps({"timestamp_segment_time": step}), encoding="utf-8")
    refused(folder, "a step of time is")


def test_without_torch_it_says_what_to_install(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    refused(folder, r"pip install 'tingdao\[qwen\]'")
