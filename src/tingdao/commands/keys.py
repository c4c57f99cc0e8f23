"""`tingdao keys`: make, list and revoke the keys of callers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING

import click

from tingdao.columns import columns
from tingdao.commands.setup import read_settings, stop
from tingdao.errors import SetupError

if TYPE_CHECKING:
    from tingdao.keys import KeyStore
    from tingdao.usage import Ledger


@click.group()
def keys() -> None:
    """Make, list and revoke the keys of callers."""


@keys.command("add")
@click.argument("name")
@click.option("--quota", help="Audio per day (UTC), such as 10h/day.")
@click.option("--rate", help="Requests per time, such as 60/minute.")
@click.option("--audio-rate", help="Audio per time, such as 30m/minute, after which it has to wait.")
@click.option("--models", help="Models it may use, such as qwen3-asr-0.6b,whisper-base.  [default: all]")
@click.option("--expires", help="When it ends: 12h, 30d, or a day such as 2027-01-01, at 0:00 UTC.  [default: never]")
@click.option("--admin", is_flag=True, help="May operate the service: metrics, /admin.")
def add_key(
    name: str,
    quota: str | None,
    rate: str | None,
    audio_rate: str | None,
    models: str | None,
    expires: str | None,
    admin: bool,  # noqa: FBT001  click gives flags like this
) -> None:
    """Make a key called NAME and print it, the only time.

    What is left out is as the settings say for all keys ([limits]). A running service knows the key within a second.
    """
    from tingdao.keys import parse_expiry
    from tingdao.rates import Rate

    with _key_store() as (store, _):
        try:
            key = store.add(
                name,
                quota=Rate.quota(quota) if quota else None,
                rate=Rate.requests(rate) if rate else None,
                audio_rate=Rate.audio(audio_rate) if audio_rate else None,
                models=_model_names(models) if models else None,
                expires=parse_expiry(expires) if expires else None,
                admin=admin,
            )
        except ValueError as error:
            stop(error)
    click.echo(key)
    click.echo(
        f"This is the key {name!r}. Keep it: it is not shown again. Send it as 'Authorization: Bearer {key[:6]}…'.",
        err=True,
    )


@keys.command("list")
def list_keys() -> None:
    """List all keys with their limits and their use today; never the keys themselves."""
    from tingdao.keys import KEY_COLUMNS, describe
    from tingdao.rates import duration

    with _key_store() as (store, ledger):
        rows: list[tuple[str, ...]] = [(*KEY_COLUMNS, "requests today", "audio today")]
        for key in store.all():
            use = ledger.used(key.name)
            rows.append((*describe(key), str(use.requests), duration(round(use.seconds, 1))))
    if len(rows) == 1:
        click.echo("There are no keys. Make one with `tingdao keys add NAME`.")
        return
    click.echo("\n".join(columns(rows, left=len(rows[0]))))


@keys.command("revoke")
@click.argument("name")
def revoke_key(name: str) -> None:
    """End the key called NAME, within a second and for good."""
    with _key_store() as (store, _):
        store.revoke(name)
    click.echo(f"The key {name!r} is revoked.")


@contextmanager
def _key_store() -> Iterator[tuple[KeyStore, Ledger]]:
    """The keys and their use in the database that the settings name. What the operator must mend ends the program."""
    from sqlalchemy.exc import SQLAlchemyError

    from tingdao import app
    from tingdao.keys import KeyStore
    from tingdao.usage import Ledger

    settings = read_settings()
    try:
        with closing(app.database(settings)) as database:
            yield KeyStore(database), Ledger(database)
    except SetupError as error:
        stop(error)
    except SQLAlchemyError as error:
        stop(SetupError(f"The database of the keys failed: {str(error).partition(chr(10))[0]}"))


def _model_names(text: str) -> frozenset[str]:
    """Real names of models; says which are none of this machine's now, since a typo would shut the key out."""
    from tingdao import models
    from tingdao.engines import weights

    given = {name.strip() for name in text.split(",") if name.strip()}
    names = frozenset(weights.QWEN[name].name if name in weights.QWEN else name for name in given)
    known = {offer.name for offer in models.offers(read_settings())}
    for name in sorted(names - known):
        click.echo(f"Note: there is no model {name!r} here now. Models: {', '.join(sorted(known))}.", err=True)
    return names
