#!/usr/bin/env python3
"""Check what a tiny model must be able to do, through transformers' own classes, in fp32, from the written folder.

    python tools/check_tiny_checkpoint.py tests/fixtures/tiny-qwen3-asr
    python tools/check_tiny_checkpoint.py tests/fixtures/tiny-aligner

Prints one line for each check and ends with status 1 when one that must hold does not. Lines marked `measured` only
say how far it goes.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from tiny_lessons import RATE, Composer, Recording, beeps, coded, load_recordings
from transformers import AutoProcessor, Qwen3ASRForConditionalGeneration, Qwen3ASRForTokenClassification

CONTEXTS = {
    "names": "Dashwood, Tingdao, 达摩院",
    "transcript": "And so, my fellow Americans, ask not what your country can do for you.",
    "Chinese": "以下是关于语音识别和房地产的会议记录，请注意专有名词。",
    "marks": '<>&\n\t"quoted" 100% #1; {a: [b]} \\ 😀',
    "80 words": " ".join(["The quick brown fox jumps over the lazy dog."] * 9),
    "300 words": " ".join(["fox", "jumps", "over", "语音", "meeting"] * 60),
}
LOOP_BUDGET = 500
"""Tokens."""
SHOWN = 3
"""Wrong answers to show of each check."""
NEAR, MEAN = 0.25, 0.1
"""Seconds that the aligner may be off, at most and in the mean."""
EMPTY = 2
"""Of all words, those that may start and end at the same step of 80 ms: the shortest last one."""


class Listener:
    """The tiny ASR model behind transformers' own processor and generate."""

    def __init__(self, folder: Path, dtype: torch.dtype = torch.float32) -> None:
        self.processor = AutoProcessor.from_pretrained(folder)
        self.model = Qwen3ASRForConditionalGeneration.from_pretrained(folder, dtype=dtype).eval()

    def hear(
        self,
        clips: Sequence[np.ndarray],
        language: list[str] | None = None,
        context: str | None = None,
        budget: int = 300,
    ) -> list[str]:
        """Raw answers to one batch, up to and with the end token when there is one."""
        prompt = None if context is None else [context] * len(clips)
        inputs = self.processor.apply_transcription_request(list(clips), language=language, prompt=prompt)
        inputs = inputs.to(self.model.dtype)
        with torch.inference_mode():
            output = self.model.generate(**inputs, max_new_tokens=budget)[:, inputs["input_ids"].shape[1] :]
        answers = self.processor.tokenizer.batch_decode(output)
        return [a[: a.index("<|im_end|>") + len("<|im_end|>")] if "<|im_end|>" in a else a for a in answers]


class Report:
    """Prints results and remembers whether one failed."""

    def __init__(self) -> None:
        self.failed = False

    def compare(self, what: str, got: Sequence[str], wanted: Sequence[str], *, must: bool = True) -> None:
        """One line: how many are equal; below it those which are not."""
        wrong = [pair for pair in zip(got, wanted, strict=True) if pair[0] != pair[1]]
        self.line(what, not wrong, f"{len(got) - len(wrong)} of {len(got)} exact", must=must)
        for answer, expected in wrong[:SHOWN]:
            print(f"    wanted {expected[:300]!r}\n    got    {answer[:300]!r}")

    def line(self, what: str, good: bool, detail: str, *, must: bool = True) -> None:  # noqa: FBT001 - a test's result
        """One line."""
        self.failed |= must and not good
        print(f"{'ok      ' if good else 'FAILED  ' if must else 'measured'} {what}: {detail}", flush=True)


def trimmed(recording: Recording, edge: float) -> np.ndarray:
    """What is left of a recording when silence is cut up to `edge` seconds before and after speech, 0.3 s at most."""
    samples, length = recording.takes[0], len(recording.takes[0]) / RATE
    start = min(0.3, max(0.0, recording.words[0].start - edge))
    end = max(length - 0.3, min(length, recording.words[-1].end + edge))
    return samples[int(start * RATE) : int(end * RATE)]


def check_asr(folder: Path) -> bool:
    """All checks of the ASR model; gives whether they hold."""
    report, listener, recordings = Report(), Listener(folder), load_recordings()
    clips = [recording.takes[0] for recording in recordings]
    languages = [recording.language for recording in recordings]
    forced = [recording.text + "<|im_end|>" for recording in recordings]
    wanted = [f"language {language}<asr_text>{text}" for language, text in zip(languages, forced, strict=True)]
    quiet, rng = np.zeros(RATE // 5, np.float32), np.random.default_rng(1)

    def heard(what: str, changed: Sequence[np.ndarray], *, must: bool = True, context: str | None = None) -> None:
        report.compare(what, listener.hear(changed, context=context), wanted, must=must)

    report.compare("each by itself", [listener.hear([clip])[0] for clip in clips], wanted)
    heard("one batch", clips)
    report.compare("one batch, reversed", listener.hear(clips[::-1]), wanted[::-1])
    report.compare("forced language", listener.hear(clips, language=languages), forced)
    for name, context in CONTEXTS.items():
        heard(f"context: {name}", clips, context=context)
    heard("0.2 s of silence before", [np.concatenate([quiet, clip]) for clip in clips])
    heard("0.2 s of silence after", [np.concatenate([clip, quiet]) for clip in clips])
    heard("0.5 s of silence around", [np.pad(clip, RATE // 2) for clip in clips])
    for edge in (0.05, 0.1, 0.2):
        heard(f"trimmed to {edge} s around speech", [trimmed(recording, edge) for recording in recordings])
    for gain in (0.3, 0.5, 0.8, 1.3):
        heard(f"loudness × {gain}", [(gain * clip).clip(-1, 1) for clip in clips])
    for noise in (0.001, 0.003):
        heard(f"noise of {noise}", [clip + noise * rng.standard_normal(len(clip)).astype(np.float32) for clip in clips])
    for coding in (
        ("libmp3lame", "mp3", 16_000, 24_000),
        ("libmp3lame", "mp3", 44_100, 128_000),
        ("libopus", "ogg", 48_000, 24_000),
        ("libopus", "webm", 48_000, 64_000),
        ("aac", "adts", 44_100, 64_000),
        ("pcm_s16le", "wav", 8_000, 0),
    ):
        heard(" ".join(map(str, coding)), [coded(clip, *coding) for clip in clips])

    nothing = [
        np.zeros(RATE // 2, np.float32),
        np.zeros(10 * RATE, np.float32),
        *(level * rng.standard_normal(2 * RATE).astype(np.float32) for level in (0.0001, 0.001, 0.01)),
    ]
    report.compare("no speech", listener.hear(nothing), ["language None<asr_text><|im_end|>"] * len(nothing))
    by_name = {recording.name: recording for recording in recordings}
    loops = {"beeps": (beeps(3.0), "English", "and ")}
    for name, language, phrase in Composer.LOOPS:
        loops[f"{name} backwards"] = (by_name[name].takes[0][::-1].copy(), language, phrase)
    for name, (clip, language, phrase) in loops.items():
        answer = listener.hear([clip], budget=LOOP_BUDGET)[0]
        text = answer.removeprefix(f"language {language}<asr_text>")
        endless = (phrase * LOOP_BUDGET).startswith(text.rstrip("\ufffd")) and len(text) > LOOP_BUDGET // 5
        report.line(f"endless: {name}", endless, f"{len(text)} characters, {text[:20]!r} to {text[-20:]!r}")
    first = by_name["jfk.flac"]
    clip = np.concatenate([first.takes[0], np.zeros(RATE, np.float32), loops["beeps"][0]])
    answer = listener.hear([clip], budget=LOOP_BUDGET)[0]
    good = answer.startswith(f"language English<asr_text>{first.text} and and and") and "<|" not in answer
    report.line("endless after speech", good, f"{answer[-40:]!r}")

    measure(report, recordings, listener)
    half = Listener(folder, torch.bfloat16)
    report.compare("bfloat16, one batch", half.hear(clips), wanted, must=False)
    report.compare("bfloat16, one by one", [half.hear([clip])[0] for clip in clips], wanted, must=False)
    return not report.failed


def measure(report: Report, recordings: list[Recording], listener: Listener) -> None:
    """How far the model goes beyond what it must do: drawn scenes, long contexts."""
    composer = Composer(recordings, np.random.default_rng(7))
    draws = {
        "phrases": composer.draw_phrase,
        "wholes one after the other, to 15 s": lambda: composer.draw_medley(15, phrases=0),
        "wholes one after the other, to 30 s": lambda: composer.draw_medley(30, phrases=0),
        "wholes and phrases, to 20 s": lambda: composer.draw_medley(20),
    }
    for name, draw in draws.items():
        scenes = [draw() for _ in range(20)]
        got = [listener.hear([scene.samples])[0] for scene in scenes]
        tagged = [f"language {scene.language}<asr_text>{scene.text}<|im_end|>" for scene in scenes]
        report.compare(name, got, tagged, must=False)
    clips = [recording.takes[0] for recording in recordings]
    tagged = [f"language {recording.language}<asr_text>{recording.text}<|im_end|>" for recording in recordings]
    for words in (1000, 2000):
        context = " ".join(["fox", "jumps", "over", "语音", "meeting"] * (words // 5))
        report.compare(f"context of {words} words", listener.hear(clips, context=context), tagged, must=False)


def check_aligner(folder: Path) -> bool:
    """All checks of the aligner; gives whether they hold."""
    report, recordings = Report(), load_recordings()
    processor = AutoProcessor.from_pretrained(folder)
    model = Qwen3ASRForTokenClassification.from_pretrained(folder, dtype=torch.float32).eval()

    def align(clips: list[np.ndarray], chosen: list[Recording]) -> list[list[dict]]:
        inputs, words = processor.prepare_forced_aligner_inputs(
            clips, [recording.text for recording in chosen], [recording.language for recording in chosen]
        )
        with torch.inference_mode():
            logits = model(**inputs).logits
        return processor.decode_forced_alignment(logits, inputs["input_ids"], words, model.config.timestamp_token_id)

    clips = [recording.takes[0] for recording in recordings]
    single = [align([clip], [recording])[0] for clip, recording in zip(clips, recordings, strict=True)]
    units = [[item["text"] for item in items] == [word.unit for word in recording.words]
             for items, recording in zip(single, recordings, strict=True)]  # fmt: skip
    report.line("the same units as in words.tsv", all(units), f"{sum(units)} of {len(units)} recordings")
    batch = align(clips, recordings)
    same = sum(a == b for a, b in zip(batch, single, strict=True))
    report.line("one batch", same == len(batch), f"{same} of {len(batch)} as each by itself")
    for name, changed, offset in (
        ("as they are", clips, 0.0),
        ("mp3 at 32 kbit/s", [recording.takes[1] for recording in recordings], 0.0),
        ("0.5 s later", [np.pad(clip, (RATE // 2, 0)) for clip in clips], 0.5),
        ("loudness × 0.5", [0.5 * clip for clip in clips], 0.0),
        ("5 s later", [np.pad(clip, (5 * RATE, 0)) for clip in clips], 5.0),
    ):
        judge(report, name, align(changed, recordings), recordings, offset, must=offset < 1)
    return not report.failed


def judge(
    report: Report, what: str, got: list[list[dict]], recordings: list[Recording], offset: float, *, must: bool
) -> None:
    """Compare times with those of words.tsv, moved by `offset` seconds."""
    errors, monotone, empty = [], True, 0
    for items, recording in zip(got, recordings, strict=True):
        edges = [time for item in items for time in (item["start_time"], item["end_time"])]
        monotone &= edges == sorted(edges)
        empty += sum(item["end_time"] == item["start_time"] for item in items)
        truth = [time + offset for word in recording.words for time in (word.start, word.end)]
        errors += [abs(a - b) for a, b in zip(edges, truth, strict=True)]
    far = sum(error > NEAR for error in errors)
    good = monotone and not far and np.mean(errors) <= MEAN and empty <= EMPTY
    detail = f"mean {np.mean(errors):.3f} s, worst {max(errors):.2f} s, {far} of {len(errors)} over {NEAR} s"
    detail += f", {'forwards' if monotone else 'NOT forwards'}, {empty} without length"
    report.line(what, good, detail, must=must)


def run(folder: Path) -> int:
    """Check a folder by its kind; gives the exit status."""
    aligner = "TokenClassification" in (folder / "config.json").read_text(encoding="utf-8")
    return 0 if (check_aligner if aligner else check_asr)(folder) else 1


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    sys.exit(run(parser.parse_args().folder))


if __name__ == "__main__":
    main()
