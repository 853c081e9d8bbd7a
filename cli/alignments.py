"""`safemargin alignments`: list, show and delete taught models; `safemargin train` makes them."""

from typing import Annotated

import typer
from rich.console import Console
from rich.table import Column, Table

from app.alignments import AlignmentMissing, Alignments
from app.artifacts import Artifacts
from app.dependants import directions_of
from app.settings import settings
from cli.saying import failure

app = typer.Typer(no_args_is_help=True, help=__doc__)

Name = Annotated[str, typer.Argument(help="Id of an alignment.")]


@app.command("list")
def list_alignments() -> None:
    """What is in the artifact store."""
    table = Table(*(Column(name, overflow="fold") for name in ("id", "method", "model", "accuracy", "")))
    for card in _shelf().cards():
        accuracy = f"{card.readings[0].accuracy.value:.3f}" if card.readings else "–"
        table.add_row(card.id, card.method, card.model, accuracy, "unreliable" if card.unreliable else "")
    Console().print(table)


@app.command()
def show(name: Name) -> None:
    """The card of an alignment, as JSON."""
    try:
        typer.echo(_shelf().card(name).model_dump_json(indent=2))
    except AlignmentMissing as error:
        raise failure(str(error)) from error


@app.command()
def delete(name: Name) -> None:
    """Delete an alignment from the artifact store; its direction goes first."""
    shelf = _shelf()
    try:
        shelf.digest(name)
        if needing := directions_of(shelf.artifacts, name):
            raise failure(f"{needing} would be of no use without {name}; delete those first")
        shelf.delete(name)
    except AlignmentMissing as error:
        raise failure(str(error)) from error


def _shelf() -> Alignments:
    return Alignments(Artifacts(settings().artifacts_url))
