"""Loss curves as a picture."""

from collections.abc import Sequence
from pathlib import Path

from matplotlib import rc_context
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from app.schemas.alignment import StageFigures
from workers.directions.page import COLOURS, DRAWING, STYLE

_SMOOTHED = 20


def draw(stages: Sequence[StageFigures], path: Path) -> None:
    """Write a picture in the format of the path's suffix: a panel for each stage that was trained.

    A thin line is every step's loss, the other its mean over a twentieth of the steps.

    Raises:
        OSError: it cannot be written.
    """
    trained = [stage for stage in stages if stage.losses]
    with DRAWING, rc_context(STYLE):
        figure = Figure(figsize=(1.2 + 4.4 * len(trained), 3.4), layout="constrained")
        for axes, stage in zip(figure.subplots(1, len(trained), squeeze=False)[0], trained, strict=True):
            steps = range(1, len(stage.losses) + 1)
            axes.plot(steps, stage.losses, color=COLOURS[0], linewidth=0.8, alpha=0.4)
            axes.plot(steps, _smooth(stage.losses), color=COLOURS[0], linewidth=1.6)
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
            axes.set_xlabel(f"step, {stage.name}")
            axes.set_ylabel(stage.unit or "loss")
        figure.savefig(path, dpi=144)


def _smooth(losses: Sequence[float]) -> list[float]:
    """Mean of each loss and those before it, over a twentieth of all."""
    width = max(1, len(losses) // _SMOOTHED)
    return [sum(losses[max(0, i + 1 - width) : i + 1]) / min(i + 1, width) for i in range(len(losses))]
