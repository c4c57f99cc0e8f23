"""The command line: serve · transcribe · download · convert · check · eval · bench · keys · servers · reload.

Everything heavy is imported inside the command that needs it, so that `tingdao --help` answers at once.
Exit codes: 0 all done, 1 some recordings failed, 2 wrong usage or set-up.
"""

from __future__ import annotations

import asyncio
import shutil
import sys
import tempfile
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, cast

import click

import tingdao
from tingdao.commands.bench import bench
from tingdao.commands.evaluate import evaluate
from tingdao.commands.keys import keys
from tingdao.commands.models import convert, download
from tingdao.commands.servers import servers
from tingdao.commands.setup import given, model_options, read_settings, service_options, service_url, stop
from tingdao.errors import BadRequest, SetupError, TingdaoError

if TYPE_CHECKING:
    from tingdao.pipeline.service import Service
    from tingdao.types import Options, Script, Transcript

FORMATS = ("txt", "srt", "vtt", "json", "tsv")


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(tingdao.__version__, prog_name="tingdao")
def main() -> None:
    """Tingdao (听到): a recording in, the right transcript out."""


for command in (bench, convert, download, evaluate, keys, servers):
    main.add_command(command)


@main.command()
@click.option("--host", help="Address to listen on.  [default: 127.0.0.1]")
@click.option("--port", type=click.IntRange(0, 65535), help="Port to listen on; 0 picks a free one.  [default: 8000]")
@click.option("--engine", type=click.Choice(("vllm",)), help="vllm: serve MODEL with `vllm serve`, which is started, "
              "watched and ended.  [default: what there is]")  # fmt: skip
@click.option("--devices", help="With --engine vllm: GPUs, such as 0,1; a server on each.  [default: as vLLM does]")
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED, metavar="[-- ARGUMENTS OF VLLM…]")
@model_options
def serve(
    host: str | None,
    port: int | None,
    engine: str | None,
    devices: str | None,
    arguments: tuple[str, ...],
    model: str | None,
    device: str | None,
    dtype: str | None,
) -> None:
    """Serve the API and the page.

    With --engine vllm, MODEL may also be the id of a repository on a hub, and what follows `--` is passed on to `vllm
    serve`: tingdao serve --engine vllm --model 1.7b -- --gpu-memory-utilization 0.8
    """
    from tingdao import server
    from tingdao.settings import load

    flags = given(model=model, server=given(host=host, port=port), qwen=given(device=device, dtype=dtype))
    if engine:
        if device or dtype:
            raise click.UsageError("With --engine vllm, choose GPUs with --devices, and give --dtype after `--`.")
        vllm = given(serve=model, arguments=arguments or None, devices=devices.split(",") if devices else None)
        flags |= given(model="auto", vllm=vllm)
    elif arguments or devices:
        raise click.UsageError("--devices, and arguments after `--`, are for --engine vllm.")
    try:
        settings = load(**flags)
        if engine and not (settings.vllm.serve or settings.vllm.upstreams):
            raise SetupError("Say which model vLLM is to serve, such as --model 1.7b.")
        server.serve(settings, partial(load, **flags))
    except SetupError as error:
        stop(error)


@main.command()
@click.argument("recordings", nargs=-1, required=True, metavar="RECORDING…")
@click.option("--format", "-f", "format_", type=click.Choice(FORMATS), default="txt", show_default=True)
@click.option("--output", "-o", type=click.Path(path_type=Path, file_okay=False), help="Folder to write into.")
@click.option("--language", "-l", help="ISO code of the language spoken, such as zh; else it is detected.")
@click.option("--prompt", default="", help="Text that helps the model: names, terms, topic.")
@click.option("--keyword", "-k", "keywords", multiple=True, help="A word or phrase that is expected; may be repeated.")
@click.option("--vocabulary", "vocabularies", multiple=True, help="A word list of the settings; may be repeated.")
@click.option("--numbers/--no-numbers", default=None, help="Write spoken numbers, dates and the like in figures.")
@click.option("--script", type=click.Choice(("simplified", "traditional")), help="Characters for Chinese.")
@model_options
def transcribe(
    recordings: tuple[str, ...],
    format_: str,
    output: Path | None,
    language: str | None,
    prompt: str,
    keywords: tuple[str, ...],
    vocabularies: tuple[str, ...],
    numbers: bool | None,  # noqa: FBT001  click gives flags by name
    script: Script | None,
    model: str | None,
    device: str | None,
    dtype: str | None,
) -> None:
    """Transcribe recordings: files, http and https URLs, and `-` for standard input.

    One recording is printed; with -o each is written to the folder under its own name.
    """
    from tingdao import app, observe
    from tingdao.pipeline.subtitles import WRITERS
    from tingdao.settings import LogSettings
    from tingdao.text import terms
    from tingdao.types import Options

    settings = read_settings(model=model, qwen=given(device=device, dtype=dtype))
    observe.configure_logging(LogSettings(level="error"))
    writer = WRITERS[format_]
    try:
        options = Options(
            language=language,
            context=prompt,
            subtitles=format_ in {"srt", "vtt"},
            terms=terms.from_keywords(keywords, "--keyword"),
            vocabularies=vocabularies,
            numbers=numbers,
            script=script,
        )
        service = app.build(settings)
        if output is not None:
            output.mkdir(parents=True, exist_ok=True)
        failed = asyncio.run(_transcribe_all(service, recordings, options, writer, format_, output))
    except (SetupError, BadRequest) as error:
        stop(error)
    except KeyboardInterrupt:
        click.echo("Stopped.", err=True)
        sys.exit(130)
    sys.exit(1 if failed else 0)


async def _transcribe_all(
    service: Service,
    recordings: tuple[str, ...],
    options: Options,
    writer: Callable[[Transcript], str],
    format_: str,
    output: Path | None,
) -> int:
    """Transcribe one recording after the other; how many failed."""
    failed = 0
    await service.start()
    try:
        for name in recordings:
            try:
                async with _opened(name, service) as source:
                    transcript = await _with_progress(service, source, name, options)
            except TingdaoError as error:
                reason = service.registry.state().reason
                click.echo(f"{name}: {reason or error.message}", err=True)
                failed += 1
                continue
            except OSError as error:
                click.echo(f"{name}: {error.strerror}", err=True)
                failed += 1
                continue
            text = writer(transcript)
            if output is None:
                if len(recordings) > 1:
                    click.echo(f"# {name}")
                click.echo(text, nl=not text.endswith("\n"))
            else:
                stem = "stdin" if name == "-" else Path(name.partition("?")[0]).stem
                target = output / f"{stem}.{format_}"
                target.write_text(text, encoding="utf-8")
                click.echo(f"{name} → {target}", err=True)
    finally:
        await service.close()
    return failed


@asynccontextmanager
async def _opened(name: str, service: Service) -> AsyncIterator[BinaryIO]:
    """A recording as an open file with a descriptor: a URL's is fetched first."""
    if name.startswith(("http://", "https://")):
        from tqdm import tqdm

        with tqdm(desc=name[-30:], unit="B", unit_scale=True, disable=None, leave=False) as bar:

            def told(received: int, total: int | None) -> None:
                bar.total = total
                bar.update(received - bar.n)

            async with service.fetcher.recording(name, told) as fetched:
                bar.close()
                yield fetched
    else:
        with _standard_input() if name == "-" else _file(name) as file:
            yield file


def _standard_input() -> BinaryIO:
    """Standard input, copied: decoders seek."""
    copy = tempfile.TemporaryFile()  # noqa: SIM115  the caller closes it
    shutil.copyfileobj(sys.stdin.buffer, copy)
    copy.seek(0)
    return cast("BinaryIO", copy)


def _file(name: str) -> BinaryIO:
    return Path(name).open("rb")


async def _with_progress(service: Service, source: BinaryIO, name: str, options: Options) -> Transcript:
    """Transcribe one recording with a bar in seconds of audio."""
    from tqdm import tqdm

    from tingdao.types import Progress, Transcript

    with tqdm(
        desc=Path(name).name[:30],
        unit="s",
        bar_format="{desc}: {percentage:3.0f}%|{bar}| {n:.0f}/{total:.0f} s of audio [{postfix}, {remaining} left]",
        postfix="loading",
        total=1,
        disable=None,
        leave=False,
    ) as bar:
        # tqdm's own way to show the speed: as a multiple of real time.
        async with aclosing(service.run(source, None, options)) as events:
            async for event in events:
                if isinstance(event, Transcript):
                    return event
                if isinstance(event, Progress):
                    bar.total = max(event.total, event.done, 1)
                    bar.set_postfix_str(
                        f"{event.done / max(bar.format_dict['elapsed'], 1e-3):.1f} × real time", refresh=False
                    )
                    bar.update(event.done - bar.n)
                    bar.refresh()
    raise AssertionError("the pipeline ended without a transcript")


@main.command()
@click.argument("model", required=False)
@service_options
def reload(model: str | None, url: str | None, key: str | None) -> None:
    """Have a running service load MODEL anew while it serves, by default its default model.

    Its folder may have been replaced since. If the new weights cannot be loaded, the old ones go on serving.
    """
    from tingdao import remote

    url = service_url(url)
    click.echo(f"{url} loads {model or 'the default model'} anew …", err=True)

    def waiting(seconds: float) -> None:
        if sys.stderr.isatty():
            click.echo(f"\r{seconds:.0f} s", nl=False, err=True)

    try:
        done = asyncio.run(remote.ask(url, "/admin/reload-model", {"model": model}, key, waiting))
    except SetupError as error:
        stop(error)
    except KeyboardInterrupt:
        click.echo("\nThe service goes on with it.", err=True)
        sys.exit(130)
    if sys.stderr.isatty():
        click.echo("\r", nl=False, err=True)
    click.echo(f"{done['model']} was loaded anew in {done['seconds']:g} s and serves.")


@main.command()
@click.argument("folder", required=False, type=click.Path(path_type=Path, exists=True, file_okay=False))
def check(folder: Path | None) -> None:
    """Say what was found, which model would serve, and what to do next; or check one model FOLDER."""
    from tingdao import checkup

    findings = checkup.examine_folder(folder) if folder else checkup.examine(read_settings())
    for finding in findings:
        click.echo(f"{'✓' if finding.good else '✗'} {finding.what}")
        if finding.advice:
            click.echo(f"    → {finding.advice}")
    sys.exit(2 if any(finding.fatal for finding in findings) else 0)


if __name__ == "__main__":
    main()
