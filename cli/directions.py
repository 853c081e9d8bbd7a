"""`safemargin directions`: make directions."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.progress import MofNCompleteColumn, Progress, TimeRemainingColumn

from app.settings import settings

if TYPE_CHECKING:
    from workers.directions.direction import SafetyDirection
    from workers.engine.annotator import Annotator

app = typer.Typer(no_args_is_help=True, help=__doc__)


class Recipe(StrEnum):
    """How a direction is made."""

    LEGEND = "legend"
    PAIRS = "pairs"


@app.command()
def fit(
    recipe: Annotated[Recipe, typer.Option(help="legend: needs no labels; pairs: from labelled pairs.")],
    direction_id: Annotated[str, typer.Option("--id", help="Name of the new direction.")],
    data: Annotated[
        Path | None,
        typer.Option(help="pairs: JSONL with prompt, chosen, rejected. legend: CSV of harmful requests of your own."),
    ] = None,
    data_name: Annotated[
        str | None, typer.Option(help="What the report calls the data; the file name if absent.")
    ] = None,
    layers: Annotated[str | None, typer.Option(help="Candidate layers, such as 12,16,20; legend takes one.")] = None,
    paper: Annotated[bool, typer.Option("--paper", help="legend: strictly as published.")] = False,
    max_new_tokens: Annotated[
        int | None,
        typer.Option(min=1, help="legend: where the annotator's answers are cut; 256, or 1024 with --paper."),
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Use only the first rows of the data.")] = None,
    out: Annotated[Path | None, typer.Option(help="Folder for directions; workers load those below the home.")] = None,
) -> None:
    """Fit a direction and store it where workers find it at their next start."""
    from workers.directions import store
    from workers.directions.errors import DirectionError
    from workers.engine.errors import EngineError
    from workers.probe import probe

    _check_id(direction_id)
    chosen = [int(layer) for layer in layers.split(",")] if layers else None
    if recipe is Recipe.PAIRS and (paper or max_new_tokens):
        raise typer.BadParameter("--paper and --max-new-tokens belong to --recipe legend")
    if recipe is Recipe.LEGEND and chosen and (paper or len(chosen) > 1):
        raise typer.BadParameter("--recipe legend reads one layer, and with --paper always the last")
    try:
        annotator = _annotator()
        if recipe is Recipe.PAIRS:
            if data is None:
                raise typer.BadParameter("--recipe pairs needs --data")
            direction = _pairs(annotator, data, data_name or data.name, direction_id, chosen, limit)
        else:
            direction = _legend(annotator, data, direction_id, chosen, limit, paper, max_new_tokens)
        probe(annotator, {direction.id: direction})
        where = store.save(direction, out or settings().home_folder / "directions")
    except (DirectionError, EngineError) as error:
        typer.echo(f"safemargin: {error}", err=True)
        raise typer.Exit(1) from error
    _describe(direction, where)


def _pairs(
    annotator: "Annotator", data: Path, name: str, direction_id: str, layers: list[int] | None, limit: int | None
) -> "SafetyDirection":
    from workers.directions.families import read_pairs
    from workers.directions.pairs import fit_pairs

    rows = read_pairs(data)[:limit]
    with _progress("reading pairs", len(rows)) as done:
        return fit_pairs(annotator, rows, direction_id=direction_id, data=name, layers=layers, progress=done)


def _legend(
    annotator: "Annotator",
    data: Path | None,
    direction_id: str,
    layers: list[int] | None,
    limit: int | None,
    paper: bool,
    max_new_tokens: int | None,
) -> "SafetyDirection":
    from workers.directions.legend import REQUESTS, LegendSettings, fit_legend, read_requests

    requests = read_requests(data or REQUESTS)[:limit]
    how = LegendSettings(paper=paper, max_new_tokens=max_new_tokens, layer=layers[0] if layers else None)
    with _progress("answering requests", len(requests)) as done:
        return fit_legend(annotator, requests, direction_id=direction_id, settings=how, progress=done)


def _annotator() -> "Annotator":
    from workers.engine.annotator import load_annotator
    from workers.engine.process import set_up

    config = settings()
    passes = set_up(config.threads)
    return load_annotator(config.model, config.home_folder, device=config.device, dtype=config.dtype, passes=passes)


@contextmanager
def _progress(what: str, total: int) -> Iterator[Callable[[int], None]]:
    with Progress(*Progress.get_default_columns()[:2], MofNCompleteColumn(), TimeRemainingColumn()) as bar:
        task = bar.add_task(what, total=total)
        yield lambda done: bar.update(task, completed=done)


def _check_id(direction_id: str) -> None:
    from pydantic import TypeAdapter, ValidationError

    from app.schemas.annotate import DirectionId

    try:
        TypeAdapter(DirectionId).validate_python(direction_id)
    except ValidationError as error:
        raise typer.BadParameter("--id takes letters, digits, '.', '_' and '-'") from error


def _describe(direction: "SafetyDirection", where: Path) -> None:
    card = direction.card
    sites = ", ".join(f"{site.layer}/{site.pooling}" for site in card.sites)
    typer.echo(f"{card.id}: {card.recipe} on {card.model}, layer/pooling {sites}")
    for reading in card.readings:
        a = reading.accuracy
        typer.echo(f"{reading.data}: pair accuracy {a.value:.3f} [{a.low:.3f}, {a.high:.3f}], {reading.protocol}")
    typer.echo(f"stored in {where}")
