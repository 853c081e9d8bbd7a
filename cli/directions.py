"""`safemargin directions`: make, list, explain, choose, export and delete directions."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from pydantic import ValidationError
from rich.console import Console
from rich.table import Column, Table

from app.alignments import AlignmentMissing, Alignments
from app.artifacts import Artifacts
from app.registry import CONTROL_VECTOR, PAGE, REPORT, DirectionMissing, Registry
from app.schemas.annotate import DEFAULT
from app.schemas.directions import Accuracy, DirectionCard
from app.settings import settings
from cli.keeping import keep
from cli.saying import failure, progress_of
from cli.sources import source

if TYPE_CHECKING:
    from app.schemas.fit import FitRequest
    from workers.directions.fit import Fitted

app = typer.Typer(no_args_is_help=True, help=__doc__)

Name = Annotated[str, typer.Argument(help="Id of a direction.")]


@app.command()
def fit(
    direction_id: Annotated[str, typer.Option("--id", help="Name of the new direction.")],
    sources: Annotated[
        list[str],
        typer.Option(
            "--source",
            help="[NAME=]RECIPE[:FILE][@WEIGHT], once or more; the first one calibrates. pairs:FILE.jsonl or "
            "pairs:balance, labelled:FILE.jsonl, contrast:FILE.jsonl, legend or legend:REQUESTS.csv.",
        ),
    ],
    estimator: Annotated[str, typer.Option(help="ridge, logistic or mean.")] = "ridge",
    layers: Annotated[str | None, typer.Option(help="Candidate layers, such as 12,16,20.")] = None,
    read_layers: Annotated[int, typer.Option(help="How many of them to average at most.")] = 4,
    by_prompt: Annotated[bool, typer.Option("--by-prompt", help="Let what is safer depend on the prompt.")] = False,
    levels: Annotated[int, typer.Option(help="Into how many levels margins are cut.")] = 4,
    two_sided: Annotated[bool, typer.Option("--two-sided", help="legend: benign requests, too.")] = False,
    paper: Annotated[bool, typer.Option("--paper", help="legend: strictly as published.")] = False,
    max_new_tokens: Annotated[
        int | None, typer.Option(help="legend: where answers are cut; 256, or 1024 with --paper.")
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Use only the first rows of every file.")] = None,
    replace: Annotated[bool, typer.Option("--replace", help="Replace a direction of this id.")] = False,
    default: Annotated[bool, typer.Option("--default", help="Make it what `default` stands for.")] = False,
    out: Annotated[Path | None, typer.Option(help="Write its files to this folder instead of the store.")] = None,
) -> None:
    """Fit a direction; running workers use it at once."""
    from app.schemas.fit import FitRequest
    from workers.directions.errors import DirectionError
    from workers.engine.errors import EngineError

    legend: dict[str, Any] = {"two_sided": two_sided or None, "paper": paper or None, "max_new_tokens": max_new_tokens}
    try:
        chosen = [int(layer) for layer in layers.split(",")] if layers else None
    except ValueError:
        raise typer.BadParameter(f"--layers takes numbers such as 12,16,20, not {layers}") from None
    try:
        request = FitRequest(
            id=direction_id,
            sources=[source(text, limit, legend) for text in sources],
            estimator=estimator,
            layers=chosen,
            read_layers=read_layers,
            by_prompt=by_prompt,
            levels=levels,
            replace=replace,
        )
        if out is None and not replace and _registry().holds(direction_id):
            raise failure(f"a direction called {direction_id} exists; --replace replaces it")
        fitted = _fit(request)
    except ValidationError as error:
        first = error.errors()[0]
        raise typer.BadParameter(f"{'.'.join(map(str, first['loc']))}: {first['msg']}") from error
    except (DirectionError, EngineError) as error:
        raise failure(str(error)) from error
    _keep(fitted, out, default=default)


@app.command("list")
def list_directions() -> None:
    """What is in the artifact store."""
    registry = _registry()
    defaults = registry.defaults()
    names = ("id", "recipe", "model", "accuracy", "should respond", "should refuse", "")
    table = Table(*(Column(name, overflow="fold") for name in names))
    for name in registry.current():
        try:
            card = registry.card(name)
        except DirectionMissing as error:
            typer.echo(f"safemargin: {error}", err=True)
            continue
        accuracy = card.readings[0].accuracy if card.readings else None
        notes = [
            text for text, true in (("default", name in defaults.values()), ("unreliable", card.unreliable)) if true
        ]
        figures = [_figure(value) for value in (accuracy, card.should_respond, card.should_refuse)]
        table.add_row(name, card.recipe, card.model, *figures, ", ".join(notes))
    Console().print(table)


@app.command()
def show(name: Name) -> None:
    """The card of a direction, as JSON."""
    typer.echo(json.dumps(_found(name).model_dump(), indent=2, ensure_ascii=False))


@app.command()
def report(
    name: Name, to: Annotated[Path, typer.Option(help="Where to write it: .html for the page, else JSON.")]
) -> None:
    """Write the report of a direction."""
    to.write_bytes(_part(name, PAGE if to.suffix == ".html" else REPORT))


@app.command()
def default(name: Name) -> None:
    """Choose what `default` stands for on the direction's annotator."""
    card = _found(name)
    _registry().set_default(_annotator_of(card), card.id)


@app.command()
def delete(name: Name) -> None:
    """Delete a direction from the artifact store."""
    if name in _registry().defaults().values():
        raise failure(f"`default` stands for {name}; choose another default first")
    try:
        _registry().delete(name)
    except DirectionMissing as error:
        raise failure(str(error)) from error


@app.command()
def export(name: Name, to: Annotated[Path, typer.Option(help="The .gguf file to write.")]) -> None:
    """Write a direction as a GGUF control vector, which llama.cpp loads with --control-vector."""
    to.write_bytes(_part(name, CONTROL_VECTOR))


@app.command("import")
def import_direction(
    path: Annotated[Path, typer.Argument(help="A .gguf file that `export` wrote.")],
    replace: Annotated[bool, typer.Option("--replace", help="Replace a direction of this id.")] = False,
) -> None:
    """Read an exported direction back, exactly."""
    from workers.directions.control_vector import from_control_vector
    from workers.directions.errors import DirectionError
    from workers.directions.publishing import parts_of
    from workers.directions.reporting import bare_report

    try:
        direction = from_control_vector(path.name, path.read_bytes())
    except (OSError, DirectionError) as error:
        raise failure(str(error)) from error
    if not replace and _registry().holds(direction.id):
        raise failure(f"a direction called {direction.id} exists; --replace replaces it")
    parts = parts_of(direction, bare_report(direction))
    _registry().publish(direction.id, direction.card.digest, parts)
    typer.echo(f"{direction.id}: {direction.card.digest}")


def _fit(request: "FitRequest") -> "Fitted":
    from workers.configured import configured_annotator
    from workers.directions.fit import fit as fit_direction
    from workers.probe import probe
    from workers.registry import Holdings

    annotator = configured_annotator(settings())
    probe(annotator)
    directions = Holdings.of(_registry().artifacts, annotator).directions
    directions.refresh()
    controls, cache = directions.made_by("legend"), settings().home_folder / "cache"
    with progress_of("the sources, and what the report compares with") as progress:
        return fit_direction(annotator, request, controls=controls, cache=cache, progress=progress)


def _keep(fitted: "Fitted", out: Path | None, *, default: bool) -> None:
    from workers.directions.publishing import parts_of

    card = fitted.direction.card
    parts = parts_of(fitted.direction, fitted.report)
    where = keep(_registry(), card.id, card.digest, parts, out)
    if default and out is None:
        _registry().set_default(card.model_revision, card.id)
    _describe(card, where)


def _annotator_of(card: DirectionCard) -> str:
    """Revision of a direction's annotator; the card of one that reads a taught model names that one's instead."""
    if card.alignment is None:
        return card.model_revision
    try:
        return Alignments(_registry().artifacts).card(card.alignment.id).model_revision
    except AlignmentMissing as error:
        raise failure(str(error)) from error


def _registry() -> Registry:
    return Registry(Artifacts(settings().artifacts_url))


def _meant(name: str) -> str:
    """The id itself, or what `default` stands for."""
    ids = sorted(set(_registry().defaults().values())) if name == DEFAULT else []
    if len(ids) > 1:
        raise failure(f"`default` stands for another direction on each annotator: {', '.join(ids)}; name one")
    return ids[0] if ids else name


def _found(name: str) -> DirectionCard:
    try:
        return _registry().card(_meant(name))
    except DirectionMissing as error:
        raise failure(str(error)) from error


def _part(name: str, part: str) -> bytes:
    try:
        return _registry().part(_meant(name), _found(name).digest, part)
    except DirectionMissing as error:
        raise failure(str(error)) from error


def _figure(accuracy: Accuracy | None) -> str:
    return "–" if accuracy is None else f"{accuracy.value:.3f}"


def _describe(card: DirectionCard, where: str) -> None:
    sites = ", ".join(f"{site.layer}/{site.pooling}" for site in card.sites)
    typer.echo(f"{card.id}: {card.recipe} on {card.model}, layer/pooling {sites}")
    for reading in card.readings:
        a = reading.accuracy
        error = "" if reading.calibration_error is None else f", calibration error {reading.calibration_error:.3f}"
        typer.echo(
            f"{reading.data}: pair accuracy {a.value:.3f} [{a.low:.3f}, {a.high:.3f}]{error}, {reading.protocol}"
        )
    typer.echo(f"should respond {_figure(card.should_respond)}, should refuse {_figure(card.should_refuse)}")
    if card.unreliable:
        typer.echo("unreliable: nothing shows that it reads better than chance")
    typer.echo(f"stored in {where}")
