"""`tingdao eval`: how good a model is on somebody's own recordings."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tingdao.columns import columns
from tingdao.commands.setup import given, model_options, read_settings, stop
from tingdao.errors import BadRequest, SetupError, TingdaoError

if TYPE_CHECKING:
    from tqdm import tqdm

    from tingdao.evaluation import Rate, Result
    from tingdao.manifest import Entry
    from tingdao.pipeline.service import Service

FILE = click.Path(path_type=Path, dir_okay=False)
SHOWN = 10
"""Recordings without a result that are named on the terminal; the files name all."""


@dataclass(slots=True)
class Measurement:
    """What has come out so far. failed: recordings that do not count, and why. seconds: since the model was loaded."""

    results: list[Result] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    models: set[str] = field(default_factory=set)
    seconds: float = 0.0

    @property
    def audio(self) -> float:
        """Seconds of the recordings that count."""
        return sum(result.duration for result in self.results)


@click.command("eval")
@click.argument("manifest", type=FILE)
@model_options
@click.option("--language", "-l", help="ISO code of the language spoken in all of them, told to the model; else it is "
              "left to detect it, whatever the manifest says.")  # fmt: skip
@click.option("--limit", type=click.IntRange(1), help="Only the first so many of the manifest.")
@click.option("--concurrency", type=click.IntRange(1, 1000), default=1, show_default=True,
              help="Recordings at once: faster in all where the model works on several side by side.")  # fmt: skip
@click.option("--json", "json_file", type=FILE, help="Write all that was measured to this file.")
@click.option("--html", "html_file", type=FILE, help="Write a page with what was wrong in each recording.")
def evaluate(
    manifest: Path,
    model: str | None,
    device: str | None,
    dtype: str | None,
    language: str | None,
    limit: int | None,
    concurrency: int,
    json_file: Path | None,
    html_file: Path | None,
) -> None:
    """Measure how much a model gets wrong in the recordings that MANIFEST lists.

    MANIFEST is a table with a heading (TSV or CSV) and the columns `file` and `text`, and `language` where it is
    known; or JSON lines with these fields. Files are relative to its folder.

    Given are the word error rate (the character error rate in Chinese, Cantonese, Japanese, Korean, Thai, Lao, Khmer
    and Burmese) of each language, its 95 % confidence interval (bootstrap over the recordings), and the real-time
    factor: the time it took over the length of the audio.

    Before comparing, both texts lose case, punctuation, symbols and the difference of full and half width, and in
    Chinese that of simplified and traditional characters (with the extra `text`); by characters, spaces too. Numbers,
    abbreviations and spelling are compared as written: write them in the manifest as you want them.
    """
    from tingdao import app, evaluation, observe
    from tingdao import manifest as manifests
    from tingdao.settings import LogSettings

    settings = read_settings(model=model, qwen=given(device=device, dtype=dtype))
    observe.configure_logging(LogSettings(level="error"))
    measured, stopped = Measurement(), False
    try:
        _writable(json_file, html_file)
        listed = manifests.read(manifest)
        entries = listed.entries[:limit]
        measured.failed |= listed.broken
        there = [entry for entry in entries if entry.file.is_file()]
        measured.failed |= {entry.name: "there is no such file" for entry in entries if not entry.file.is_file()}
        if not there:
            raise SetupError(
                f"None of the files that {manifest} names is there, such as {entries[0].file}. "
                "They are looked for from the manifest's folder on."
            )
        asyncio.run(_measure(app.build(settings), there, language, concurrency, measured))
    except (SetupError, BadRequest) as error:
        stop(error)
    except KeyboardInterrupt:
        stopped = True
        click.echo(f"Stopped after {len(measured.results)} recordings.", err=True)
    rates = evaluation.rates(measured.results)
    facts = _facts(measured, told=language is not None)
    click.echo("\n".join([*facts, "", *_table(rates)]) if rates else "No recording could be measured.")
    if json_file:
        json_file.write_text(_as_json(manifest, measured, rates), encoding="utf-8")
    if html_file:
        from tingdao.evaluation_page import page

        html_file.write_text(
            page(f"Evaluation of {manifest.name}", facts, rates, measured.results, measured.failed), encoding="utf-8"
        )
        click.echo(f"\nWhat was wrong in each recording: {html_file}")
    _tell_failed(measured.failed)
    sys.exit(130 if stopped else 1 if measured.failed else 0)


def _writable(*files: Path | None) -> None:
    """Raise SetupError now for a file that could not be written after hours of work."""
    for file in files:
        if file is not None:
            try:
                file.touch()
            except OSError as error:
                raise SetupError(f"{file} cannot be written ({error.strerror}).") from None


async def _measure(
    service: Service, entries: Sequence[Entry], language: str | None, concurrency: int, measured: Measurement
) -> None:
    """Transcribe the recordings, so many at once, into `measured`. Raises SetupError, UnknownLanguage."""
    from tqdm import tqdm

    from tingdao import languages

    await service.start()
    try:
        try:
            engine = await service.registry.engine()
        except TingdaoError as error:
            raise SetupError(service.registry.state().reason or error.message) from error
        languages.parse(language, engine.card.languages)
        began = time.perf_counter()
        rest = iter(entries)
        with tqdm(total=len(entries), unit="recording", disable=None, leave=False) as bar:

            async def work() -> None:
                for entry in rest:
                    await _recording(service, entry, language, measured)
                    measured.seconds = time.perf_counter() - began
                    _show(bar, measured)

            async with asyncio.TaskGroup() as group:
                for _ in range(min(concurrency, len(entries))):
                    group.create_task(work())
    finally:
        await service.close()


async def _recording(service: Service, entry: Entry, language: str | None, measured: Measurement) -> None:
    from tingdao import evaluation, languages
    from tingdao.types import Options

    began = time.perf_counter()
    try:
        with entry.file.open("rb") as source:
            transcript = await service.transcribe(source, None, Options(language=language))
    except (TingdaoError, OSError) as error:
        measured.failed[entry.name] = str(error.strerror) if isinstance(error, OSError) else error.message
        return
    measured.models.add(transcript.model)
    measured.results.append(
        await asyncio.to_thread(
            evaluation.result,
            entry.name,
            entry.text,
            transcript.text,
            language=entry.language or languages.code_of(language),
            detected=transcript.language,
            duration=transcript.duration,
            seconds=time.perf_counter() - began,
        )
    )


def _show(bar: tqdm[Any], measured: Measurement) -> None:
    speed = measured.audio / max(measured.seconds, 1e-3)
    bar.set_postfix_str(f"{speed:.1f} × real time, {len(measured.failed)} failed", refresh=False)
    bar.update()


def _facts(measured: Measurement, *, told: bool) -> list[str]:
    """How it was measured, in words. told: whether the language was told to the model."""
    from tingdao import evaluation

    results = measured.results
    speed = f"real-time factor {measured.seconds / measured.audio:.3f}" if measured.audio else "no audio"
    facts = [
        f"{', '.join(sorted(measured.models)) or 'no model'}: {len(results)} recordings, "
        f"{measured.audio / 60:.1f} minutes, {speed}; {len(measured.failed)} not counted."
    ]
    known = [result for result in results if result.language != evaluation.UNKNOWN]
    if known and not told:
        right = sum(result.detected == result.language for result in known)
        facts.append(f"The language was detected right in {right} of {len(known)}.")
    facts.append(
        "Compared without case, punctuation, symbols and width"
        + ("; Chinese in simplified characters." if evaluation.folds_scripts() else "; Chinese as written (no OpenCC).")
    )
    return facts


def _table(rates: Sequence[Rate]) -> list[str]:
    """The rates in lines of equal columns."""
    from tingdao.evaluation_page import HEADING, cells

    return columns([HEADING, *(cells(rate) for rate in rates)], left=1)


def _as_json(manifest: Path, measured: Measurement, rates: Sequence[Rate]) -> str:
    """All of it; the worst recording first, and what was wrong in it as [said, heard] where null is nothing."""
    from tingdao import evaluation

    recordings = [
        {
            **{name: value for name, value in asdict(result).items() if name != "steps"},
            "units": result.units,
            "wrong": result.wrong,
            "rate": result.rate,
            "mistakes": [step for step in result.steps if step[0] != step[1]],
        }
        for result in evaluation.worst_first(measured.results)
    ]
    report = {
        "manifest": str(manifest),
        "models": sorted(measured.models),
        "audio_seconds": measured.audio,
        "seconds": measured.seconds,
        "real_time_factor": measured.seconds / measured.audio if measured.audio else None,
        "chinese_folded": evaluation.folds_scripts(),
        "rates": [{"measure": rate.measure, **asdict(rate)} for rate in rates],
        "recordings": recordings,
        "failed": measured.failed,
    }
    return json.dumps(report, ensure_ascii=False, indent=1)


def _tell_failed(failed: dict[str, str]) -> None:
    if not failed:
        return
    click.echo(f"\nNot counted: {len(failed)}", err=True)
    for name, reason in list(failed.items())[:SHOWN]:
        click.echo(f"  {name}: {reason}", err=True)
    if len(failed) > SHOWN:
        click.echo(f"  … and {len(failed) - SHOWN} more; --json and --html name them all.", err=True)
