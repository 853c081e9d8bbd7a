"""Accuracy of every policy against k, as a picture."""

from collections.abc import Sequence
from pathlib import Path

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from app.schemas.evaluation import PolicyFigure, PolicyReport
from app.schemas.judging import RaterName
from workers.directions.page import COLOURS, GREY, MARKERS, STYLE

FORMATS = (".png", ".svg", ".pdf")

_COLOURS = (*COLOURS, "#8c6d46")
_MARKERS = (*MARKERS, "P")


def draw(report: PolicyReport, path: Path) -> None:
    """Write a picture in the format of the path's suffix, one of `FORMATS`: a panel for each rater.

    Raises:
        OSError: it cannot be written.
    """
    raters: list[RaterName] = list(dict.fromkeys(figure.rater for figure in report.figures))
    with rc_context(STYLE):
        figure = Figure(figsize=(1.6 + 5.2 * len(raters), 4.0), layout="constrained")
        panels = figure.subplots(1, len(raters), sharey=True, squeeze=False)[0]
        for axes, rater in zip(panels, raters, strict=True):
            _draw_rater(axes, [row for row in report.figures if row.rater == rater], rater)
        panels[0].set_ylabel(f"pair accuracy, {report.data}")
        by_label = {
            label: handle for axes in panels for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)
        }
        figure.legend(list(by_label.values()), list(by_label), loc="outside right upper", frameon=False)
        figure.savefig(path, dpi=144)


def _draw_rater(axes: Axes, rows: Sequence[PolicyFigure], rater: RaterName) -> None:
    """A line a policy, side by side where they share a k; all rules as a band."""
    for row in (row for row in rows if row.policy == "all"):
        axes.axhline(row.accuracy.value, color=GREY, linewidth=1.5, label="all")
        axes.axhspan(row.accuracy.low, row.accuracy.high, color=GREY, alpha=0.12, linewidth=0)
    policies = list(dict.fromkeys(row.policy for row in rows if row.policy != "all"))
    ks = sorted({row.k for row in rows if row.policy != "all"})
    for index, policy in enumerate(policies):
        own = sorted((row for row in rows if row.policy == policy), key=lambda row: row.k)
        x = [ks.index(row.k) + 0.1 * (index - (len(policies) - 1) / 2) for row in own]
        y = [row.accuracy.value for row in own]
        spread = [
            [max(0.0, row.accuracy.value - row.accuracy.low) for row in own],
            [max(0.0, row.accuracy.high - row.accuracy.value) for row in own],
        ]
        colour, marker = _COLOURS[index % len(_COLOURS)], _MARKERS[index % len(_MARKERS)]
        axes.plot(x, y, color=colour, marker=marker, markersize=4.5, linewidth=1.2, label=policy)
        axes.errorbar(x, y, yerr=spread, fmt="none", ecolor=colour, elinewidth=1, capsize=2)
    axes.axhline(0.5, color=GREY, linewidth=1, linestyle="--")
    axes.set_xticks(range(len(ks)), [str(k) for k in ks])
    axes.set_xlabel(f"critical rules k, {rater}")
