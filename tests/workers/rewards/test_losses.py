"""The loss of a pair and of a batch, computed by hand for every way of using margins."""

import math
from typing import Any

import pytest
import torch

from app.schemas.pairs import Pair
from app.schemas.rewards import MarginSettings
from workers.rewards.annotated import Annotated
from workers.rewards.lessons import lessons
from workers.rewards.losses import off_centre, pair_losses

REWARDS = {"good": 1.5, "fair": 0.5, "poor": -1.0}
ROWS = [("good", "poor", 2.0, 3), ("fair", "good", -0.75, 0), ("poor", "fair", -3.0, 0), ("good", "fair", 0.0, 1)]
"""Chosen, rejected, margin and level: the second and third conflict."""


def softplus(x: float) -> float:
    return math.log1p(math.exp(x))


def batch_loss(**settings: Any) -> float:
    """Mean loss of `ROWS` under a model that gives `REWARDS`."""
    pairs = [
        Annotated(line, Pair(prompt="?", chosen=chosen, rejected=rejected), margin, level)
        for line, (chosen, rejected, margin, level) in enumerate(ROWS, start=1)
    ]
    learnt, _ = lessons(pairs, MarginSettings.model_validate(settings))
    chosen, rejected, margins, weights = (
        torch.tensor(column)
        for column in (
            [REWARDS[one.preferred] for one in learnt],
            [REWARDS[one.other] for one in learnt],
            [one.margin for one in learnt],
            [one.weight for one in learnt],
        )
    )
    return float(pair_losses(chosen - rejected, margins, weights, settings.get("label_smoothing", 0.0)).mean())


# Differences of the four pairs as they are labelled: 2.5, -1, -1.5, 1.
@pytest.mark.parametrize(
    ("settings", "losses"),
    [
        ({"margin": "none"}, [softplus(-2.5), softplus(1), softplus(1.5), softplus(-1)]),
        ({}, [softplus(2 - 2.5), softplus(-0.75 + 1), softplus(-3 + 1.5), softplus(-1)]),
        ({"margin_scale": 0.5}, [softplus(1 - 2.5), softplus(-0.375 + 1), softplus(-1.5 + 1.5), softplus(-1)]),
        ({"margin_clip": 1}, [softplus(1 - 2.5), softplus(-0.75 + 1), softplus(-1 + 1.5), softplus(-1)]),
        (
            {"margin_scale": 2, "margin_clip": 3},  # scaled before it is cut
            [softplus(3 - 2.5), softplus(-1.5 + 1), softplus(-3 + 1.5), softplus(-1)],
        ),
        ({"margin": "level"}, [softplus(1 - 2.5), softplus(1), softplus(1.5), softplus(1 / 3 - 1)]),
        ({"conflicts": "drop"}, [softplus(2 - 2.5), softplus(-1)]),
        ({"conflicts": "flip"}, [softplus(2 - 2.5), softplus(0.75 - 1), softplus(3 - 1.5), softplus(-1)]),
        ({"conflicts": "flip", "margin": "none"}, [softplus(-2.5), softplus(-1), softplus(-1.5), softplus(-1)]),
        (
            {"conflicts": "flip", "margin": "level"},
            [softplus(1 - 2.5), softplus(-1), softplus(-1.5), softplus(1 / 3 - 1)],
        ),
        ({"conflicts": "down-weight"}, [softplus(2 - 2.5), 0.5 * softplus(1), 0.5 * softplus(1.5), softplus(-1)]),
        ({"conflicts": "down-weight", "conflict_weight": 0}, [softplus(2 - 2.5), 0, 0, softplus(-1)]),
        (
            {"label_smoothing": 0.1},
            [
                0.9 * softplus(2 - 2.5) + 0.1 * softplus(2.5 - 2),
                0.9 * softplus(-0.75 + 1) + 0.1 * softplus(-1 + 0.75),
                0.9 * softplus(-3 + 1.5) + 0.1 * softplus(-1.5 + 3),
                0.9 * softplus(-1) + 0.1 * softplus(1),
            ],
        ),
    ],
)
def test_a_batch_costs_what_the_formula_says(settings: dict[str, Any], losses: list[float]) -> None:
    assert batch_loss(**settings) == pytest.approx(sum(losses) / len(losses), abs=1e-6)


def test_a_smoothed_pair_costs_least_where_the_documentation_says() -> None:
    gaps = torch.linspace(-2, 8, 10_001, dtype=torch.double)
    losses = pair_losses(gaps, torch.tensor(1.5, dtype=torch.double), torch.tensor(1.0), 0.2)
    assert float(gaps[losses.argmin()]) == pytest.approx(1.5 + math.log(0.8 / 0.2), abs=1e-3)


def test_centring_adds_the_square_of_the_sum() -> None:
    assert off_centre(torch.tensor([1.5, 2.0]), torch.tensor([-1.5, 1.0])).tolist() == [0.0, 9.0]
