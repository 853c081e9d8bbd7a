"""`safemargin train reward`: a reward model of annotated pairs, without a service."""

from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic import ValidationError

from app.artifacts import Artifacts
from app.rewards import CARD, RewardModels
from app.schemas.problem import said
from app.schemas.rewards import HeldOut, RewardCard, RewardSettings
from app.settings import settings
from cli.keeping import refuse_odd_id
from cli.saying import failure, stages


def train_reward(
    data: Annotated[
        Path, typer.Argument(help="Annotated rows of format trl, openrlhf or raw, or pairs; JSONL or Parquet.")
    ],
    out: Annotated[Path, typer.Option(help="Folder for the reward model; the same command goes on in it.")],
    base: Annotated[
        str | None, typer.Option(help="A language model or reward model: a folder or an id; the annotator.")
    ] = None,
    pairs: Annotated[Path | None, typer.Option(help="With rows of format raw: the file that was annotated.")] = None,
    margin: Annotated[
        str | None, typer.Option(help="What m is: margin (where left out), level, a third of it; none.")
    ] = None,
    margin_scale: Annotated[float | None, typer.Option(help="What m is multiplied by; 1.")] = None,
    margin_clip: Annotated[float | None, typer.Option(help="Cut m to ± this.")] = None,
    conflicts: Annotated[
        str | None, typer.Option(help="Pairs whose margin is negative: keep (where left out), drop, flip, down-weight.")
    ] = None,
    conflict_weight: Annotated[float | None, typer.Option(help="down-weight: how much they count; 0.5.")] = None,
    label_smoothing: Annotated[float | None, typer.Option(help="How likely a label is taken to be wrong; 0.")] = None,
    center_rewards_coefficient: Annotated[
        float | None, typer.Option(help="Weight of (r_chosen + r_rejected)² in the loss; 0.")
    ] = None,
    weights: Annotated[str | None, typer.Option(help="What is trained: full (where left out) or lora.")] = None,
    rank: Annotated[int | None, typer.Option(help="lora: 16.")] = None,
    epochs: Annotated[int | None, typer.Option(help="1.")] = None,
    batch: Annotated[int | None, typer.Option(help="Pairs a step; 16.")] = None,
    learning_rate: Annotated[float | None, typer.Option(help="1e-5; lora: 2e-4.")] = None,
    warmup: Annotated[float | None, typer.Option(help="Share of the steps; 0.1.")] = None,
    weight_decay: Annotated[float | None, typer.Option(help="0.")] = None,
    max_length: Annotated[int | None, typer.Option(help="Tokens of a dialogue at most; 1024.")] = None,
    budget: Annotated[int | None, typer.Option(help="Tokens of a pass at most; 2048.")] = None,
    held_out: Annotated[float | None, typer.Option(help="Share of the prompts to measure on; 0.1.")] = None,
    seed: Annotated[int | None, typer.Option(help="Of everything that is drawn at random; 0.")] = None,
    checkpoint: Annotated[int | None, typer.Option(help="Steps from one checkpoint to the next; 100.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Use only the first pairs of the file.")] = None,
    name: Annotated[str | None, typer.Option("--id", help="Put it into the store, too, under this id.")] = None,
    replace: Annotated[bool, typer.Option("--replace", help="Replace a reward model of this id.")] = False,
) -> None:
    """Train a reward model with the margins of annotated pairs: a sequence classifier that transformers loads.

    With Δ = r_chosen − r_rejected a pair's loss is −log σ(Δ − m). Stopped at any moment, the same command goes on from
    the last checkpoint, and comes to the same weights.
    """
    given = dict(locals())
    chosen = _settings({name: given[name] for name in RewardSettings.model_fields if given[name] is not None})
    models = RewardModels(Artifacts(settings().artifacts_url))
    if name is not None:
        refuse_odd_id(name)
        if not replace and models.holds(name):
            raise failure(f"a reward model called {name} exists; --replace replaces it")
    from dataclasses import replace as changed

    from workers.engine.errors import EngineError
    from workers.rewards.annotated import read_annotated
    from workers.rewards.errors import RewardError
    from workers.rewards.run import Training, train

    config = settings()
    try:
        file = read_annotated(data, pairs)
        file = changed(file, pairs=file.pairs[:limit])
        with stages() as show:
            card = train(
                Training(
                    id=name or out.resolve().name,
                    base=base or config.model,
                    file=file,
                    settings=chosen,
                    folder=out,
                    home=config.home_folder,
                    device=config.device,
                    tell=show,
                )
            )
    except (RewardError, EngineError) as error:
        raise failure(str(error)) from error
    where = str(out)
    if name is not None:
        parts = {part: out / part for part in (*card.files, CARD)}
        models.publish(card.id, card.digest, parts)
        where += f" and in {settings().artifacts_url} as {card.id}"
    _describe(card, where)


def _settings(given: dict[str, Any]) -> RewardSettings:
    try:
        return RewardSettings.model_validate(given)
    except ValidationError as error:
        first = error.errors()[0]
        field = first.get("ctx", {}).get("field") or str(first["loc"][-1])
        raise typer.BadParameter(f"--{field.replace('_', '-')}: {said(first)}") from error


def _describe(card: RewardCard, where: str) -> None:
    data = card.data
    refused = "".join(f", {count} {code}" for code, count in sorted(data.refused.items()))
    typer.echo(
        f"{card.id}: {card.training.weights} of {card.model} on {data.pairs} pairs, {data.held_out} held out{refused}; "
        f"{data.conflicts} conflicts ({card.training.conflicts}), mean |m| {data.mean_margin:.3f}"
    )
    if data.calibrated is False and card.training.margin == "margin":
        typer.echo("these margins are no log-odds: they are raw projections, on no scale of a reward's")
    typer.echo(f"{card.steps} steps, {card.tokens} tokens, {card.seconds:.0f} s, {card.dtype}")
    for when, figures in (("before", card.before), ("after", card.after)):
        if figures is not None:
            typer.echo(f"{when}: {_figures(figures)}")
    typer.echo(f"stored in {where}")


def _figures(figures: HeldOut) -> str:
    right = figures.accuracy
    return (
        f"accuracy {right.value:.3f} [{right.low:.3f}, {right.high:.3f}] of {right.pairs} held-out pairs, loss "
        f"{figures.loss:.4f}, calibration error {figures.calibration_error:.3f}"
    )
