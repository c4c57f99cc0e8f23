"""`tingdao download` and `tingdao convert`: the weights of models."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from tingdao.commands.setup import read_settings, stop
from tingdao.errors import SetupError

if TYPE_CHECKING:
    from tingdao.engines.hubs import HubName
    from tingdao.engines.openvino.weights import Precision
    from tingdao.engines.qwen.weights import Checkpoint

DOWNLOADS = ("0.6b", "1.7b", "aligner", "whisper-base")


@click.command()
@click.argument("name", type=click.Choice(DOWNLOADS))
@click.option("--from", "hub", type=click.Choice(("hf", "modelscope")), default="hf", show_default=True)
@click.option("--revision", help="Branch, tag or commit to fetch.  [default: the hub's main one]")
@click.option("--to", type=click.Path(path_type=Path, file_okay=False), help="Folder to write into.")
@click.option("--for", "machine", type=click.Choice(("cpu",)), help="cpu: convert 0.6b or 1.7b to 8 bits as well, so "
              "that serving without a GPU begins at once.")  # fmt: skip
def download(name: str, hub: HubName, revision: str | None, to: Path | None, machine: str | None) -> None:
    """Fetch a model from Hugging Face or ModelScope, with progress, and verify it.

    What is there already is kept, and a download that broke goes on where it stopped.

    With --for cpu the weights are fetched as published, since no hub has them in the form that is used here, and
    converted. The original weights stay in the models folder; --to is then for what was converted, which is all that
    another machine needs.
    """
    from tingdao.engines import weights
    from tingdao.engines.qwen import runtime as qwen_runtime

    settings = read_settings()
    release = weights.RELEASES[name]
    if machine and name not in weights.QWEN:
        stop(SetupError(f"{name} needs no conversion: leave --for {machine} out."))
    fetched = settings.models_dir / release.name if machine or to is None else to
    try:
        folder = weights.download(release, fetched, hub=hub, revision=revision)
        click.echo(f"{release.name} is in {folder}, and every file is the one that was announced.")
        if machine:
            _converted(folder, "int8", to)
    except SetupError as error:
        stop(error)
    if to is not None:
        click.echo("Give this folder wherever a model name is taken, such as `tingdao serve --model FOLDER`.")
    if machine and not qwen_runtime.installed("openvino"):
        click.echo(f"To serve it, also run: {qwen_runtime.INSTALL['openvino']}")


@click.command()
@click.argument("folder", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.option("--int8", "precision", flag_value="int8", default="int8", help="8 bits: hardly less exact.  [default]")
@click.option("--int4", "precision", flag_value="int4", help="4 bits: smaller, and often wrong.")
@click.option("--to", type=click.Path(path_type=Path, file_okay=False), help="Folder to write into.")
def convert(folder: Path, precision: Precision, to: Path | None) -> None:
    """Convert the weights of Qwen3-ASR in FOLDER for machines without a GPU.

    Serving does it by itself where it is needed. By hand it can be done ahead, or elsewhere: the folder it writes is
    all that is needed.
    """
    try:
        _converted(folder, precision, to)
    except SetupError as error:
        stop(error)
    if to is not None:
        click.echo("Give this folder wherever a model name is taken, such as `tingdao serve --model FOLDER`.")


def _converted(folder: Path, precision: Precision, to: Path | None) -> None:
    """Have a folder converted, and say where. to: folder to write into, by default where serving looks for it."""
    from tqdm import tqdm

    from tingdao.engines.openvino import weights as openvino_weights
    from tingdao.engines.qwen.weights import open_checkpoint

    target = to or read_settings().models_dir / openvino_weights.converted_name(folder, precision)
    checkpoint = open_checkpoint(folder)
    if _is_there(target, checkpoint, precision):
        click.echo(f"It was converted to {precision} before, and is in {target}.")
        return
    if target.is_dir() and any(target.iterdir()) and not openvino_weights.is_converted(target):
        raise SetupError(f"{target} holds something else, which would be replaced. Name a new folder after --to.")
    with tqdm(desc=precision, unit="B", unit_scale=True, total=checkpoint.size, disable=None, leave=False) as bar:
        openvino_weights.convert(checkpoint, target, precision, lambda done, _: bar.update(done - bar.n))
    click.echo(f"{folder} is in {target}, converted to {precision}.")
    if precision == "int4":
        click.echo(
            "4 bits change what is recognised. Before you trust them, measure both on your own recordings: "
            f"`tingdao eval MANIFEST --model {target}`, and the same with 8 bits.",
            err=True,
        )


def _is_there(folder: Path, checkpoint: Checkpoint, precision: Precision) -> bool:
    """Whether a folder holds these weights whole, in this precision."""
    from tingdao.engines.openvino.weights import converted_from, open_converted

    try:
        return converted_from(folder, checkpoint) and open_converted(folder).precision == precision
    except SetupError:
        return False
