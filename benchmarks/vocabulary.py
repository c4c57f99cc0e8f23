"""How many terms correction by sound puts right, how many it puts where nobody said them, and what it costs.

    python benchmarks/vocabulary.py [--wrong]

The sentences are in `tests/vocabulary`: misheard ones with the right text beside them, and ordinary ones without a
term, each read with two lists of 100 terms. The first sentences were written before the rules; two thirds of them were
seen while the rules were made, every third was held out until the end. Later ones were written after that. Right:
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

from tingdao.text.vocabulary import Vocabulary, corrected
from tingdao.types import Segment, Term

SENTENCES = Path(__file__).parents[1] / "tests/vocabulary"
PARTS = ("seen", "held out", "later")
ROUNDS, CHARACTERS = 15, 3_000


def rows(name: str) -> list[dict[str, str]]:
    """A table of the test set."""
    with (SENTENCES / name).open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream, delimiter="\t", quoting=csv.QUOTE_NONE))


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


def misheard(lists: dict[str, Vocabulary], counted: Counter[tuple[str, str, str]]) -> list[str]:
    """Count the terms of the misheard sentences; the sentences that come out wrong."""
    wrong = []
    for row in rows("misheard.tsv"):
        got = written(row["heard"], row["language"], lists[row["list"]])
        terms = row["terms"].split("|")
        for term in terms:
            right = got.text.count(term) >= row["right"].count(term)
            counted[row["part"], row["language"], "right" if right else "missed"] += 1
        false = sum(correction.written not in terms for correction in got.corrections)
        counted[row["part"], row["language"], "false"] += false
        if got.text != row["right"]:
            wrong.append(f"{row['part']}: {got.text}   for   {row['right']}")
    return wrong


def ordinary(lists: dict[str, Vocabulary], counted: Counter[tuple[str, str, str]]) -> list[str]:
    """Count the corrections in ordinary sentences; the sentences that have one."""
    wrong = []
    for row in rows("ordinary.tsv"):
        counted[row["part"], row["language"], "ordinary"] += 1
        for name, vocabulary in lists.items():
            got = written(row["text"], row["language"], vocabulary)
            counted[row["part"], row["language"], "false"] += len(got.corrections)
            if got.text != row["text"]:
                wrong.append(f"{row['part']}: {got.text}   for   {row['text']}   ({name})")
    return wrong


def table(counted: Counter[tuple[str, str, str]]) -> None:
    """Print what was counted."""
    print(f"{'language':9} {'part':9} {'terms':>5} {'right':>5} {'missed':>6} {'':>6} {'ordinary':>8} {'false':>5}")
    for language in ("zh", "en", "mixed", "all"):
        for part in PARTS:
            kinds: Counter[str] = Counter()
            for (its_part, its_language, kind), count in counted.items():
                if its_part == part and language in (its_language, "all"):
                    kinds[kind] += count
            terms = kinds["right"] + kinds["missed"]
            print(
                f"{language:9} {part:9} {terms:5} {kinds['right']:5} {kinds['missed']:6} {kinds['right'] / terms:6.1%} "
                f"{kinds['ordinary']:8} {kinds['false']:5}"
            )


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--wrong", action="store_true", help="show every sentence that comes out wrong")
    wanted = parser.parse_args()
    began = time.process_time()
    lists = vocabularies()
    built = (time.process_time() - began) / len(lists)
    counted: Counter[tuple[str, str, str]] = Counter()
    wrong = [*misheard(lists, counted), *ordinary(lists, counted)]
    if wanted.wrong:
        print("\n".join(wrong), end="\n\n")
    table(counted)
    print(f"\nbuilding a list of 100 terms: {built * 1000:.0f} ms of CPU, the tables' first use included")
    for language in ("zh", "en", "mixed"):
        text = ("" if language == "zh" else " ").join(
            row["text"] for row in rows("ordinary.tsv") if row["language"] == language
        )
        each = {name: cost(text, language, vocabulary) for name, vocabulary in lists.items()}
        print(f"{language}: {', '.join(f'{ms:.1f} ms ({name})' for name, ms in each.items())} for 1,000 characters")


if __name__ == "__main__":
    main()
