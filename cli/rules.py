"""`safemargin rules`: pools of safety rules, and the banks of probes that read them."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from app.artifacts import Artifacts
from app.dependants import dependants
from app.rulepools import PoolMissing, RulePools
from app.schemas.rules import RulePool, card_of
from app.settings import settings
from cli import banks
from cli.distil import distil
from cli.evaluate import evaluate
from cli.keeping import refuse_odd_id
from cli.saying import failure
from workers.rules.pool import UnusablePool, read_pool

app = typer.Typer(no_args_is_help=True, help=__doc__)
app.command("distil")(distil)
app.command("evaluate")(evaluate)
app.add_typer(banks.app, name="bank")

Name = Annotated[str, typer.Argument(help="Id of a pool.")]


@app.command()
def add(
    path: Annotated[Path, typer.Argument(metavar="FILE.yaml", help="`version: 1` and `rules`: id, category, text.")],
    pool_id: Annotated[
        str | None, typer.Option("--id", help="Name of the pool; the file's own where left out.")
    ] = None,
    replace: Annotated[bool, typer.Option("--replace", help="Replace other rules of this name.")] = False,
) -> None:
    """Check a pool and store it.

    Banks and adapters made for rules that are replaced do not fit any more; they stay, and fit again with those rules.
    """
    name = path.stem if pool_id is None else pool_id
    refuse_odd_id(name)
    try:
        pool = read_pool(path)
    except UnusablePool as error:
        raise failure(str(error)) from error
    if not replace and _pools().current().get(name, pool.digest) != pool.digest:
        raise failure(f"a pool called {name} exists; --replace replaces it")
    typer.echo(f"{name}: {_pools().add(name, pool)}")
    if unfit := dependants(_pools().artifacts, name, _pools().digests(name) - {pool.digest}):
        typer.echo(f"safemargin: made for what {name} was before, and fit for use no more: {unfit}", err=True)


@app.command("list")
def list_pools() -> None:
    """What is in the artifact store."""
    table = Table("id", "rules", "categories", "digest")
    for name in sorted(_pools().current()):
        try:
            card = card_of(name, _pools().pool(name))
        except PoolMissing as error:
            typer.echo(f"safemargin: {error}", err=True)
            continue
        table.add_row(name, str(card.rules), str(len(card.categories)), card.digest[:19])
    Console().print(table)


@app.command()
def show(name: Name) -> None:
    """A pool as JSON."""
    typer.echo(_found(name).model_dump_json(indent=2))


@app.command()
def delete(name: Name) -> None:
    """Delete a pool from the artifact store, unless banks or adapters need it."""
    if needing := dependants(_pools().artifacts, name, _pools().digests(name)):
        raise failure(f"{needing} would be of no use without {name}; delete those first")
    try:
        _pools().delete(name)
    except PoolMissing as error:
        raise failure(str(error)) from error


def _pools() -> RulePools:
    return RulePools(Artifacts(settings().artifacts_url))


def _found(name: str) -> RulePool:
    try:
        return _pools().pool(name)
    except PoolMissing as error:
        raise failure(str(error)) from error
