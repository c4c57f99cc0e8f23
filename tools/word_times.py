#!/usr/bin/env python3
"""Word times for the training of the tiny models: tests/fixtures/tiny-aligner/words.tsv.

The words are the true ones (column `text` of the manifest); their times come from Whisper's cross-attention
(`faster_whisper.WhisperModel.find_alignment`), narrowed to where the sound is loud. They are coarse, about 0.1 s,
and nobody corrected them. Run it with Tingdao's own environment:

    python tools/word_times.py WHISPER_BASE_FOLDER
"""

import argparse
import csv
from pathlib import Path

import numpy as np
from faster_whisper import WhisperModel, decode_audio
from faster_whisper.audio import pad_or_trim
from faster_whisper.tokenizer import Tokenizer
from tqdm import tqdm

TESTS = Path(__file__).parent.parent / "tests"
RATE = 16_000
LANGUAGES = ("en", "zh")


def character_spans(
    model: WhisperModel, samples: np.ndarray, text: str, language: str
) -> list[tuple[str, float, float]]:
    """(character, start, end in seconds) for the whole text; characters share their token's time equally."""
    features = model.feature_extractor(samples)
    tokenizer = Tokenizer(model.hf_tokenizer, multilingual=True, task="transcribe", language=language)
    tokens = tokenizer.encode(text)
    pieces = model.find_alignment(tokenizer, [tokens], model.encode(pad_or_trim(features)), features.shape[-1])[0]
    spans = []
    for piece in pieces:
        step = (piece["end"] - piece["start"]) / max(1, len(piece["word"]))
        for place, character in enumerate(piece["word"]):
            spans.append((character, piece["start"] + place * step, piece["start"] + (place + 1) * step))
    return spans


def words(spans: list[tuple[str, float, float]], language: str) -> list[tuple[str, float, float]]:
    """Join characters to the aligner's units: Chinese characters, else words without their punctuation."""
    found: list[tuple[str, float, float]] = []
    open_word = False
    for character, start, end in spans:
        if character.isalnum() or character == "'":
            if open_word and language != "zh":
                found[-1] = (found[-1][0] + character, found[-1][1], end)
            else:
                found.append((character, start, end))
            open_word = True
        elif character.isspace():
            open_word = False
    return found


def narrow(start: float, end: float, samples: np.ndarray) -> tuple[float, float]:
    """Cut the quiet edges, 20 dB under the span's loudest 20 ms, off a span in seconds."""
    span = samples[int(start * RATE) : int(end * RATE)]
    frames = span[: len(span) // 320 * 320].reshape(-1, 320)
    if len(frames) == 0:
        return start, end
    level = np.sqrt((frames**2).mean(axis=1))
    loud = np.flatnonzero(level >= 0.1 * level.max())
    return start + 0.02 * int(loud[0]), min(end, start + 0.02 * (int(loud[-1]) + 1))


def main() -> None:
    """Write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", help="folder of Whisper base for CTranslate2")
    parser.add_argument("--out", type=Path, default=TESTS / "fixtures" / "tiny-aligner" / "words.tsv")
    args = parser.parse_args()
    model = WhisperModel(args.model, device="cpu", compute_type="int8")
    with (TESTS / "recordings" / "manifest.tsv").open(encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file, delimiter="\t") if row["language"] in LANGUAGES]
    with args.out.open("w", encoding="utf-8") as out:
        out.write("file\tword\tstart\tend\n")
        for row in tqdm(rows, unit="recording"):
            samples = decode_audio(str(TESTS / "recordings" / row["file"]))
            for word, start, end in words(
                character_spans(model, samples, row["text"], row["language"]), row["language"]
            ):
                start, end = narrow(start, end, samples)
                out.write(f"{row['file']}\t{word}\t{start:.2f}\t{end:.2f}\n")


if __name__ == "__main__":
    main()
