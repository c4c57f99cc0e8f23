"""What every command begins with: settings, with the flags that were given; and how it ends when it cannot begin."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

import click

from tingdao.errors import SetupError

if TYPE_CHECKING:
    from tingdao.settings import Settings

CommandT = TypeVar("CommandT", bound=Callable[..., Any])


def model_options(command: CommandT) -> CommandT:
    """Which model, and what it runs on."""
    for option in (
        click.option("--dtype", help="Numbers of Qwen3-ASR: auto, int8, int4, bfloat16, float16 or float32."),
        click.option("--device", help="What Qwen3-ASR runs on: auto, cpu, cuda or cuda:N."),
        click.option("--model", help="Model name, or a folder of Qwen3-ASR.  [default: auto]"),
    ):
        command = option(command)
    return command


def service_options(command: CommandT) -> CommandT:
    """Which running service, for operators; see `service_url`."""
    for option in (
        click.option(
            "--key", envvar="TINGDAO_KEY", help="An admin's key, where the service has keys; or set TINGDAO_KEY."
        ),
        click.option("--url", help="Address of the service.  [default: this machine, at the port of the settings]"),
    ):
        command = option(command)
    return command


def service_url(url: str | None) -> str:
    """Where the service is that is meant."""
    return url or f"http://127.0.0.1:{read_settings().server.port}"


def read_settings(**flags: Any) -> Settings:  # noqa: ANN401  flags of any type
    """Settings with the flags that were really given."""
    from tingdao import settings

    try:
        return settings.load(**given(**flags))
    except SetupError as error:
        stop(error)


def given(**flags: Any) -> dict[str, Any]:  # noqa: ANN401  flags of any type
    """The flags that were given, without those left out."""
    return {name: value for name, value in flags.items() if value not in (None, {})}


def stop(error: Exception) -> NoReturn:
    """Say what has to be mended, and end with the exit code for that."""
    click.echo(f"tingdao: {error}", err=True)
    sys.exit(2)
