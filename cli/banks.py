"""`safemargin rules bank`: list, show and delete banks of rule probes; `safemargin rules distil` makes them."""

from collections.abc import Iterable
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Column, Table

from app.rulebanks import BankMissing
from app.schemas.evaluation import PolicyFigure
from app.schemas.rulebanks import BankCard, PolicyReading
from cli import loading
from cli.saying import failure

app = typer.Typer(no_args_is_help=True, help=__doc__)

Name = Annotated[str, typer.Argument(help="Id of a bank.")]


@app.command("list")
def list_banks() -> None:
    """What is in the artifact store."""
    names = ("id", "pool", "model", "rules used", "mean AUC", "calibrated")
    table = Table(*(Column(name, overflow="fold") for name in names))
    for card in loading.rule_banks().cards():
        used = f"{card.used} of {len(card.rules)}"
        table.add_row(card.id, card.pool, card.model, used, _mean_area(card), policies(card.readings) or "–")
    Console().print(table)


@app.command()
def show(name: Name) -> None:
    """The card of a bank, as JSON."""
    try:
        typer.echo(loading.rule_banks().card(name).model_dump_json(indent=2))
    except BankMissing as error:
        raise failure(str(error)) from error


@app.command()
def delete(name: Name) -> None:
    """Delete a bank from the artifact store."""
    try:
        loading.rule_banks().delete(name)
    except BankMissing as error:
        raise failure(str(error)) from error


def _mean_area(card: BankCard) -> str:
    areas = [rule.keeps.value for rule in card.rules if rule.keeps is not None]
    return f"{sum(areas) / len(areas):.3f}" if areas else "–"


def policies(read: Iterable[PolicyReading | PolicyFigure]) -> str:
    """Which policies were read with how many critical rules, such as `all, relevance/robust k 1,3,5`."""
    by_policy: dict[str, set[int]] = {}
    for reading in read:
        by_policy.setdefault(reading.policy, set()).add(reading.k)
    by_ks: dict[str, list[str]] = {}
    for policy, ks in by_policy.items():
        by_ks.setdefault("" if policy == "all" else f" k {','.join(map(str, sorted(ks)))}", []).append(policy)
    return ", ".join(f"{'/'.join(names)}{ks}" for ks, names in by_ks.items())
