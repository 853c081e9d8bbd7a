"""`safemargin keys`: make, list and revoke API keys."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Annotated, cast

import typer
from pydantic import ValidationError
from rich.console import Console
from rich.table import Column, Table

from app.artifacts import Artifacts, StoreUnreachable
from app.auth.keys import KeyMissing, Keys, Scope
from app.settings import settings

app = typer.Typer(no_args_is_help=True, help=__doc__)


@app.command()
def create(
    name: Annotated[str, typer.Option(help="What the key is for.")],
    owner: Annotated[str, typer.Option(help="The team that it belongs to; several keys may share one.")],
    scopes: Annotated[
        list[str],
        typer.Option(
            "--scope", help="What it may do, once or more: annotate, train, or admin for everything, of every owner."
        ),
    ],
    tokens_per_minute: Annotated[
        int | None, typer.Option(help="Its quota in estimated tokens; unlimited where left out.")
    ] = None,
) -> None:
    """Make a key and print it: once, because only a digest of it is kept."""
    try:
        with _keys() as keys:
            key, text = keys.create(name, owner, cast(list[Scope], scopes), tokens_per_minute)
    except ValidationError as error:
        first = error.errors()[0]
        raise typer.BadParameter(f"{'.'.join(map(str, first['loc']))}: {first['msg']}") from error
    typer.echo(f"safemargin: key {key.id}, which nothing can show again:", err=True)
    typer.echo(text)


@app.command("list")
def list_keys() -> None:
    """Every key there is or was, by owner; never its secret."""
    table = Table(
        Column("id", no_wrap=True, min_width=16), "name", "owner", "scopes", "tokens/min", "created", "revoked"
    )
    with _keys() as keys:
        found = [key for key_id in keys.ids() if (key := keys.get(key_id)) is not None]
    for key in sorted(found, key=lambda key: (key.owner, key.created_at)):
        quota = "unlimited" if key.tokens_per_minute is None else f"{key.tokens_per_minute:,}"
        scopes = ", ".join(key.scopes)
        table.add_row(key.id, key.name, key.owner, scopes, quota, _when(key.created_at), _when(key.revoked_at))
    Console().print(table)


@app.command()
def revoke(key_id: Annotated[str, typer.Argument(metavar="ID", help="The key's id, as `list` shows it.")]) -> None:
    """Let a key open nothing any more; a running service knows within five seconds."""
    try:
        with _keys() as keys:
            key = keys.revoke(key_id)
    except KeyMissing as error:
        typer.echo(f"safemargin: {error}", err=True)
        raise typer.Exit(1) from error
    typer.echo(f"{key.id} ({key.name} of {key.owner}): revoked {_when(key.revoked_at)}")


@contextmanager
def _keys() -> Iterator[Keys]:
    try:
        yield Keys(Artifacts(settings().artifacts_url))
    except StoreUnreachable as error:
        typer.echo(f"safemargin: {error}", err=True)
        raise typer.Exit(1) from error


def _when(seconds: float | None) -> str:
    return "" if seconds is None else f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M} UTC"
