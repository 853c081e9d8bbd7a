"""Which rules are critical for a pair, and how much each of them counts.

P pairs are judged by R rules. A difference Δ is the chosen response's score minus the rejected one's. Every policy is
blind to which side is which: with the sides exchanged it chooses the same rules, and the margin changes its sign.

Sources: "published" is u = relevance + ½|Δ| of Data-adaptive Safety Rules (arXiv 2501.15453); the greedy choice is that
of determinantal point processes (Chen, Zhang, Zhou 2018, arXiv 1709.05135).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from app.schemas.judging import PolicyName

RELEVANT = 0.5
"""Relevance from which a rule counts as relevant to a pair."""

_RIDGE = 1e-3


@dataclass(frozen=True)
class Policy:
    """How the critical rules of a pair are chosen.

    Attributes:
        name: `all` rules; k at `random`; the `fixed` ones; the top k by `relevance`, by `discrepancy` |Δ|, or as
            `published` by relevance + ½|Δ|; `robust`; or the k that an `adapter` holds most likely to be critical.
        k: how many; `all` and `fixed` do not ask.
        fixed: places of the rules that `fixed` takes.
    """

    name: PolicyName
    k: int = 5
    fixed: Sequence[int] = ()


@dataclass(frozen=True)
class Evidence:
    """What P pairs show to R rules.

    Attributes:
        differences: [P, R] score of the chosen response minus that of the rejected one, within ±2.
        relevance: [P, R] how much each rule is about the pair, 0 to 1.
        noise: [R] standard deviation of the error of such a difference; `robust` needs it.
        correlation: [R, R] correlation of the rules' scores; `robust` needs it.
        seeds: [P] whole numbers that `random` draws by, so that a pair's rules do not depend on its neighbours.
        likely: [P, R] how likely each rule is critical by a rule adapter; `adapter` needs it.
        used: [R] which rules the rater can read; the others are never critical. All of them where left out.
    """

    differences: Tensor
    relevance: Tensor
    noise: Tensor | None = None
    correlation: Tensor | None = None
    seeds: Tensor | None = None
    likely: Tensor | None = None
    used: Tensor | None = None


@dataclass(frozen=True)
class Choice:
    """The critical rules of P pairs.

    Attributes:
        critical: [P, R] which rules.
        weights: [P, R] what a unit of difference counts; zero where a rule is not critical.
    """

    critical: Tensor
    weights: Tensor

    def margins(self, differences: Tensor) -> Tensor:
        """[P] weighted means of the critical rules' differences, in units of a score whatever k is."""
        return (self.weights * differences).sum(dim=1)


def choose(policy: Policy, evidence: Evidence) -> Choice:
    """The critical rules of every pair and their weights.

    Raises:
        ValueError: the evidence lacks what the policy needs, or k is not positive.
    """
    if policy.k < 1:
        raise ValueError("a pair needs one critical rule at least")
    if policy.name == "robust":
        return _robust(policy.k, evidence)
    size = evidence.differences.abs()
    used = torch.ones(size.shape[1], dtype=torch.bool) if evidence.used is None else evidence.used
    match policy.name:
        case "all":
            critical = torch.ones_like(size, dtype=torch.bool)
        case "fixed":
            if not policy.fixed:
                raise ValueError("the policy `fixed` needs the places of its rules")
            critical = torch.zeros_like(size, dtype=torch.bool)
            critical[:, list(policy.fixed)] = True
        case "random":
            critical = _top(_draws(evidence), policy.k, used)
        case "relevance":
            critical = _top(evidence.relevance, policy.k, used)
        case "discrepancy":
            critical = _top(size, policy.k, used)
        case "published":
            critical = _top(evidence.relevance + size / 2, policy.k, used)
        case "adapter":
            if evidence.likely is None:
                raise ValueError("the policy `adapter` needs what an adapter says")
            critical = _top(evidence.likely, policy.k, used)
    critical &= used
    weights = critical.to(size.dtype)
    return Choice(critical, weights / weights.sum(dim=1, keepdim=True).clamp(min=1))


def spoken_of(relevance: Tensor) -> Tensor:
    """[P] whether any of the [P, R] rules is relevant to a pair; of one that none is, the rules have nothing to say."""
    return (relevance >= RELEVANT).any(dim=1)


def shrinkage(differences: Tensor, noise: Tensor) -> Tensor:
    """[P, R] share of each difference that is likely not noise: Δ² / (Δ² + σ²)."""
    power = differences.square()
    return power / (power + noise.square()).clamp(min=torch.finfo(power.dtype).tiny)


def diverse(utility: Tensor, correlation: Tensor, k: int) -> Tensor:
    """[P, R] for every pair the k rules that greedily maximise log det(diag(u) C diag(u)).

    Each step takes the rule of the largest utility times the part of its variance that the rules taken before do not
    explain, so that a paraphrase of one of them adds little. A rule of no utility is never taken.

    Args:
        utility: [P, R], not negative.
        correlation: [R, R], positive semidefinite with a diagonal of ones.
        k: how many at most.
    """
    pairs, rules = utility.shape
    eye = torch.eye(rules, dtype=utility.dtype, device=utility.device)
    kernel = (1 - _RIDGE) * correlation.to(utility.dtype) + _RIDGE * eye
    unexplained = kernel.diagonal().repeat(pairs, 1)
    taken = torch.zeros(pairs, rules, dtype=torch.bool, device=utility.device)
    rows = torch.zeros(
        pairs, min(k, rules), rules, dtype=utility.dtype, device=utility.device
    )  # of the Cholesky factor
    everyone = torch.arange(pairs, device=utility.device)
    for step in range(min(k, rules)):
        gain = (utility.square() * unexplained).masked_fill(taken, 0)
        best, place = gain.max(dim=1)
        before = rows[:, :step]
        known = torch.einsum("pt,ptr->pr", before[everyone, :, place], before)
        root = unexplained[everyone, place].clamp(min=_RIDGE / 2).sqrt()[:, None]
        rows[:, step] = (kernel[place] - known) / root
        unexplained = (unexplained - rows[:, step].square()).clamp(min=0)
        taken[everyone, place] |= best > 0
    return taken


def _robust(k: int, evidence: Evidence) -> Choice:
    """Δ in units of its noise, shrunk by it, gated by relevance; diverse rules first.

    The weights carry the same three corrections, in score units again by the noise of the middling rule, which depends
    on the bank alone.
    """
    if evidence.noise is None or evidence.correlation is None:
        raise ValueError("the policy `robust` needs the rules' noise and the correlation of their scores")
    noise = evidence.noise.clamp(min=1e-6)
    gate = evidence.relevance * (evidence.relevance >= RELEVANT)
    corrections = gate * shrinkage(evidence.differences, noise) / noise
    critical = diverse(corrections * evidence.differences.abs(), evidence.correlation, k)
    weights = corrections * noise.median() * critical
    return Choice(critical, weights / critical.sum(dim=1, keepdim=True).clamp(min=1))


def top(utility: Tensor, k: int) -> Tensor:
    """[P, k] places of the k rules of the highest [P, R] utility; among equals, the first."""
    return utility.sort(dim=1, descending=True, stable=True).indices[:, :k]


def _top(utility: Tensor, k: int, used: Tensor) -> Tensor:
    """[P, R] the k of the used rules of the highest utility."""
    best = top(utility.masked_fill(~used, float("-inf")), k)
    return torch.zeros_like(utility, dtype=torch.bool).scatter(1, best, True)


def _draws(evidence: Evidence) -> Tensor:
    if evidence.seeds is None:
        raise ValueError("the policy `random` needs a seed for every pair")
    rules = evidence.differences.shape[1]
    seeds = [int(seed) for seed in evidence.seeds]
    draws = [torch.rand(rules, generator=torch.Generator().manual_seed(seed)) for seed in seeds]
    return torch.stack(draws) if draws else torch.zeros_like(evidence.differences)
