"""Loss curves of a training as a picture."""

from pathlib import Path

from matplotlib import rc_context
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from app.schemas.rewards import RewardCurves
from workers.directions.page import COLOURS, DRAWING, STYLE

_SMOOTHED = 20


def draw(curves: RewardCurves, path: Path) -> None:
    """Write a picture in the format of the path's suffix: the loss with margins, and how the held-out pairs are read.

    A thin line is every step's loss, the thick one its mean over a twentieth of the steps.

    Raises:
        OSError: it cannot be written.
    """
    losses = [step.loss for step in curves.steps]
    places = [step.step for step in curves.steps]
    with DRAWING, rc_context(STYLE):
        figure = Figure(figsize=(5.6 + 4.4 * bool(curves.held_out), 3.4), layout="constrained")
        left, *right = figure.subplots(1, 1 + bool(curves.held_out), squeeze=False)[0]
        left.plot(places, losses, color=COLOURS[0], linewidth=0.8, alpha=0.4)
        left.plot(places, _smooth(losses), color=COLOURS[0], linewidth=1.6)
        left.set_ylabel("loss, with margins")
        for axes in right:
            steps = [one.step for one in curves.held_out]
            axes.plot(steps, [one.accuracy.value for one in curves.held_out], color=COLOURS[2], marker="o")
            low, high = ([getattr(one.accuracy, side) for one in curves.held_out] for side in ("low", "high"))
            axes.fill_between(steps, low, high, color=COLOURS[2], alpha=0.15, linewidth=0)
            axes.set_ylabel("accuracy on held-out prompts")
        for axes in (left, *right):
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
            axes.set_xlabel("step")
        figure.savefig(path, dpi=144)


def _smooth(losses: list[float]) -> list[float]:
    """Mean of each loss and those before it, over a twentieth of all."""
    width = max(1, len(losses) // _SMOOTHED)
    return [sum(losses[max(0, i + 1 - width) : i + 1]) / min(i + 1, width) for i in range(len(losses))]
