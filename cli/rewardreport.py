"""`safemargin evaluate reward`: how well a reward model reads pairs, and chooses among responses."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Column, Table

from app.schemas.annotate import DEFAULT
from app.schemas.rewardreport import RewardReport
from cli import loading
from cli.saying import failure, progress_of

if TYPE_CHECKING:
    from workers.rewards.bestofn import Judge

app = typer.Typer(no_args_is_help=True, help="Measure models on labelled pairs, without a service.")

_WIDTH = 120
_JUDGES = "direction:ID or reward:MODEL"


@app.callback()
def _what() -> None:
    """What can be measured, a command each."""


@app.command("reward")
def evaluate_reward(
    model: Annotated[
        str,
        typer.Argument(help="A sequence classifier with one label: a folder, an id of the store or of Hugging Face."),
    ],
    data: Annotated[
        list[Path] | None,
        typer.Argument(help="Labelled pairs, with margins or without, perhaps with a column `subset`; once or more."),
    ] = None,
    pairs: Annotated[Path | None, typer.Option(help="With rows of format raw: the file that was annotated.")] = None,
    balance: Annotated[
        bool, typer.Option("--balance", help="Measure on the project's balance set, too, how it refuses.")
    ] = False,
    candidates: Annotated[
        Path | None, typer.Option(help='JSONL of {"prompt", "responses"}: let it choose, and a judge say how well.')
    ] = None,
    judge: Annotated[str, typer.Option(help=f"With --candidates: {_JUDGES}.")] = f"direction:{DEFAULT}",
    limit: Annotated[int | None, typer.Option(min=1, help="Read only so many rows of each file.")] = None,
    json: Annotated[Path | None, typer.Option(help="Write the figures to this file.")] = None,
    markdown: Annotated[Path | None, typer.Option(help="Write the tables to this file.")] = None,
    plots: Annotated[
        Path | None, typer.Option(help="Folder for reliability diagrams and accuracy by quantile.")
    ] = None,
) -> None:
    """Accuracy, calibration, length bias, subsets, over-refusal and best of n of a reward model."""
    from dataclasses import replace

    from workers.directions.errors import DirectionError
    from workers.engine.errors import EngineError
    from workers.rewards.annotated import read_annotated
    from workers.rewards.bestofn import best_of_n, read_candidates
    from workers.rewards.errors import RewardError
    from workers.rewards.evaluating import evaluate
    from workers.rewards.markdown import markdown as as_markdown
    from workers.rewards.plots import draw

    if not (data or balance or candidates):
        raise typer.BadParameter("nothing to measure on: name files, --balance or --candidates", param_hint="DATA")
    try:
        files = [read_annotated(path, pairs) for path in data or []]
        files = [replace(file, pairs=file.pairs[:limit]) for file in files]
        prompts = read_candidates(candidates)[:limit] if candidates else []
        loaded = loading.reward_model(model)
        best = best_of_n(loaded, _judge(judge), prompts, candidates.name) if candidates else None
        with progress_of("the pairs") as progress:
            report = evaluate(loaded, files, with_balance=balance, best=best, progress=progress)
    except (RewardError, EngineError, DirectionError) as error:
        raise failure(str(error)) from error
    _print(report)
    try:
        if json is not None:
            json.write_text(report.model_dump_json(indent=2) + "\n")
        if markdown is not None:
            markdown.write_text(as_markdown(report))
        if plots is not None:
            draw(report, plots)
    except OSError as error:
        raise failure(f"{error.filename} cannot be written: {error.strerror}") from error


def _judge(named: str) -> "Judge":
    from workers.rewards.bestofn import DirectionJudge, RewardJudge

    kind, _, name = named.partition(":")
    if kind not in {"direction", "reward"} or not name:
        raise typer.BadParameter(f"--judge takes {_JUDGES}")
    if kind == "reward":
        return RewardJudge(loading.reward_model(name))
    direction, reader = loading.direction(name, loading.annotator())
    return DirectionJudge(reader, direction)


def _print(report: RewardReport) -> None:
    from workers.rewards.markdown import tables

    console = Console()
    console = console if console.is_terminal else Console(width=_WIDTH)
    for title, (names, rows) in tables(report):
        table = Table(
            *(Column(name, overflow="fold") for name in names),
            title=title,
            title_justify="left",
            box=SIMPLE_HEAD,
            padding=(0, 1, 0, 0),
        )
        for row in rows:
            table.add_row(*row)
        console.print(table)
