"""A direction's report as one page that needs nothing else: no script, no asset, plots as inline SVG."""

import re
from collections.abc import Callable
from io import StringIO
from itertools import pairwise
from pathlib import Path
from threading import Lock
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator
from matplotlib.typing import RcKeyType

from app.schemas.directions import Accuracy
from app.schemas.report import DirectionReport, HistogramBin, ReliabilityBin, SiteReading

DASH = "–"
GREY = "#787878"  # legible on black and on white alike
COLOURS = ("#3f87c9", "#d97a1e", "#2f9e72", "#a866bf", "#c4564f")
MARKERS = "osD^v"
STYLE: dict[RcKeyType, Any] = {
    "svg.fonttype": "none",
    "text.parse_math": False,
    "text.color": GREY,
    "axes.edgecolor": GREY,
    "axes.labelcolor": GREY,
    "xtick.color": GREY,
    "ytick.color": GREY,
    "axes.spines.top": False,
    "axes.spines.right": False,
}

DRAWING = Lock()  # rc_context changes the whole process while it lasts


def page(report: DirectionReport) -> bytes:
    """The report as HTML in UTF-8; the same bytes for the same report."""
    read = {(site.layer, site.pooling) for site in (*report.card.sites, *report.card.prompt_sites)}
    has_margins = any(part.count for part in report.histogram)
    has_reliability = any(part.count for part in report.reliability)
    html = _environment.get_template("report.html.jinja").render(
        report=report,
        card=report.card,
        read=read,
        unit="raw units" if report.card.slope is None else "log-odds",
        levels=_levels(report.card.level_edges),
        conflicts=_share_negative(report.histogram) if has_margins else None,
        sites_plot=_svg("sites", lambda axes: _draw_sites(axes, report.sites, read)) if report.sites else None,
        histogram_plot=_svg("histogram", lambda axes: _draw_histogram(axes, report)) if has_margins else None,
        reliability_plot=_svg("reliability", lambda axes: draw_reliability(axes, report.reliability))
        if has_reliability
        else None,
    )
    return html.encode()


def _fixed(value: float | None) -> str:
    """Three decimals; more where only they tell the value from zero."""
    if value is None:
        return DASH
    return f"{value:.1e}" if 0 < abs(value) < 0.0005 else f"{value:.3f}"


def _interval(accuracy: Accuracy | None) -> str:
    return DASH if accuracy is None else f"{accuracy.value:.3f} [{accuracy.low:.3f}, {accuracy.high:.3f}]"


def _setting(value: str | int | float | bool | None) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return _fixed(value)
    return DASH if value is None else str(value)


def _levels(edges: list[float]) -> list[str]:
    """What each level means, the lowest first."""
    if not edges:
        return []
    inner = [f"from {_fixed(low)} to below {_fixed(high)}" for low, high in pairwise(edges)]
    return [f"below {_fixed(edges[0])}", *inner, f"{_fixed(edges[-1])} and above"]


def _share_negative(bins: list[HistogramBin]) -> str:
    """Share of margins below zero; from least to most where a bin spans zero."""
    total = sum(part.count for part in bins)
    least = sum(part.count for part in bins if part.high <= 0)
    most = sum(part.count for part in bins if part.low < 0)
    return f"{least / total:.3f}" if least == most else f"{least / total:.3f} to {most / total:.3f}"


def _svg(name: str, draw: Callable[[Axes], None]) -> Markup:
    """A plot as the inside of a figure: labelled by the id `{name}-label`, its own ids unique in the page."""
    with DRAWING, rc_context({**STYLE, "svg.hashsalt": name}), StringIO() as file:
        figure = Figure(figsize=(7.2, 3.4), layout="constrained")
        axes = figure.add_subplot()
        draw(axes)
        nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        figure.savefig(file, format="svg", transparent=True, metadata=nothing)
        text = file.getvalue()
    text = re.sub(r'<g id="[^"]*">', "<g>", text[text.index("<svg") :])
    return Markup(text.replace("<svg", f'<svg role="img" aria-labelledby="{name}-label"', 1))


def _draw_sites(axes: Axes, sites: list[SiteReading], read: set[tuple[int, str]]) -> None:
    """Accuracy by layer, a line a pooling, side by side where they share a layer."""
    poolings = list(dict.fromkeys(site.pooling for site in sites))
    lines: list[Line2D] = []
    for index, pooling in enumerate(poolings):
        rows = sorted((site for site in sites if site.pooling == pooling), key=lambda site: site.layer)
        marks = [row.accuracy for row in rows]
        below = [max(0.0, mark.value - mark.low) for mark in marks]
        above = [max(0.0, mark.high - mark.value) for mark in marks]
        x = [row.layer + 0.12 * (index - (len(poolings) - 1) / 2) for row in rows]
        y = [mark.value for mark in marks]
        colour = COLOURS[index % len(COLOURS)]
        lines += axes.plot(x, y, color=colour, marker=MARKERS[index % len(MARKERS)], markersize=4.5, linewidth=1.5)
        axes.errorbar(x, y, yerr=[below, above], fmt="none", ecolor=colour, elinewidth=1, capsize=2)
    axes.axhline(0.5, color=GREY, linewidth=1, linestyle="--")
    for layer in sorted({layer for layer, _ in read} & {site.layer for site in sites}):
        axes.axvline(layer, color=GREY, linewidth=1, linestyle=":", zorder=0)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel("layer")
    axes.set_ylabel("held-out accuracy")
    axes.figure.legend(lines, poolings, loc="outside right upper", frameon=False)


def _draw_histogram(axes: Axes, report: DirectionReport) -> None:
    bins = report.histogram
    colours = [COLOURS[1] if part.high <= 0 else COLOURS[0] for part in bins]
    axes.bar(
        [part.low for part in bins],
        [part.count for part in bins],
        width=[part.high - part.low for part in bins],
        align="edge",
        color=colours,
        edgecolor=colours,
        alpha=0.85,
    )
    axes.axvline(0, color=GREY, linewidth=1.5, linestyle="--")
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel("held-out margin, " + ("raw units" if report.card.slope is None else "log-odds"))
    axes.set_ylabel("pairs")


def draw_reliability(axes: Axes, bins: list[ReliabilityBin]) -> None:
    """Confidence against how often it is right, a dot a bin, its size how many pairs that are."""
    filled = [part for part in bins if part.count]
    largest = max(part.count for part in filled)
    lowest = 0.5 if all(part.confidence >= 0.5 for part in filled) else 0.0
    axes.plot([0, 1], [0, 1], color=GREY, linewidth=1, linestyle="--")
    axes.scatter(
        [part.confidence for part in filled],
        [part.accuracy for part in filled],
        s=[16 + 184 * part.count / largest for part in filled],
        color=COLOURS[0],
        alpha=0.85,
        zorder=2,
    )
    axes.set_xlim(lowest - 0.02, 1.02)
    axes.set_ylim(-0.03, 1.03)
    axes.set_xlabel("confidence")
    axes.set_ylabel("share right")


_environment = Environment(
    loader=FileSystemLoader(Path(__file__).parent),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
_environment.filters.update(fixed=_fixed, interval=_interval, setting=_setting)
