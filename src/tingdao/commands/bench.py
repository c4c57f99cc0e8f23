"""`tingdao bench`: measure a running service."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import click

from tingdao.commands.setup import stop
from tingdao.errors import SetupError


class Concurrencies(click.ParamType[tuple[int, ...]]):
    """Numbers with commas between."""

    name = "numbers"

    def convert(
        self, value: str | tuple[int, ...], param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[int, ...]:
        """The numbers, each once and the smallest first."""
        if isinstance(value, tuple):
            return value
        try:
            numbers = sorted({int(part) for part in value.split(",")})
        except ValueError:
            numbers = [0]
        if numbers[0] < 1 or numbers[-1] > 1000:
            self.fail(f"{value!r} is not a list of numbers from 1 to 1000, such as 1,2,4,8,16", param, ctx)
        return tuple(numbers)


@click.command()
@click.argument("url")
@click.option("--key", envvar="TINGDAO_KEY", help="A key, where the service has keys; or set TINGDAO_KEY. An admin's "
              "key also shows the memory of the service.")  # fmt: skip
@click.option("--concurrency", "concurrencies", type=Concurrencies(), default="1,2,4,8,16", show_default=True,
              help="How many requests at once, one after the other.")  # fmt: skip
@click.option("--recording", "-r", "files", multiple=True, type=click.Path(path_type=Path, exists=True, dir_okay=False),
              help="A recording to send, better than the ten seconds that come along; may be repeated.")  # fmt: skip
@click.option("--seconds", type=click.FloatRange(0.1, 3600), default=20.0, show_default=True,
              help="How long each is measured.")  # fmt: skip
@click.option("--model", default="default", show_default=True, help="Model that is asked for.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
def bench(
    url: str,
    key: str | None,
    concurrencies: tuple[int, ...],
    files: tuple[Path, ...],
    seconds: float,
    model: str,
    as_json: bool,  # noqa: FBT001  click gives flags like this
) -> None:
    """Measure the service at URL under growing load, and say how much of it is good."""
    from tqdm import tqdm

    from tingdao import bench as measuring

    recordings = [(file.name, file.read_bytes()) for file in files] or [measuring.default_recording()]
    total = len(concurrencies) * seconds
    with tqdm(
        total=total,
        unit="s",
        disable=None,
        leave=False,
        bar_format="{desc}: {percentage:3.0f}%|{bar}| {remaining} left",
    ) as bar:
        over = {"": 0.0}

        def progress(what: str, done: float) -> None:
            over[what] = done
            bar.set_description_str(what, refresh=False)
            bar.update(min(sum(over.values()), total) - bar.n)
            bar.refresh()

        run = measuring.Bench(url.rstrip("/"), key, model, seconds, progress)
        try:
            levels = asyncio.run(run.run(recordings, concurrencies))
        except SetupError as error:
            bar.close()
            stop(error)
        except KeyboardInterrupt:
            bar.close()
            click.echo("Stopped.", err=True)
            sys.exit(130)
    if as_json:
        click.echo(measuring.as_json(url, [name for name, _ in recordings], levels))
        return
    click.echo(measuring.table(levels))
    if not run.shows_memory:
        click.echo("The service shows its memory to an admin's key only (or with server.open_metrics).")
    click.echo(f"\n{measuring.advice(levels)}\n\n{measuring.overhead(levels)}")
