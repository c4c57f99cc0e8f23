"""`tingdao servers`: the servers that a running service's models are on, and changes to them."""

from __future__ import annotations

import asyncio
from typing import Any

import click

from tingdao.columns import columns
from tingdao.commands.setup import service_options, service_url, stop
from tingdao.errors import SetupError

HEADER = ("server", "state", "version", "model", "calls", "audio at work", "pace", "answered", "failed", "moved")


@click.command()
@click.argument("change", required=False, type=click.Choice(("add", "drain", "resume", "remove")))
@click.argument("server", required=False)
@click.option("--model", help="Model name.  [default: the default model]")
@service_options
def servers(change: str | None, server: str | None, model: str | None, url: str | None, key: str | None) -> None:
    """Show the vLLM servers of a running service, or add, drain, resume or remove SERVER.

    SERVER is a URL, for all servers behind it, or one as it is shown. A drained server gets no new calls; what it works
    on it may finish. Changes hold until the settings name other servers or the service is restarted.
    """
    from tingdao import remote

    if change and not server:
        raise click.UsageError(f"Which server? tingdao servers {change} http://gpu1:8000")
    path = f"/admin/{change}-server" if change else "/admin/status"
    body = {"model": model, "server": server} if change else None
    try:
        answer = asyncio.run(remote.ask(service_url(url), path, body, key, lambda _: None))
    except SetupError as error:
        stop(error)
    if change:
        click.echo(f"{server} is {answer['status']}.")
        _show(answer["model"], answer["reason"], answer["servers"])
        return
    models = [each for each in answer["models"] if each["servers"] and model in {None, each["name"]}]
    if not models:
        click.echo("No model there runs on vLLM servers, or none of them is loaded.")
    for each in models:
        _show(each["name"], each["reason"], each["servers"])


def _show(model: str, reason: str | None, shown: list[dict[str, Any]]) -> None:
    """The servers of a model as a table, with the reasons of those that are not up below them."""
    click.echo(f"{model} {'cannot answer now' if reason else 'can answer'}.")
    if not shown:
        click.echo("It has no servers.")
        return
    head, *lines = columns([HEADER, *(_row(each) for each in shown)], left=4)
    click.echo(head)
    for line, each in zip(lines, shown, strict=True):
        click.echo(line)
        if each["reason"]:
            click.echo(f"    → {each['reason']}")


def _row(each: dict[str, Any]) -> tuple[str, ...]:
    return (
        each["server"],
        each["state"],
        each["version"] or "",
        each["model"] or "",
        str(each["calls"]),
        f"{each['outstanding_s']:.0f} s",
        "" if each["pace"] is None else f"{each['pace']:.3f}",
        f"{each['audio_s']:.0f} s",
        str(each["failed"]),
        str(each["moved"]),
    )
