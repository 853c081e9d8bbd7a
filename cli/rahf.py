"""`safemargin train rahf-scit`, `rahf-dual`: teach the annotator the preference of pairs, and align it (RAHF)."""

import json
import shutil
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Column, Table

from app.alignments import CURVES, Alignments
from app.artifacts import Artifacts
from app.registry import Registry
from app.schemas.alignment import AlignmentMethod, AlignmentSettings
from app.schemas.directions import Accuracy
from app.schemas.pairs import Pair
from app.settings import settings
from app.shelf import Shelf
from cli import loading
from cli.keeping import refuse_odd_id, write
from cli.saying import failure, stages

if TYPE_CHECKING:
    from workers.alignment.publishing import Product


class Stage(StrEnum):
    """What can be run by itself."""

    INSTRUCT = "instruct"
    COLLECT = "collect"
    ALIGN = "align"


Data = Annotated[Path, typer.Argument(metavar="DATA.jsonl", help="Pairs: prompt, chosen, rejected.")]
Id = Annotated[str, typer.Option("--id", help="Name of the new alignment, and of its direction.")]
Preset = Annotated[str, typer.Option(help="small, paper, or a YAML file with a section for the method.")]
Set = Annotated[
    list[str] | None, typer.Option("--set", help="PATH=VALUE instead of the preset's, such as align.alpha=10.")
]
Only = Annotated[
    Stage | None, typer.Option(help="Run this stage alone; nothing is stored before a run without it has measured.")
]
Folder = Annotated[
    Path | None,
    typer.Option(help="Where the run is kept and goes on; in the home until its end where left out."),
]
Limit = Annotated[int | None, typer.Option(min=1, help="Use only the first pairs of the file.")]
Replace = Annotated[bool, typer.Option("--replace", help="Replace an alignment and a direction of this id.")]
Out = Annotated[Path | None, typer.Option(help="Write their files to this folder instead of the store.")]


def command(method: AlignmentMethod, about: str) -> Callable[..., None]:
    """The command of a method, which says what it is about."""

    def train(
        data: Data,
        name: Id,
        preset: Preset = "small",
        changes: Set = None,
        stage: Only = None,
        folder: Folder = None,
        limit: Limit = None,
        replace: Replace = False,
        out: Out = None,
    ) -> None:
        from workers.alignment.errors import AlignmentError
        from workers.alignment.settings import load
        from workers.directions.datafiles import read_pairs
        from workers.directions.errors import DirectionError
        from workers.engine.errors import EngineError

        refuse_odd_id(name)
        store = Artifacts(settings().artifacts_url)
        shelves = Alignments(store), Registry(store)
        if out is None and not replace:
            _refuse_taken(name, *shelves)
        place = folder or settings().home_folder / "runs" / name
        try:
            how = load(method, preset, dict(_change(text) for text in changes or []))
            product = _run(method, read_pairs(data)[:limit], how, place, stage, name)
        except (AlignmentError, DirectionError, EngineError) as error:
            raise failure(str(error)) from error
        if product is None:
            typer.echo(f"{stage} is finished in {place}")
            return
        _describe(product, _keep(product, *shelves, out))
        if folder is None:
            shutil.rmtree(place)

    train.__doc__ = about
    return train


def _run(
    method: AlignmentMethod, pairs: list[Pair], how: AlignmentSettings, place: Path, stage: Stage | None, name: str
) -> "Product | None":
    """What comes of a run that goes on where it was in a folder; nothing where one stage alone is wanted."""
    from workers.alignment.publishing import course, product_of
    from workers.alignment.run import Run

    annotator = loading.annotator()
    taught_with, others = course(annotator, pairs, method, how)
    with stages() as show:
        run = Run(method, annotator, taught_with, others, how, place, show)
        if stage is not None:
            {Stage.INSTRUCT: run.instruct, Stage.COLLECT: run.collect, Stage.ALIGN: run.align}[stage]()
            return None
        run.all()
        return product_of(run, name, progress=lambda done, total: show("measure", done, total, None))


def _refuse_taken(name: str, *shelves: Shelf) -> None:
    for shelf in shelves:
        if shelf.holds(name):
            raise failure(f"another {shelf.noun} is called {name}; --replace replaces it")


def _change(text: str) -> tuple[str, Any]:
    """Path and value of a `--set`; a value that is no JSON is text."""
    path, equals, value = text.partition("=")
    if not path or not equals:
        raise typer.BadParameter(f"takes PATH=VALUE, such as align.alpha=10, not {text}", param_hint="--set")
    try:
        return path, json.loads(value)
    except json.JSONDecodeError:
        return path, value


def _keep(product: "Product", alignments: Alignments, directions: Registry, out: Path | None) -> str:
    """Store alignment and direction, or write their files; says where the alignment's are."""
    from workers.alignment.publishing import publish

    card = product.card
    if out is None:
        publish(product, alignments, directions)
        return f"{settings().artifacts_url}/{alignments.place(card.id, card.digest)}"
    write(out / card.id, product.parts)
    write(out / card.id / "direction", product.direction_parts)
    return str(out / card.id)


def _describe(product: "Product", where: str) -> None:
    card, direction, report = product.card, product.direction.card, product.report
    typer.echo(f"{card.id}: {card.method} on {card.model}, {report.pairs} pairs, {report.other_pairs} of other prompts")
    read = Table(*(Column(name, overflow="fold") for name in ("read by", "pair accuracy", "calibration error")))
    for by, readings in (("log-probabilities", card.readings), ("direction", direction.readings)):
        for reading in readings:
            error = reading.calibration_error
            read.add_row(by, _figure(reading.accuracy), "–" if error is None else f"{error:.3f}")
    trained = Table(*(Column(name, overflow="fold") for name in ("stage", "steps", "loss, first", "last", "seconds")))
    for stage in report.stages:
        ends = [f"{stage.losses[0]:.3f}", f"{stage.losses[-1]:.3f}"] if stage.losses else ["–", "–"]
        trained.add_row(stage.name, str(len(stage.losses) or "–"), *ends, f"{stage.seconds:.0f}")
    console = Console()
    console.print(read)
    console.print(trained)
    typer.echo(f"should respond {_figure(direction.should_respond)}, should refuse {_figure(direction.should_refuse)}")
    for what, unreliable in (
        ("the log-probabilities read", card.unreliable),
        ("the direction reads", direction.unreliable),
    ):
        if unreliable:
            typer.echo(f"unreliable: nothing shows that {what} better than chance")
    typer.echo(f"stored in {where}, loss curves in its {CURVES}")


def _figure(accuracy: Accuracy | None) -> str:
    return "–" if accuracy is None else f"{accuracy.value:.3f} [{accuracy.low:.3f}, {accuracy.high:.3f}]"
