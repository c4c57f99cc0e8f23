"""How many terms correction by sound puts right, how many it puts where nobody said them, and what it costs.

    python benchmarks/vocabulary.py [--wrong]

The sentences are in `tests/vocabulary`: misheard ones with the right text beside them, and ordinary ones without a
term, each read with two lists of 100 terms. Every third sentence was held out while the rules were made. Right:
terms of the right text that stand in the corrected one. False: terms written where they do not belong; a false
correction in a misheard sentence counts as one too.
"""

from __future__ import annotations

import argparse
import csv
import statistics
import time
from collections import Counter
from pathlib import Path

from tingdao.pipeline.vocabulary import Vocabulary, corrected
from tingdao.types import Segment, Term

SENTENCES = Path(__file__).parents[1] / "tests/vocabulary"
HELD_OUT = 3
ROUNDS, CHARACTERS = 15, 3_000


def rows(name: str) -> list[dict[str, str]]:
    """A table of the test set, each row with its number."""
    with (SENTENCES / name).open(encoding="utf-8", newline="") as stream:
        found = list(csv.DictReader(stream, delimiter="\t", quoting=csv.QUOTE_NONE))
    return [
        {**row, "part": "held out" if number % HELD_OUT == HELD_OUT - 1 else "seen"} for number, row in enumerate(found)
    ]


def vocabularies() -> dict[str, Vocabulary]:
    """The lists of terms by name."""
    lists: dict[str, list[Term]] = {}
    for row in rows("terms.tsv"):
        sounds = tuple(sound for sound in row["sounds_like"].split(";") if sound)
        lists.setdefault(row["list"], []).append(Term(row["word"], sounds))
    return {name: Vocabulary(terms) for name, terms in lists.items()}


def written(text: str, language: str, vocabulary: Vocabulary) -> Segment:
    """The text as corrected; in mixed sentences Chinese is what a model reports."""
    return corrected(Segment(text, 0.0, 1.0, language="zh" if language == "mixed" else language), vocabulary)


def cost(text: str, language: str, vocabulary: Vocabulary) -> float:
    """Milliseconds of CPU for 1,000 characters, the median of the rounds."""
    long = (text * (CHARACTERS // len(text) + 1))[:CHARACTERS]
    taken = []
    for _ in range(ROUNDS):
        began = time.process_time()
        written(long, language, vocabulary)
        taken.append(time.process_time() - began)
    return statistics.median(taken) * 1_000_000 / CHARACTERS


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--wrong", action="store_true", help="show every sentence that comes out wrong")
    wanted = parser.parse_args()
    began = time.process_time()
    lists = vocabularies()
    built = (time.process_time() - began) / len(lists)
    counted: Counter[tuple[str, str, str]] = Counter()
    texts: dict[str, list[str]] = {}
    for row in rows("misheard.tsv"):
        got = written(row["heard"], row["language"], lists[row["list"]])
        for term in row["terms"].split("|"):
            right = got.text.count(term) >= row["right"].count(term)
            counted[row["part"], row["language"], "right" if right else "missed"] += 1
        false = sum(correction.written not in row["terms"].split("|") for correction in got.corrections)
        counted[row["part"], row["language"], "false"] += false
        if wanted.wrong and got.text != row["right"]:
            print(f"{row['part']}: {got.text}   for   {row['right']}")
    for row in rows("ordinary.tsv"):
        texts.setdefault(row["language"], []).append(row["text"])
        counted[row["part"], row["language"], "ordinary"] += 1
        for name, vocabulary in lists.items():
            got = written(row["text"], row["language"], vocabulary)
            counted[row["part"], row["language"], "false"] += len(got.corrections)
            if wanted.wrong and got.text != row["text"]:
                print(f"{row['part']}: {got.text}   for   {row['text']}   ({name})")

    print(f"{'language':9} {'part':9} {'terms':>5} {'right':>5} {'missed':>6} {'':>6} {'ordinary':>8} {'false':>5}")
    for language in (*texts, "all"):
        for part in ("seen", "held out"):
            kinds: Counter[str] = Counter()
            for (its_part, its_language, kind), count in counted.items():
                if its_part == part and language in (its_language, "all"):
                    kinds[kind] += count
            terms = kinds["right"] + kinds["missed"]
            print(
                f"{language:9} {part:9} {terms:5} {kinds['right']:5} {kinds['missed']:6} {kinds['right'] / terms:6.1%} "
                f"{kinds['ordinary']:8} {kinds['false']:5}"
            )
    print(f"\nbuilding a list of 100 terms: {built * 1000:.0f} ms of CPU, the first use of the word lists included")
    for language, sentences in texts.items():
        text = ("" if language == "zh" else " ").join(sentences)
        each = {name: cost(text, language, vocabulary) for name, vocabulary in lists.items()}
        print(f"{language}: {', '.join(f'{ms:.1f} ms ({name})' for name, ms in each.items())} for 1,000 characters")


if __name__ == "__main__":
    main()
