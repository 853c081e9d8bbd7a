"""How well each policy of choosing critical rules reads labelled pairs: pure mathematics on ratings."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from app.schemas.evaluation import PolicyFigure
from app.schemas.judging import PolicyName, RaterName
from app.schemas.rulebanks import PolicyReading
from workers.directions.balance import balance
from workers.directions.evaluation import accuracy, calibration_error, folds, gain, level_edges, platt_slope
from workers.rules.errors import UnfitPairs
from workers.rules.selection import Evidence, Policy, choose, spoken_of

MIN_PAIRS, MIN_PROMPTS = 20, 5

_FOLDS = 5
PROTOCOL = (
    f"intervals: bootstrap over prompts; calibration and the rules of `fixed`: {_FOLDS}-fold cross-validation over "
    "prompts"
)

_LEVELS = 4


@dataclass(frozen=True)
class Scale:
    """What makes log-odds of raw margins.

    Attributes:
        slope: log-odds per unit.
        level_edges: quantiles of the margins, in log-odds.
        error: expected calibration error, cross-validated over prompts.
    """

    slope: float
    level_edges: list[float]
    error: float


@dataclass(frozen=True)
class RatedPairs:
    """P labelled pairs as a rater sees them.

    Attributes:
        scores: [P, 2, R] of the chosen and of the rejected response.
        relevance: [P, R].
        families: [P] pairs of one prompt have the same number.
        seeds: [P] what `random` draws by.
        noise: [R] of the rater's differences; None where it is not known.
        correlation: [R, R] of the rater's scores; None likewise.
        used: [R] which rules the rater can read; None for all of them.
    """

    scores: Tensor
    relevance: Tensor
    families: Tensor
    seeds: Tensor
    noise: Tensor | None = None
    correlation: Tensor | None = None
    used: Tensor | None = None

    @property
    def evidence(self) -> Evidence:
        """What the policies choose by."""
        differences = self.scores[:, 0] - self.scores[:, 1]
        return Evidence(differences, self.relevance, self.noise, self.correlation, self.seeds, used=self.used)

    def margins(self, policy: Policy) -> Tensor:
        """[P] raw margins, zero where no rule is relevant, as verdicts have it."""
        evidence = self.evidence
        return choose(policy, evidence).margins(evidence.differences) * spoken_of(self.relevance)


@dataclass(frozen=True)
class Contrast:
    """The balance set as a rater sees it.

    Attributes:
        rated: the pairs of it that can be read.
        places: [m] which these are.
    """

    rated: RatedPairs
    places: Tensor


def evaluate(
    rated: RatedPairs, policies: Sequence[PolicyName], ks: Sequence[int], rater: RaterName, contrast: Contrast | None
) -> list[PolicyFigure]:
    """A figure for every policy and k; `all` has one, and `robust` none where noise is not known.

    Args:
        rated: the labelled pairs.
        policies: which of `EVALUATED`.
        ks: how many critical rules; more than there are is all there are.
        rater: who rated.
        contrast: the balance set by the same rater, where its figures are wanted as well.

    Raises:
        UnfitPairs: they are too few.
    """
    if len(rated.families) < MIN_PAIRS or len(set(rated.families.tolist())) < MIN_PROMPTS:
        raise UnfitPairs(
            f"{len(rated.families)} pairs that can be read are too few; at least {MIN_PAIRS} of {MIN_PROMPTS} prompts "
            "are needed"
        )
    count = rated.relevance.shape[1]
    known = rated.noise is not None and rated.correlation is not None
    asked = [
        (policy, k)
        for policy in policies
        if known or policy != "robust"
        for k in ([count] if policy == "all" else sorted({min(k, count) for k in ks}))
    ]
    return [_figure(rated, policy, k, rater, contrast) for policy, k in asked]


def readings_of(figures: Sequence[PolicyFigure], data: str) -> list[PolicyReading]:
    """What makes log-odds of the margins, for every policy that has a slope.

    `fixed` has none: its rules are those of whoever asks, not those that were measured.
    """
    return [
        PolicyReading(
            policy=figure.policy,
            k=figure.k,
            slope=figure.slope,
            level_edges=figure.level_edges,
            accuracy=figure.accuracy,
            calibration_error=figure.calibration_error,
            data=data,
        )
        for figure in figures
        if figure.policy != "fixed" and figure.slope is not None and figure.calibration_error is not None
    ]


def best_rules(differences: Tensor, k: int) -> list[int]:
    """Places of the k rules whose [P, R] differences have the sign of the label most often."""
    agreement = differences.sign().double().mean(dim=0)
    return agreement.sort(descending=True, stable=True).indices[:k].tolist()


def held_out_fixed(rated: RatedPairs, k: int, fold: Tensor) -> Tensor:
    """[P] margins by the k rules that agree best with the labels of the other folds."""
    differences = rated.evidence.differences
    margins = torch.zeros(len(fold), dtype=differences.dtype)
    for number in set(fold.tolist()):
        out = fold == number
        margins[out] = rated.margins(Policy("fixed", fixed=best_rules(differences[~out], k)))[out]
    return margins


def held_out_log_odds(margins: Tensor, fold: Tensor) -> Tensor:
    """[P] margins times the slope of the other folds; zero where these carry no signal."""
    log_odds = torch.zeros(len(margins), dtype=torch.double)
    for number in set(fold.tolist()):
        out = fold == number
        log_odds[out] = margins[out].double() * (platt_slope(margins[~out]) or 0.0)
    return log_odds


def scale_of(margins: Tensor, families: Tensor) -> Scale | None:
    """The scale that fits [P] raw margins of labelled pairs best; None if they carry no signal."""
    slope = platt_slope(margins)
    if slope is None:
        return None
    error = calibration_error(held_out_log_odds(margins, folds(families, _FOLDS)))
    return Scale(slope, level_edges(slope * margins, _LEVELS), error)


def _figure(rated: RatedPairs, policy: PolicyName, k: int, rater: RaterName, contrast: Contrast | None) -> PolicyFigure:
    fold = folds(rated.families, _FOLDS)
    fixed = best_rules(rated.evidence.differences, k) if policy == "fixed" else ()
    chosen = Policy(policy, k, fixed)
    margins = held_out_fixed(rated, k, fold) if policy == "fixed" else rated.margins(chosen)
    scale = scale_of(margins, rated.families)
    return PolicyFigure(
        policy=policy,
        k=k,
        rater=rater,
        accuracy=accuracy(margins, rated.families),
        gain=None if policy == "all" else gain(margins, rated.margins(Policy("all")), rated.families),
        ties=float((margins == 0).double().mean()),
        slope=scale.slope if scale else None,
        level_edges=scale.level_edges if scale else [],
        calibration_error=scale.error if scale else None,
        **({} if contrast is None else balance().figures(contrast.rated.margins(chosen), contrast.places)),
    )
