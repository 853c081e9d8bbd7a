"""The report of an experiment, and its tables."""

from collections.abc import Sequence

import torch
from torch import Tensor

from app import __version__
from app.schemas.marginreport import ArmFigures, Cost, MarginReport, SourceFigures, SourceName
from workers.directions.balance import balance
from workers.directions.evaluation import accuracy
from workers.experiments.arms import ARMS, PLAIN
from workers.experiments.figures import arm_on, mean_accuracy, verdict
from workers.experiments.margins import MEMBERS, Experiment
from workers.experiments.parts import BALANCE, HELD_OUT, families
from workers.experiments.units import Unit
from workers.rewards.markdown import DASH, interval, table
from workers.rewards.reading import families_of


def report(experiment: Experiment, *, data: str, labelled: str | None, base: str) -> MarginReport:
    """Of an experiment of which nothing is missing."""
    parts = experiment.parts
    wanted: list[SourceName] = list(dict.fromkeys(ARMS[name].source for name in experiment.arms if ARMS[name].source))  # type: ignore[misc]
    sources = [_source(experiment, name) for name in wanted]
    costs = {source.source: source.making + source.reading for source in sources}
    units = {name: [experiment.unit(name, seed) for seed in experiment.seeds] for name in experiment.arms}
    arms = [_arm(experiment, name, units, costs) for name in experiment.arms]
    return MarginReport(
        data=data,
        labelled=labelled,
        base=base,
        annotator=experiment.annotator.name,
        training=experiment.bench.settings,
        mean_margin=experiment.mean,
        pairs=len(parts.train),
        prompts=len(torch.unique(families_of(parts.train))),
        tests={name: len(pairs) for name, pairs in parts.sets.items()},
        refused=parts.refused,
        sources=sources,
        arms=arms,
        ratios=_ratios(sources, experiment.bench.forward),
        verdict=verdict(arms, HELD_OUT),
        version=__version__,
    )


def _source(experiment: Experiment, name: SourceName) -> SourceFigures:
    found, train = experiment.source(name), experiment.parts.train
    margins = torch.tensor(found.margins, dtype=torch.double)
    return SourceFigures(
        source=name,
        note=found.note,
        accuracy=accuracy(margins, families_of(train)),
        mean=float(margins.abs().mean()),
        making=found.making,
        reading=found.reading,
    )


def _arm(experiment: Experiment, name: str, units: dict[str, list[Unit]], costs: dict[SourceName, Cost]) -> ArmFigures:
    arm, own, parts = ARMS[name], units[name], experiment.parts
    plain = units.get(PLAIN) if name != PLAIN else None
    sets = {
        called: arm_on(_gaps(own, called), _gaps(plain, called) if plain else None, families(called, pairs))
        for called, pairs in parts.sets.items()
    }
    benign = balance().benign[torch.tensor([one.line for one in parts.balance], dtype=torch.long)]
    subjects, gaps = families(BALANCE, parts.balance), _gaps(own, BALANCE) if parts.balance else []
    sides = [
        mean_accuracy([each[side] for each in gaps], subjects[side]) if bool(side.any()) else None
        for side in (benign, ~benign)
    ]
    training = sum((unit.training for unit in own), Cost())
    return ArmFigures(
        arm=name,
        about=arm.about,
        seeds=list(experiment.seeds),
        sets=sets,
        should_respond=sides[0],
        should_refuse=sides[1],
        pairs=own[0].pairs,
        conflicts=own[0].conflicts,
        mean_margin=own[0].mean_margin,
        annotation=costs[arm.source] if arm.source else Cost(),
        training=Cost(seconds=training.seconds / len(own), tokens=training.tokens / len(own)),
    )


def _gaps(units: Sequence[Unit], called: str) -> list[Tensor]:
    return [torch.tensor(unit.gaps[called], dtype=torch.double) for unit in units]


def _ratios(sources: Sequence[SourceFigures], share: float) -> dict[str, float]:
    """What the ensemble takes over what projections take, to annotate and with all that has to be made first.

    Args:
        sources: all of them.
        share: of the annotator's blocks that were trained: with all of them the ensemble takes that much more.
    """
    by_name = {source.source: source for source in sources}
    if (ensemble := by_name.get("ensemble")) is None:
        return {}
    dear = ensemble.making + ensemble.reading
    found = {}
    for name in ("legend", "default"):
        if (source := by_name.get(name)) is not None:
            costs = {"reading": source.reading, "making and reading": source.making + source.reading}
            for what, cost in costs.items():
                found[f"{name}, {what}: seconds"] = dear.seconds / cost.seconds
                found[f"{name}, {what}: tokens"] = dear.tokens / cost.tokens
                found[f"{name}, {what}: tokens, were every block trained"] = dear.tokens / share / cost.tokens
    return found


def markdown(found: MarginReport) -> str:
    """The whole report."""
    how, tests = found.training, ", ".join(f"{count} {name}" for name, count in found.tests.items())
    seeds = len(found.arms[0].seeds)
    head = (
        f"# Margins on {found.data}\n\n{found.verdict}\n\n{found.base}; {found.pairs} pairs of {found.prompts} "
        f"prompts, {how.epochs} epochs, batch {how.batch}, rate {how.rate:g}, mean |m| {found.mean_margin:g}, "
        f"{seeds} seeds. Measured on pairs of other prompts: {tests}. Means over seeds with 95 % intervals over "
        "prompts; gains over no margin are paired, pair by pair and seed by seed."
    )
    names = list(found.arms[0].sets)
    shown = [name for name in names if name != BALANCE]
    columns = ["arm", *(part for name in shown for part in (name, "gain", "p", "ECE"))]
    columns += ["should respond", "should refuse", "conflicts", "annotation", "training"]
    rows = [_row(arm, shown) for arm in found.arms]
    legend = [("arm", "what"), *((arm.arm, arm.about) for arm in found.arms)]
    origin = [("margins", "right", "mean \\|m\\|", "made in", "read in", "how")]
    origin += [
        (one.source, interval(one.accuracy), f"{one.mean:.3g}", _cost(one.making), _cost(one.reading), one.note)
        for one in found.sources
    ]
    parts = [head, table([columns, *rows]), "## Arms\n\n" + table(legend), "## Sources\n\n" + table(origin)]
    if found.ratios:
        parts.append(
            f"## RewardEnsemble@{MEMBERS} over a projection\n\n"
            + table([("", "times"), *((name, f"{value:.1f}") for name, value in found.ratios.items())])
        )
    return "\n\n".join(parts) + "\n"


def _row(arm: ArmFigures, shown: Sequence[str]) -> list[str]:
    cells = [arm.arm]
    for name in shown:
        one = arm.sets[name]
        p = DASH if one.p is None else f"{one.p:.3f}"
        cells += [interval(one.accuracy), interval(one.gain, "+"), p, f"{one.calibration_error:.3f}"]
    sides = [DASH if side is None else f"{side.value:.3f}" for side in (arm.should_respond, arm.should_refuse)]
    return [*cells, *sides, f"{arm.conflicts}", _cost(arm.annotation), _cost(arm.training)]


def _cost(cost: Cost) -> str:
    return f"{cost.seconds:.0f} s, {cost.tokens / 1000:.0f}k" if cost.seconds or cost.tokens else DASH
