"""What is measured of rewards: nothing here knows a model. Gaps are r_chosen − r_rejected."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import softplus

from app.schemas.directions import Accuracy
from app.schemas.evaluation import Gain
from app.schemas.rewardreport import LengthFigures, Mean, QuantileFigure, SectionFigure, SubsetFigure
from app.schemas.rewards import HeldOut
from workers.directions.evaluation import (
    accuracy,
    calibration_error,
    central,
    correlation,
    interval,
    level_edges,
    resampled_means,
    right,
)
from workers.rewards.rewardbench import SECTIONS

QUANTILES = 5
_LEVELS = 4


def loss_of(gaps: Tensor) -> float:
    """Mean of −log σ over [n] gaps."""
    return float(softplus(-gaps).mean())


def held_out_figures(step: int, gaps: Tensor, families: Tensor) -> HeldOut:
    """How [n] gaps read the pairs of these families after some step."""
    return HeldOut(
        step=step,
        loss=loss_of(gaps),
        accuracy=accuracy(gaps, families),
        calibration_error=calibration_error(gaps),
        level_edges=level_edges(gaps, _LEVELS),
    )


def by_quantile(values: Tensor, gaps: Tensor, families: Tensor, count: int = QUANTILES) -> list[QuantileFigure]:
    """Accuracy of [n] gaps between quantiles of [n] values; equal values are never parted, so that parts may be fewer.

    Args:
        values: what the pairs are ordered by.
        gaps, families: of the pairs.
        count: parts of about equal size.
    """
    shares = torch.arange(1, count, dtype=torch.double) / count
    places = torch.searchsorted(torch.quantile(values.double(), shares).contiguous(), values.double(), right=True)
    figures = []
    for place in torch.unique(places).tolist():
        inside = places == place
        own = values[inside]
        figures.append(
            QuantileFigure(
                low=float(own.min()), high=float(own.max()), accuracy=accuracy(gaps[inside], families[inside])
            )
        )
    return figures


def length_figures(gaps: Tensor, longer: Tensor, families: Tensor) -> LengthFigures:
    """Whether [n] gaps go by length.

    Args:
        gaps, families: of the pairs.
        longer: [n] by how many tokens the chosen response is longer.
    """
    return LengthFigures(
        correlation=correlation(gaps, longer),
        chosen_shorter=_of(gaps, families, longer < 0),
        chosen_longer=_of(gaps, families, longer > 0),
    )


def _of(gaps: Tensor, families: Tensor, inside: Tensor) -> Accuracy | None:
    return accuracy(gaps[inside], families[inside]) if bool(inside.any()) else None


def subset_figures(gaps: Tensor, families: Tensor, subsets: Sequence[str | None]) -> list[SubsetFigure]:
    """Accuracy of the pairs of every subset, in the order in which they come; pairs of none are left out."""
    return [
        SubsetFigure(subset=name, accuracy=accuracy(gaps[inside], families[inside]))
        for name, inside in _inside(subsets).items()
    ]


def section_figures(gaps: Tensor, families: Tensor, subsets: Sequence[str | None]) -> list[SectionFigure]:
    """The sections of RewardBench of which there are pairs."""
    inside = _inside(subsets)
    figures = []
    for section, weights in SECTIONS.items():
        here = [name for name in weights if name in inside]
        if not here:
            continue
        shares = torch.tensor([weights[name] for name in here], dtype=torch.double)
        shares /= shares.sum()
        hits = [right(gaps[inside[name]]) for name in here]
        value = float(shares @ torch.stack([own.mean() for own in hits]))
        means = [
            resampled_means(own, families[inside[name]], seed)
            for seed, (name, own) in enumerate(zip(here, hits, strict=True))
        ]
        low, high = central(shares @ torch.stack(means))
        figures.append(
            SectionFigure(
                section=section,
                accuracy=Gain(value=value, low=low, high=high),
                subsets=here,
                missing=[name for name in weights if name not in here],
            )
        )
    return figures


def _inside(subsets: Sequence[str | None]) -> dict[str, Tensor]:
    """[n] whether each pair is in a subset, by subset."""
    names = dict.fromkeys(name for name in subsets if name is not None)
    return {name: torch.tensor([own == name for own in subsets]) for name in names}


def mean_of(values: Tensor, families: Tensor) -> Mean:
    """Mean of [n] values with its interval."""
    low, high, _ = interval(values, families)
    return Mean(value=float(values.mean()), low=low, high=high)


def gain_of(values: Tensor, baseline: Tensor, families: Tensor) -> Gain:
    """Mean of [n] values less others of the same prompts."""
    return Gain(**mean_of(values - baseline, families).model_dump())
