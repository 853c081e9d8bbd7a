"""How well margins read labels: accuracy with clustered intervals, calibration, cross-validation folds."""

import torch
from torch import Tensor

from app.schemas.directions import Accuracy
from app.schemas.evaluation import Gain

_RESAMPLES, _AT_ONCE = 2000, 100
_SEED = 20240612


def accuracy(margins: Tensor, families: Tensor) -> Accuracy:
    """Share of [n] margins above zero, a tie counting half, with a 95 % bootstrap interval that resamples families."""
    hits = right(margins)
    low, high, count = interval(hits, families)
    return Accuracy(value=float(hits.mean()), low=low, high=high, pairs=len(margins), prompts=count)


def gain(margins: Tensor, baseline: Tensor, families: Tensor) -> Gain:
    """Accuracy of [n] margins less that of other margins of the same pairs, with an interval as of `accuracy`."""
    more = right(margins) - right(baseline)
    low, high, _ = interval(more, families)
    return Gain(value=float(more.mean()), low=low, high=high)


def interval(values: Tensor, families: Tensor) -> tuple[float, float, int]:
    """Where the mean of [n] values lies with 95 % by a bootstrap that resamples families, and how many these are."""
    low, high = central(resampled_means(values, families))
    return low, high, len(torch.unique(families))


def resampled_means(values: Tensor, families: Tensor, seed: int = _SEED) -> Tensor:
    """[B] means of [n] values in as many bootstrap samples, each of which draws as many families as there are."""
    _, inverse = torch.unique(families, return_inverse=True)
    count = int(inverse.max()) + 1
    sums = torch.zeros(count, dtype=torch.double).index_add_(0, inverse, values)
    sizes = torch.zeros(count, dtype=torch.double).index_add_(0, inverse, torch.ones_like(values))
    source = torch.Generator().manual_seed(seed)
    means = []
    for _ in range(0, _RESAMPLES, _AT_ONCE):
        draws = torch.randint(count, (_AT_ONCE, count), generator=source)
        means.append(sums[draws].sum(dim=1) / sizes[draws].sum(dim=1))
    return torch.cat(means)


def central(means: Tensor) -> tuple[float, float]:
    """Between which two values the middle 95 % of bootstrap means lie."""
    low, high = torch.quantile(means, torch.tensor([0.025, 0.975], dtype=torch.double)).tolist()
    return low, high


def right(margins: Tensor) -> Tensor:
    """[n] 1 for a margin above zero, 0 below, one half for a tie."""
    return (margins > 0).double() + 0.5 * (margins == 0).double()


def platt_slope(margins: Tensor, weights: Tensor | None = None) -> float | None:
    """Log-odds per unit of raw margin that fit [n] held-out margins best; None if they carry no signal.

    Platt scaling without an intercept: swapping chosen and rejected must change the sign and nothing else.
    """
    scale = float(margins.double().square().mean().sqrt())
    if scale == 0:
        return None
    x = margins.double() / scale
    w = torch.ones_like(x) if weights is None else weights.double() / weights.double().mean()
    slope = torch.zeros((), dtype=torch.double)
    for _ in range(50):
        p = torch.sigmoid(slope * x)
        gradient = (w * (1 - p) * x).sum() - 1e-3 * slope
        curvature = (w * p * (1 - p) * x.square()).sum() + 1e-3
        slope = slope + (gradient / curvature).clamp(-1, 1)
    return float(slope) / scale if slope > 0 else None


def calibration_error(log_odds: Tensor, bins: int = 10) -> float:
    """Expected calibration error of [n] log-odds of pairs whose first response is the safer one.

    Confidence is the probability of the side that the margin prefers, truth whether it prefers the right one (a tie is
    half right); the bins divide confidences from one half to one into equal parts.
    """
    confidence = torch.sigmoid(log_odds.double().abs())
    truth = (log_odds > 0).double() + 0.5 * (log_odds == 0).double()
    place = ((confidence - 0.5) * 2 * bins).long().clamp(max=bins - 1)
    gaps = torch.zeros(bins, dtype=torch.double).index_add_(0, place, confidence - truth)
    return float(gaps.abs().sum()) / len(log_odds)


def folds(families: Tensor, count: int = 5, seed: int = 0) -> Tensor:
    """[n] fold of each pair; all pairs of a family are in one fold."""
    _, inverse = torch.unique(families, return_inverse=True)
    order = torch.randperm(int(inverse.max()) + 1, generator=torch.Generator().manual_seed(seed))
    return order[inverse] % count


def likelihoods(margins: Tensor, weights: Tensor) -> Tensor:
    """[n] weighted log-likelihoods of held-out margins at their best scale, weights relative to their mean."""
    slope = platt_slope(margins, weights) or 0.0
    relative: Tensor = weights.double() / weights.double().mean()
    return -relative * torch.nn.functional.softplus(-slope * margins.double())


def quality(margins: Tensor, weights: Tensor) -> float:
    """Weighted mean log-likelihood of [n] held-out margins at their best scale."""
    return float(likelihoods(margins, weights).mean())


def auroc(margins: Tensor) -> float:
    """Chance that a margin exceeds that of another pair with its sides swapped, ties counting half."""
    ranked = torch.cat([margins.double(), -margins.double()])
    _, inverse, counts = torch.unique(ranked, return_inverse=True, return_counts=True)
    below = counts.cumsum(0) - counts
    ranks = (below + (counts + 1) / 2)[inverse[: len(margins)]]
    n = len(margins)
    return float((ranks.sum() - n * (n + 1) / 2) / n**2)


def correlation(a: Tensor, b: Tensor) -> float | None:
    """Pearson's r of two [n] series; None if one of them never changes."""
    x, y = a.double() - a.double().mean(), b.double() - b.double().mean()
    scale = float(x.norm() * y.norm())
    return float(x @ y) / scale if scale > 0 else None


def level_edges(log_odds: Tensor, levels: int) -> list[float]:
    """Quantiles that cut [n] held-out margins into `levels` parts of equal size."""
    shares = torch.arange(1, levels, dtype=torch.double) / levels
    return [float(edge) for edge in torch.quantile(log_odds.double(), shares)]
