"""`safemargin experiment margins`: do margins make better reward models?"""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from pydantic import ValidationError

from app.schemas.problem import said
from app.settings import settings
from cli import loading
from cli.saying import failure, stages

if TYPE_CHECKING:
    from app.schemas.marginreport import MarginReport
    from app.schemas.rewards import RewardSettings
    from workers.experiments.margins import Experiment

app = typer.Typer(no_args_is_help=True, help="Compare ways of training, without a service.")


@app.callback()
def _what() -> None:
    """What can be compared, a command each."""


@app.command("margins")
def margins(
    data: Annotated[Path, typer.Argument(help="Labelled pairs, JSONL or Parquet.")],
    out: Annotated[Path, typer.Option(help="Folder of the experiment; the same command goes on in it.")],
    labelled: Annotated[
        Path | None,
        typer.Option(help="JSONL of prompt, response, label: half of its prompts is fitted, half measured on."),
    ] = None,
    base: Annotated[
        str | None, typer.Option(help="A language model or reward model: a folder or an id; the annotator.")
    ] = None,
    arms: Annotated[str | None, typer.Option(help="Which, such as none,legend,default; all where left out.")] = None,
    seeds: Annotated[int, typer.Option(min=1, help="How many trainings of every arm.")] = 3,
    pairs: Annotated[int | None, typer.Option(min=1, help="Train on so many pairs at most.")] = None,
    held_out: Annotated[float, typer.Option(min=0.05, max=0.9, help="Share of the prompts to measure on.")] = 0.4,
    balance_pairs: Annotated[
        int | None, typer.Option(min=20, help="Pairs of the balance set to measure on; half of the set.")
    ] = None,
    mean_margin: Annotated[float, typer.Option(min=1e-3, help="Margins are scaled to this mean |m|.")] = 0.5,
    blocks: Annotated[int | None, typer.Option(min=1, help="Use the base's first blocks alone.")] = None,
    trained: Annotated[
        int | None, typer.Option(min=1, help="Train the last of these blocks alone; the others read once.")
    ] = None,
    epochs: Annotated[int | None, typer.Option(help="1.")] = None,
    batch: Annotated[int | None, typer.Option(help="Pairs a step; 16.")] = None,
    learning_rate: Annotated[float | None, typer.Option(help="1e-5.")] = None,
    max_length: Annotated[
        int | None, typer.Option(help="Tokens of a dialogue; longer pairs are left out; 1024.")
    ] = None,
    budget: Annotated[int | None, typer.Option(help="Tokens of a pass at most; 2048.")] = None,
) -> None:
    """Train reward models with margins of every source, and with none, and measure what that does.

    Stopped at any moment, the same command goes on; run twice at a time, the two share the work.
    """
    given = {"epochs": epochs, "batch": batch, "learning_rate": learning_rate, "max_length": max_length}
    how = _training(given | {"budget": budget})
    chosen = _arms(arms)

    from workers.directions.errors import DirectionError
    from workers.engine.errors import EngineError
    from workers.experiments.reporting import markdown, report
    from workers.rewards.errors import RewardError
    from workers.rules.errors import RuleError

    try:
        with stages() as show:
            made = _experiment(
                data,
                out,
                labelled,
                base,
                chosen,
                seeds,
                how,
                show,
                limit=pairs,
                held_out=held_out,
                balance_pairs=balance_pairs,
                mean=mean_margin,
                blocks=blocks,
                trained=trained,
            )
            made.enter()
            made.run()
        described = _described(base or settings().model, blocks, trained)
        found = report(made, data=data.name, labelled=labelled.name if labelled else None, base=described)
    except (RewardError, EngineError, DirectionError, RuleError) as error:
        raise failure(str(error)) from error
    (out / "report.json").write_text(found.model_dump_json(indent=1) + "\n")
    (out / "report.md").write_text(markdown(found))
    _print(found)


def _experiment(
    data: Path,
    out: Path,
    labelled: Path | None,
    base: str | None,
    arms: list[str],
    seeds: int,
    how: "RewardSettings",
    show: Callable[[str, int, int, float | None], None],
    *,
    limit: int | None,
    held_out: float,
    balance_pairs: int | None,
    mean: float,
    blocks: int | None,
    trained: int | None,
) -> "Experiment":
    from workers.directions.datafiles import FileLabelled, read_rows
    from workers.engine.process import cores
    from workers.experiments.benches import Base, bench
    from workers.experiments.margins import Experiment
    from workers.experiments.parts import part
    from workers.rewards.annotated import read_annotated
    from workers.rules.bank import shipped_banks

    config = settings()
    pairs = read_annotated(data).pairs
    responses = read_rows(labelled, FileLabelled) if labelled else []
    annotator = loading.annotator()
    of = Base(base or config.model, config.home_folder, config.device, blocks, trained)
    reader = of.model(0, how.max_length)
    parts = part(reader, annotator, pairs, responses, held_out=held_out, limit=limit, balance_pairs=balance_pairs)
    units = bench(of, annotator, parts.texts(reader), how, out, threads=config.threads or cores(), tell=show)
    return Experiment(
        folder=out,
        annotator=annotator,
        bank=next(iter(shipped_banks(annotator)), None),
        parts=parts,
        bench=units,
        arms=arms,
        seeds=range(seeds),
        mean=mean,
        made_with={"base": reader.revision, "blocks": blocks, "trained": trained},
        say=lambda text: typer.echo(text, err=True),
    )


def _training(given: dict[str, int | float | None]) -> "RewardSettings":
    from app.schemas.rewards import RewardSettings

    try:
        return RewardSettings.model_validate({name: value for name, value in given.items() if value is not None})
    except ValidationError as error:
        first = error.errors()[0]
        raise typer.BadParameter(f"--{str(first['loc'][-1]).replace('_', '-')}: {said(first)}") from error


def _arms(named: str | None) -> list[str]:
    from workers.experiments.arms import ARMS, PLAIN

    if named is None:
        return list(ARMS)
    chosen = [name.strip() for name in named.split(",")]
    if unknown := [name for name in chosen if name not in ARMS]:
        raise typer.BadParameter(f"--arms: there is no arm {unknown[0]}; there are {', '.join(ARMS)}")
    return [name for name in ARMS if name in {PLAIN, *chosen}]


def _described(base: str, blocks: int | None, trained: int | None) -> str:
    first = f"the first {blocks} blocks of {base}" if blocks else base
    return f"{first}, the last {trained} trained" if trained else first


def _print(found: "MarginReport") -> None:
    for arm in found.arms:
        for name, one in arm.sets.items():
            gain = "" if one.gain is None else f" ({one.gain.value:+.3f}, p {one.p:.3f})"
            typer.echo(f"{arm.arm:>15}  {name:>9}  {one.accuracy.value:.3f}{gain}")
    typer.echo(found.verdict)
