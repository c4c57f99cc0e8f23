"""Manifests: lists of recordings with what is said in them.

A table with a heading (tabs; or commas or semicolons, with quotes as CSV has them), or JSON lines, in UTF-8. Columns
go by several names, as published lists have them; the first that is there counts, and further columns do not matter.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tingdao import languages
from tingdao.errors import SetupError

COLUMNS = {
    "file": ("file", "path", "audio_filepath", "audio"),
    "text": ("text", "transcript", "sentence"),
    "language": ("language", "lang", "locale"),
}
EXAMPLE = 'a table with the heading `file<TAB>text<TAB>language`, or lines such as {"file": "a.wav", "text": "Hello."}'


@dataclass(frozen=True, slots=True)
class Entry:
    """A recording and what is said in it.

    name: the file as the manifest names it. file: where it is.
    text: empty where nothing is said. language: ISO code, or None when the manifest does not say.
    """

    name: str
    file: Path
    text: str
    language: str | None


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a manifest lists. broken: what is wrong with a line, by its number."""

    entries: tuple[Entry, ...]
    broken: dict[str, str]


def read(manifest: Path) -> Manifest:
    """Read a manifest; a line that cannot be understood is told, and the others count.

    Files are relative to the manifest's folder. Raises SetupError when there is nothing to go by.
    """
    try:
        lines = manifest.read_text(encoding="utf-8-sig").split("\n")
    except UnicodeDecodeError:
        raise SetupError(f"{manifest} is not a text in UTF-8. Save it as UTF-8 (in Excel: 'CSV UTF-8').") from None
    except OSError as error:
        raise SetupError(f"{manifest} cannot be read ({error.strerror}).") from None
    first = next((line for line in lines if line.strip()), None)
    if first is None:
        raise SetupError(f"{manifest} is empty. Write into it {EXAMPLE}.")
    rows = _json_lines(lines) if first.lstrip().startswith("{") else _table(manifest, lines, first)
    entries, broken = [], {}
    for number, row in rows:
        found = row if isinstance(row, str) else _entry(row, manifest.parent)
        if isinstance(found, str):
            broken[f"line {number}"] = found
        else:
            entries.append(found)
    if not entries and not broken:
        raise SetupError(f"{manifest} has a heading and nothing below it. Write one line for each recording.")
    if not entries:
        where, what = next(iter(broken.items()))
        raise SetupError(f"{manifest} has no line that can be used ({where} {what}). It is to be {EXAMPLE}.")
    return Manifest(tuple(entries), broken)


def _json_lines(lines: list[str]) -> Iterator[tuple[int, dict[str, object] | str]]:
    """(number, row, or what is wrong with it) of each line."""
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            yield number, f"is not JSON ({error})"
            continue
        yield number, row if isinstance(row, dict) else "is not a JSON object"


def _table(manifest: Path, lines: list[str], first: str) -> Iterator[tuple[int, dict[str, object] | str]]:
    """The rows below the heading. Raises SetupError for a heading without the columns that are needed."""
    if "\t" in first:
        # Tables with tabs have no quotes: one at the beginning of a text is part of it.
        numbered: Iterator[tuple[int, list[str]]] = (
            (number, line.split("\t")) for number, line in enumerate(lines, 1) if line.strip()
        )
    else:
        numbered = _comma_separated(manifest, lines, ";" if ";" in first and "," not in first else ",")
    heading = [name.strip().lower() for name in next(numbered)[1]]
    for column in ("file", "text"):
        if not set(COLUMNS[column]) & set(heading):
            raise SetupError(
                f"{manifest} has no column {column!r}; its heading is: {', '.join(heading)[:200]}. "
                f"It is to be {EXAMPLE}."
            )
    # A line may end before its last columns, and go on after them.
    return ((number, dict(zip(heading, cells, strict=False))) for number, cells in numbered)


def _comma_separated(manifest: Path, lines: list[str], delimiter: str) -> Iterator[tuple[int, list[str]]]:
    reader = csv.reader((f"{line}\n" for line in lines), delimiter=delimiter)
    try:
        for cells in reader:
            if any(cell.strip() for cell in cells):
                yield reader.line_num, cells
    except csv.Error as error:
        raise SetupError(f"{manifest} cannot be read at line {reader.line_num} ({error}).") from None


def _entry(row: dict[str, object], folder: Path) -> Entry | str:
    """The entry of one row, or what is wrong with it."""
    file, text, language = (next((row[name] for name in names if name in row), None) for names in COLUMNS.values())
    if not isinstance(file, str) or not file.strip():
        return "names no file"
    if not isinstance(text, str):
        return f"has no text for {file.strip()}"
    if not _encodable(file + text):
        return "has half a character (a lone surrogate)"
    name = file.strip()
    return Entry(name, folder / name, text.strip(), languages.code_of(language) if isinstance(language, str) else None)


def _encodable(text: str) -> bool:
    return not any("\ud800" <= character <= "\udfff" for character in text)
