"""A reward model's report as pictures."""

from pathlib import Path

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from app.schemas.rewardreport import PairFigures, RewardReport
from workers.directions.page import COLOURS, DRAWING, GREY, STYLE, draw_reliability


def draw(report: RewardReport, folder: Path) -> list[Path]:
    """Write two pictures for each set of pairs: a reliability diagram, and accuracy by quantile.

    Raises:
        OSError: they cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    made = []
    for figures in report.sets:
        stem = figures.data.split(".")[0]
        for name, fill in (("reliability", _reliability), ("quantiles", _quantiles)):
            path = folder / f"{stem}-{name}.png"
            with DRAWING, rc_context(STYLE):
                picture = Figure(figsize=(4.8, 3.6), layout="constrained")
                axes = picture.subplots()
                fill(axes, figures)
                axes.set_title(f"{report.model} on {figures.data}", fontsize="medium")
                picture.savefig(path, dpi=144)
            made.append(path)
    return made


def _reliability(axes: Axes, figures: PairFigures) -> None:
    draw_reliability(axes, figures.reliability)


def _quantiles(axes: Axes, figures: PairFigures) -> None:
    places = range(len(figures.quantiles))
    values = [part.accuracy for part in figures.quantiles]
    spread = [[one.value - one.low for one in values], [one.high - one.value for one in values]]
    axes.errorbar(
        list(places),
        [one.value for one in values],
        yerr=[[max(0.0, length) for length in side] for side in spread],
        color=COLOURS[0],
        marker="o",
        capsize=3,
    )
    axes.axhline(0.5, color=GREY, linewidth=1, linestyle="--")
    axes.set_xticks(list(places), [f"{part.low:.2f}\n{part.high:.2f}" for part in figures.quantiles])
    axes.set_xlabel(f"{figures.quantiles_of}, from … to …")
    axes.set_ylabel("pair accuracy")
