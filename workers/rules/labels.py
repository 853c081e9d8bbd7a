"""Labels that probes are fitted to, and how they are split, balanced and read."""

from dataclasses import dataclass

import torch
from torch import Tensor

from app.schemas.rulebanks import Auc

MIN_SIDE = 4
"""Fewest labels on either side of a rule that is fitted."""

_RESAMPLES = 2000
_SEED = 0


@dataclass(frozen=True)
class Labels:
    """m labels of N items by R rules.

    Attributes:
        items: [m] which item a label is of.
        rules: [m] which rule it is by.
        targets: [m] float64 in [−1, 1]: 1 keeps the rule, −1 breaks it.
        families: [N] items of one family are on one side of every split.
        relevance: [N, R] float64 in [−1, 1]: 1 where a rule matters, −1 where it does not, 0 where nobody knows.
        categories: [R] which category a rule is of.
    """

    items: Tensor
    rules: Tensor
    targets: Tensor
    families: Tensor
    relevance: Tensor
    categories: Tensor

    def __len__(self) -> int:
        return len(self.items)

    @property
    def count(self) -> int:
        """R."""
        return len(self.categories)

    def of(self, rule: int) -> "Labels":
        """The labels by one rule, as if it were the only one."""
        mine = self.rules == rule
        return Labels(
            self.items[mine],
            torch.zeros_like(self.rules[mine]),
            self.targets[mine],
            self.families,
            self.relevance[:, [rule]],
            self.categories[[rule]],
        )

    def fitted(self) -> Tensor:
        """[R] whether a rule has labels enough on both sides."""
        sides = [
            torch.bincount(self.rules[side], minlength=self.count) for side in (self.targets > 0, self.targets < 0)
        ]
        return torch.minimum(*sides) >= MIN_SIDE


def balanced(targets: Tensor, groups: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """How much [m] targets in [−1, 1] count, so that in each of `count` groups both sides count alike.

    Returns:
        Shares [m] of the keeping and [m] of the breaking side, each of them one in sum over a group that has that side.
    """
    sides = []
    for part in ((1 + targets) / 2, (1 - targets) / 2):
        totals = torch.zeros(count, dtype=part.dtype).index_add_(0, groups, part)
        sides.append(part / totals[groups].clamp(min=1e-12))
    return sides[0], sides[1]


def folds(labels: Labels, count: int) -> Tensor:
    """[N] fold of each item, families together and both sides of every rule spread as evenly as they can be."""
    _, family = torch.unique(labels.families, return_inverse=True)
    number = int(family.max()) + 1
    column = 2 * labels.rules + (labels.targets > 0)
    members: list[list[int]] = [[] for _ in range(number)]
    for owner, place in zip(family[labels.items].tolist(), column.tolist(), strict=True):
        members[owner].append(place)
    chance = torch.randperm(number, generator=torch.Generator().manual_seed(_SEED)).tolist()
    filled = torch.zeros(count, 2 * labels.count)
    fold = torch.zeros(number, dtype=torch.long)
    for owner in sorted(chance, key=lambda owner: -len(members[owner])):
        cost = filled[:, members[owner]].sum(dim=1) + 1e-4 * filled.sum(dim=1)
        fold[owner] = best = int(cost.argmin())
        filled[best].index_add_(0, torch.tensor(members[owner], dtype=torch.long), torch.ones(len(members[owner])))
    return fold[family]


def auc(scores: Tensor, sides: Tensor, families: Tensor) -> Auc | None:
    """Chance that a [n] score of side 1 exceeds one of side −1, ties counting half, with a 95 % bootstrap interval.

    The bootstrap resamples families. None where a side has fewer than `MIN_SIDE`.
    """
    high, low = sides > 0, sides < 0
    if min(int(high.sum()), int(low.sum())) < MIN_SIDE:
        return None
    _, family = torch.unique(families, return_inverse=True)
    count = int(family.max()) + 1
    wins = _wins(scores[high], scores[low])
    source = torch.Generator().manual_seed(_SEED)
    draws = torch.randint(count, (_RESAMPLES, count), generator=source)
    times = torch.zeros(_RESAMPLES, count, dtype=torch.double).scatter_add_(1, draws, torch.ones_like(draws).double())
    a, b = times[:, family[high]], times[:, family[low]]
    pairs = a.sum(dim=1) * b.sum(dim=1)
    found = (((a @ wins) * b).sum(dim=1) / pairs)[pairs > 0]
    interval = torch.quantile(found, torch.tensor([0.025, 0.975], dtype=torch.double)).tolist()
    return Auc(value=float(wins.mean()), low=interval[0], high=interval[1], above=int(high.sum()), below=int(low.sum()))


def mean_area(scores: Tensor, sides: Tensor) -> float:
    """Mean of what `auc` gives over the R columns of [n, R] scores and sides that have both sides; 0 if none has."""
    areas = [
        float(_wins(column[side > 0], column[side < 0]).mean())
        for column, side in zip(scores.T, sides.T, strict=True)
        if min(int((side > 0).sum()), int((side < 0).sum())) >= MIN_SIDE
    ]
    return sum(areas) / max(1, len(areas))


def _wins(high: Tensor, low: Tensor) -> Tensor:
    """[a, b] 1 where a score of the upper side exceeds one of the lower, ½ where they are equal."""
    above = high[:, None] - low[None]
    return (above > 0).double() + 0.5 * (above == 0).double()


@dataclass(frozen=True)
class Calibration:
    """Log-odds from raw scores: `slopes` [R] times the score plus `offsets` [R]."""

    slopes: Tensor
    offsets: Tensor


def calibrate(raw: Tensor, targets: Tensor, rules: Tensor, count: int) -> Calibration:
    """Platt scaling of [m] held-out scores for each of `count` rules, both sides of a rule counting alike.

    A rule of few labels leans on the others: its slope has a normal prior about the slope of all of them, half as wide
    as that is, and its offset a standard one.
    """
    keeps, breaks = balanced(targets, rules, count)
    sizes = torch.bincount(rules, minlength=count).double()[rules]
    weights = torch.stack([keeps, breaks]) * sizes / 2
    everywhere = torch.zeros_like(rules)
    common, _ = _platt(raw, weights, everywhere, 1, torch.zeros(1).double(), torch.full((1,), 1e-6).double())
    prior = common.clamp(min=1e-3).expand(count)
    slopes, offsets = _platt(raw, weights, rules, count, prior, 4 / prior.square())
    return Calibration(torch.maximum(slopes, prior / 20), offsets)


def _platt(
    raw: Tensor, weights: Tensor, groups: Tensor, count: int, prior: Tensor, precision: Tensor
) -> tuple[Tensor, Tensor]:
    """[count] slopes and offsets by Newton's method, all groups at once; `weights` [2, m] of either side."""
    slope, offset = prior.clone(), torch.zeros(count, dtype=torch.double)

    def total(values: Tensor) -> Tensor:
        return torch.zeros(count, dtype=torch.double).index_add_(0, groups, values)

    weight = weights.sum(dim=0)
    for _ in range(40):
        p = torch.sigmoid(slope[groups] * raw + offset[groups])
        pull, bend = weights[0] - weight * p, weight * p * (1 - p)
        gradient = torch.stack([total(pull * raw) - precision * (slope - prior), total(pull) - offset], dim=1)
        cross = total(bend * raw)
        rows = torch.stack([total(bend * raw.square()) + precision, cross, cross, total(bend) + 1.0], dim=1)
        step = torch.linalg.solve(rows.view(count, 2, 2), gradient[:, :, None])[:, :, 0]
        step = step * (1 / (step.norm(dim=1, keepdim=True) / (1 + prior.abs())[:, None]).clamp(min=1))
        slope, offset = slope + step[:, 0], offset + step[:, 1]
    return slope, offset
