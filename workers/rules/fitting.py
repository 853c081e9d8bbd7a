"""The mathematics of probes: few labels a rule, many rules, one space.

Every rule's read-out is w_r = √a·w₀ + √c·w_category + u_r with independent normal priors on the parts: what all rules
have in common (better against worse), what a category's have, and the rule's own. Ridge regression of the targets on
rows centred between the two sides of their rule is then one kernel regression whose kernel is the inner product of two
rows times (a + c·[same category] + [same rule]). Rows are whitened first by their pooled covariance, shrunk: linear
discriminant analysis with one covariance shared by all rules.

Everything happens in the [N, N] Gram matrix of the items; a read-out is [N] coefficients of them.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from workers.rules.labels import Labels, balanced

MOST_SHARED = 4096
"""Labels above which rules have enough of their own, and are fitted each for itself."""


@dataclass(frozen=True)
class Prior:
    """How read-outs are held back.

    Attributes:
        penalty: λ of the ridge; the mean squared length of a row is 1.
        common: a, variance of what all rules have in common relative to a rule's own part.
        category: c, the same of what the rules of one category have in common.
        whitening: what is added to the eigenvalues of the rows' covariance, relative to their sum; None whitens not.
    """

    penalty: float
    common: float = 0.0
    category: float = 0.0
    whitening: float | None = None

    @property
    def shares(self) -> bool:
        """Whether rules learn from each other."""
        return bool(self.common or self.category)


SHARING = tuple(Prior(penalty, 0.3, 0.3, 1.5e-3) for penalty in (0.1, 0.3, 1.0, 3.0))
ALONE = tuple(Prior(penalty) for penalty in (0.3, 0.6, 1.0, 3.0, 10.0))


@dataclass(frozen=True)
class ReadOuts:
    """R read-outs as combinations of items.

    Attributes:
        coefficients: [R, N] of the items' rows.
        midpoints: [R] score halfway between the two sides.
    """

    coefficients: Tensor
    midpoints: Tensor

    def scores(self, gram: Tensor) -> Tensor:
        """[N, R] of the items."""
        return gram @ self.coefficients.T - self.midpoints


@dataclass(frozen=True)
class Space:
    """Items in the coordinates that read-outs see: centred, over their root mean square, and over √D.

    Attributes:
        rows: [N, D] float32.
        mean, scale: [D] float64; a coordinate is (x − mean) / scale.
        gram: [N, N] float64.
    """

    rows: Tensor
    mean: Tensor
    scale: Tensor
    gram: Tensor

    @classmethod
    def of(cls, activations: Tensor) -> "Space":
        """Of [N, S, d] activations."""
        flat = activations.flatten(1).double()
        mean = flat.mean(dim=0)
        scale = (flat - mean).square().mean(dim=0).sqrt()
        scale[scale == 0] = 1.0
        scale = scale * flat.shape[1] ** 0.5
        rows = (flat - mean) / scale
        return cls(rows.float(), mean, scale, rows @ rows.T)

    def vectors(self, read_outs: ReadOuts) -> tuple[Tensor, Tensor]:
        """Read-outs [R, D] in units of activations, and the constants [R] to subtract."""
        vectors = (read_outs.coefficients @ self.rows.double()) / self.scale
        return vectors, read_outs.midpoints + vectors @ self.mean


def fit(gram: Tensor, labels: Labels, used: Tensor, prior: Prior) -> ReadOuts:
    """Read-outs of every rule that has labels enough among those that a [m] mask chooses; zero for the others."""
    if prior.shares:
        return _fit_together(gram, labels, used, prior)
    coefficients, midpoints = torch.zeros(labels.count, len(gram), dtype=torch.double), []
    for rule in range(labels.count):
        own = _fit_together(gram, labels.of(rule), used[labels.rules == rule], prior)
        coefficients[rule] = own.coefficients[0]
        midpoints.append(own.midpoints)
    return ReadOuts(coefficients, torch.cat(midpoints))


def held_out(gram: Tensor, labels: Labels, fold: Tensor, prior: Prior) -> Tensor:
    """[m] score of each label's item by its rule's read-out, fitted without any item of its fold."""
    scores = torch.zeros(len(labels), dtype=torch.double)
    mine = fold[labels.items]
    for number in range(int(fold.max()) + 1):
        out = mine == number
        read = fit(gram, labels, ~out, prior).scores(gram)
        scores[out] = read[labels.items[out], labels.rules[out]]
    return scores


def _fit_together(gram: Tensor, labels: Labels, used: Tensor, prior: Prior) -> ReadOuts:
    items, rules, targets = labels.items[used], labels.rules[used], labels.targets[used]
    count, size = labels.count, len(gram)
    keeps, breaks = balanced(targets, rules, count)
    two_sided = _two_sided(keeps, breaks, rules, count)
    if not two_sided.any():
        return ReadOuts(torch.zeros(count, size, dtype=torch.double), torch.zeros(count, dtype=torch.double))
    real = two_sided[rules]
    items, rules, targets, share = items[real], rules[real], targets[real], ((keeps + breaks) / 2)[real]
    centres = torch.zeros(count, size, dtype=torch.double).index_put_((rules, items), share, accumulate=True)
    rows = gram[items] - (centres @ gram)[rules]
    inner = rows[:, items] - (rows @ centres.T)[:, rules]
    metric = torch.eye(len(items), dtype=torch.double)
    if prior.whitening is not None:
        added = prior.whitening * inner.diagonal().mean()
        metric = torch.linalg.inv(inner / len(items) + added * metric)
    kernel = inner @ metric
    length = kernel.diagonal().mean().clamp(min=1e-12)
    kinship = prior.common + prior.category * (labels.categories[:, None] == labels.categories).double()
    kinship += torch.eye(count, dtype=torch.double)
    weights = share * torch.bincount(rules, minlength=count)[rules]
    system = kernel / length * kinship[rules][:, rules] + torch.diag(prior.penalty / weights.clamp(min=1e-6))
    solution = torch.linalg.solve(system, targets)
    parts = (kinship[:, rules] * solution) @ metric / length
    parts *= two_sided[:, None]
    coefficients = torch.zeros(count, size, dtype=torch.double).index_add_(1, items, parts)
    coefficients -= torch.zeros(count, count, dtype=torch.double).index_add_(1, rules, parts) @ centres
    return ReadOuts(coefficients, ((coefficients @ gram) * centres).sum(dim=1))


def _two_sided(keeps: Tensor, breaks: Tensor, rules: Tensor, count: int) -> Tensor:
    """[R] whether a rule has anything on both sides."""
    sums = [torch.zeros(count, dtype=torch.double).index_add_(0, rules, side) for side in (keeps, breaks)]
    return torch.minimum(*sums) > 0.5


def fit_relevance(gram: Tensor, relevance: Tensor, used: Tensor, penalty: float) -> ReadOuts:
    """Read-outs of [N, R] relevance from the items that a [N] mask chooses: ridge regression, one against the rest."""
    inner = gram[used][:, used]
    targets = relevance[used]
    mean = targets.mean(dim=0)
    system = inner + penalty * torch.eye(len(inner), dtype=torch.double)
    coefficients = torch.zeros(relevance.shape[1], len(gram), dtype=torch.double)
    coefficients[:, used] = torch.linalg.solve(system, targets - mean).T
    return ReadOuts(coefficients, -mean)


def held_out_relevance(gram: Tensor, relevance: Tensor, fold: Tensor, penalty: float) -> Tensor:
    """[N, R] score of each item by read-outs fitted without any item of its fold."""
    scores = torch.zeros_like(relevance)
    for number in range(int(fold.max()) + 1):
        out = fold == number
        scores[out] = fit_relevance(gram, relevance, ~out, penalty).scores(gram)[out]
    return scores


def priors_for(labels: Labels) -> Sequence[Prior]:
    """What to try: rules that learn from each other where each has few labels."""
    return (*SHARING, *ALONE[1:4]) if len(labels) <= MOST_SHARED and labels.count > 1 else ALONE
