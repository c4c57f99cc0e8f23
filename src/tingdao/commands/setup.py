"""What every command begins with: settings, with the flags that were given; and how it ends when it cannot begin."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, NoReturn

import click

from tingdao.errors import SetupError

if TYPE_CHECKING:
    from tingdao.settings import Settings


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
