"""Word and character error rate of a model over a folder of recordings with transcripts.

    python benchmarks/accuracy.py [--audio ../shared/audio] [--model auto] [--all] [--json FILE]

The folder holds `manifest.tsv` with the columns file, language, duration, transcript, speech. Counted are the
recordings spoken by humans and shorter than 60 s (`--all` takes the rest too). Latin-script languages: word error
rate after OpenAI's Whisper normaliser (English) or its basic one; Chinese, Japanese and Korean: character error rate
without punctuation and spaces. The whole pipeline runs, from the file on.
"""

from __future__ import annotations

import argparse
import asyncio
import csv
import json
import re
import sys
import time
import unicodedata
from pathlib import Path
from typing import Any

import jiwer
from tqdm import tqdm
from whisper_normalizer.basic import BasicTextNormalizer
from whisper_normalizer.english import EnglishTextNormalizer

from tingdao import app, observe, settings
from tingdao.types import Options

BY_CHARACTER = {"zh", "yue", "ja", "ko"}
LONGEST = 60.0
english, basic = EnglishTextNormalizer(), BasicTextNormalizer()


def normalise(text: str, language: str) -> str:
    """What is compared: no case, no punctuation; for character rates no spaces either."""
    if language == "en":
        return english(text)
    if language in BY_CHARACTER:
        text = unicodedata.normalize("NFKC", text).lower()
        return "".join(c for c in text if unicodedata.category(c)[0] in "LN")
    return re.sub(r"\s+", " ", basic(text)).strip()


def errors(reference: str, heard: str, language: str) -> tuple[int, int]:
    """Wrong units, and units in the reference."""
    reference, heard = normalise(reference, language), normalise(heard, language)
    score = (jiwer.process_characters if language in BY_CHARACTER else jiwer.process_words)(reference, heard)
    wrong = score.substitutions + score.deletions + score.insertions
    return wrong, score.hits + score.substitutions + score.deletions


async def measure(folder: Path, rows: list[dict[str, str]], model: str) -> list[dict[str, Any]]:
    """One result per recording."""
    service = app.build(settings.load(model=model))
    await service.start()
    results = []
    try:
        await service.registry.engine()
        for row in tqdm(rows, unit="recording", file=sys.stderr):
            began = time.perf_counter()
            with (folder / row["file"]).open("rb") as recording:
                transcript = await service.transcribe(recording, None, Options())
            wrong, units = errors(row["transcript"], transcript.text, row["language"])
            results.append(
                {
                    "file": row["file"],
                    "language": row["language"],
                    "detected": transcript.language,
                    "duration": transcript.duration,
                    "wrong": wrong,
                    "units": units,
                    "seconds": time.perf_counter() - began,
                    "heard": transcript.text,
                    "reference": row["transcript"],
                }
            )
    finally:
        await service.close()
    return results


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--audio", type=Path, default=Path(__file__).parent / "../../shared/audio")
    parser.add_argument("--model", default="auto")
    parser.add_argument("--all", action="store_true", help="synthetic and long recordings too")
    parser.add_argument("--json", type=Path, help="write the results to this file too")
    parser.add_argument("--wrong", action="store_true", help="show what was heard where it differs")
    wanted = parser.parse_args()
    observe.configure_logging("error")
    with (wanted.audio / "manifest.tsv").open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream, delimiter="\t"))
    if not wanted.all:
        rows = [row for row in rows if row["speech"] == "human" and float(row["duration"]) < LONGEST]
    results = asyncio.run(measure(wanted.audio, rows, wanted.model))

    print(f"{'recording':44} {'lang':4} {'seen':4} {'s':>6} {'wrong':>5} {'of':>5} {'rate':>7}  × real time")
    for row in results:
        print(
            f"{row['file'][:44]:44} {row['language']:4} {row['detected'] or '-':4} {row['duration']:6.1f} "
            f"{row['wrong']:5} {row['units']:5} {row['wrong'] / max(1, row['units']):7.1%}  "
            f"{row['duration'] / row['seconds']:5.1f}"
        )
        if wanted.wrong and row["wrong"]:
            print(f"    said  {row['reference']}\n    heard {row['heard']}")
    print()
    for language in sorted({row["language"] for row in results}):
        mine = [row for row in results if row["language"] == language]
        unit = "CER" if language in BY_CHARACTER else "WER"
        rate = sum(row["wrong"] for row in mine) / sum(row["units"] for row in mine)
        print(f"{language}: {unit} {rate:.1%} over {len(mine)} recordings, {sum(r['units'] for r in mine)} units")
    right = sum(row["detected"] == row["language"] for row in results)
    print(f"language right: {right} of {len(results)} ({right / len(results):.1%})")
    print(f"real-time factor: {sum(r['seconds'] for r in results) / sum(r['duration'] for r in results):.3f}")
    if wanted.json:
        wanted.json.write_text(json.dumps(results, ensure_ascii=False, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
