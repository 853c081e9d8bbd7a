"""A reward model's report as Markdown."""

from collections.abc import Iterable, Sequence

from app.schemas.directions import Accuracy
from app.schemas.evaluation import Gain
from app.schemas.rewardreport import BestOfN, Mean, PairFigures, RewardReport

DASH = "–"

Table = tuple[Sequence[str], list[Sequence[str]]]
"""Names of the columns, and rows."""


def markdown(report: RewardReport) -> str:
    """The whole report."""
    parts = [
        f"# {report.model}\n\n`{report.model_revision}`, read in {report.dtype}; intervals are 95 %, over prompts."
    ]
    for title, (names, rows) in tables(report):
        parts.append(f"## {title}\n\n{table([names, *rows])}")
    return "\n\n".join(parts) + "\n"


def table(rows: Sequence[Sequence[str]]) -> str:
    """A table, its first row the names of the columns."""
    head, *others = rows
    lines = [f"| {' | '.join(head)} |", "|" + "---|" * len(head), *(f"| {' | '.join(row)} |" for row in others)]
    return "\n".join(lines)


def tables(report: RewardReport) -> Iterable[tuple[str, Table]]:
    """Every table of a report with its title."""
    if report.sets:
        yield "Pairs", _pairs(report.sets)
    for figures in report.sets:
        names: Sequence[str] = (figures.quantiles_of, "pairs", "accuracy")
        rows: list[Sequence[str]] = [
            (f"{part.low:.3f} to {part.high:.3f}", str(part.accuracy.pairs), interval(part.accuracy))
            for part in figures.quantiles
        ]
        yield f"{figures.data}: by quantile", (names, rows)
        if figures.subsets:
            yield f"{figures.data}: by subset", _subsets(figures)
    if report.should_respond or report.should_refuse:
        sides = (("should respond", report.should_respond), ("should refuse", report.should_refuse))
        yield "Over-refusal", (("requests", "right"), [(name, interval(value)) for name, value in sides])
    if report.best_of_n:
        yield _best(report.best_of_n)


def _pairs(sets: Sequence[PairFigures]) -> Table:
    names = ("", *(figures.data for figures in sets))
    rows: list[Sequence[str]] = [
        ("pairs", *(str(one.pairs) for one in sets)),
        ("left out", *(_refused(one.refused) for one in sets)),
        ("accuracy", *(interval(one.accuracy) for one in sets)),
        ("chosen is shorter", *(interval(one.length.chosen_shorter) for one in sets)),
        ("chosen is longer", *(interval(one.length.chosen_longer) for one in sets)),
        ("correlation with length", *(_figure(one.length.correlation) for one in sets)),
        ("calibration error", *(_figure(one.calibration_error) for one in sets)),
        ("log-odds a unit of reward", *(_figure(one.slope) for one in sets)),
        ("loss", *(_figure(one.loss) for one in sets)),
    ]
    return names, rows


def _subsets(figures: PairFigures) -> Table:
    rows: list[Sequence[str]] = [
        (one.subset, str(one.accuracy.pairs), interval(one.accuracy)) for one in figures.subsets
    ]
    for section in figures.sections:
        lacks = f", without {', '.join(section.missing)}" if section.missing else ""
        rows.append((f"**{section.section}** of RewardBench{lacks}", "", interval(section.accuracy)))
    return ("subset", "pairs", "accuracy"), rows


def _best(found: BestOfN) -> tuple[str, Table]:
    title = (
        f"Best of {found.responses:.3g} on {found.prompts} prompts of {found.data}, judged by {found.judge}, "
        f"in {found.unit}"
    )
    rows = [
        ("highest reward", interval(found.best)),
        ("first response", interval(found.first)),
        ("at random", interval(found.random)),
        ("the judge's own choice", interval(found.most)),
        ("highest reward less first", interval(found.over_first, "+")),
        ("highest reward less random", interval(found.over_random, "+")),
        ("highest reward above first", interval(found.win_rate)),
        ("prompts left out", _refused(found.refused)),
    ]
    return title, (("", "judge's mean score"), list(rows))


def interval(value: Accuracy | Gain | Mean | None, sign: str = "") -> str:
    """A figure with its interval."""
    return DASH if value is None else f"{value.value:{sign}.3f} [{value.low:{sign}.3f}, {value.high:{sign}.3f}]"


def _figure(value: float | None) -> str:
    return DASH if value is None else f"{value:.3f}"


def _refused(refused: dict[str, int]) -> str:
    return ", ".join(f"{count} {code}" for code, count in sorted(refused.items())) or "0"
