"""How sure margins of pairs are that the model was not taught with: log-odds, levels, and how well they read."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from app.schemas.directions import Reading
from app.schemas.pairs import Pair
from workers.alignment.errors import UnfitData
from workers.directions.evaluation import accuracy, calibration_error, folds, level_edges, platt_slope
from workers.directions.gather import opening

FEWEST = 20
"""Pairs that margins can be calibrated on."""

_LEVELS = 4


@dataclass(frozen=True)
class Calibration:
    """What is known of margins.

    Attributes:
        slope: log-odds a unit; None where the margins carry no signal.
        level_edges: log-odds at which the level goes up by one.
        reading: how well they read the pairs.
    """

    slope: float | None
    level_edges: list[float]
    reading: Reading

    @property
    def on_card(self) -> dict[str, Any]:
        """The same by the names that cards give it."""
        return {
            "slope": self.slope,
            "level_edges": self.level_edges,
            "readings": [self.reading.model_dump()],
            "unreliable": self.reading.accuracy.low <= 0.5,
        }


def calibrate(margins: Tensor, families: Tensor, protocol: str) -> Calibration:
    """What [n] raw margins of chosen over rejected responses say.

    Args:
        margins: raw.
        families: [n] the prompt of each.
        protocol: how the pairs were kept apart from what made the margins.
    """
    slope = platt_slope(margins)
    reading = Reading(
        data="pairs not taught with",
        protocol=protocol,
        accuracy=accuracy(margins, families),
        calibration_error=calibration_error(_held_out(margins, families)) if slope else None,
    )
    return Calibration(slope, level_edges(margins * slope, _LEVELS) if slope else [], reading)


def families_of(pairs: Sequence[Pair]) -> Tensor:
    """[n] a number for the beginning of the conversation of each pair."""
    openings = [opening(pair.messages) for pair in pairs]
    numbers = {text: number for number, text in enumerate(dict.fromkeys(openings))}
    return torch.tensor([numbers[text] for text in openings])


def refuse_too_few(count: int) -> None:
    """Refuse to calibrate on so few pairs.

    Raises:
        UnfitData: they are too few.
    """
    if count < FEWEST:
        raise UnfitData(f"{count} pairs are too few to calibrate on; at least {FEWEST} are needed")


def _held_out(margins: Tensor, families: Tensor) -> Tensor:
    """[n] log-odds of margins by slopes that are fitted on the pairs of other prompts."""
    fold, log_odds = folds(families), torch.zeros_like(margins)
    for part in range(int(fold.max()) + 1):
        inside = fold == part
        log_odds[inside] = margins[inside] * (platt_slope(margins[~inside]) or 0.0)
    return log_odds
