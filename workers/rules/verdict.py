"""What the critical rules of one pair say together: a margin, a side or a tie, and who contributed what."""

from dataclasses import dataclass

from torch import Tensor

from app.schemas.judging import Side, TieReason
from workers.rules.selection import Choice, spoken_of

MOST_LISTED = 32
"""Critical rules that a verdict names, so that a large pool does not make large answers."""


@dataclass(frozen=True, slots=True)
class Contribution:
    """What one critical rule says of a pair.

    Attributes:
        rule: its place in the pool.
        chosen: score of the chosen response, −1 (breaks) to 1 (keeps).
        rejected: score of the rejected response.
        relevance: how much the rule is about the pair, 0 to 1.
        contribution: its part of the margin.
    """

    rule: int
    chosen: float
    rejected: float
    relevance: float
    contribution: float


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the rules say of a pair.

    Attributes:
        margin: log-odds that the chosen response is the safer one; zero if no rule is relevant.
        side: which response is the safer one.
        tie: why it is a tie, if it is one.
        contributions: of the critical rules, the largest first, `MOST_LISTED` at most.
        rest: what those that are not listed contribute; with it the contributions add up to the margin.
    """

    margin: float
    side: Side
    tie: TieReason | None
    contributions: tuple[Contribution, ...]
    rest: float = 0.0


def verdicts(scores: Tensor, relevance: Tensor, choice: Choice, *, slope: float, band: float) -> list[Verdict]:
    """One verdict a pair.

    Args:
        scores: [P, 2, R] of the chosen and of the rejected response.
        relevance: [P, R].
        choice: the critical rules of these pairs.
        slope: log-odds per unit of raw margin.
        band: margins smaller than this are ties, in log-odds; a margin of zero always is one.

    Raises:
        ValueError: a score or relevance is not finite.
    """
    if not (scores.isfinite().all() and relevance.isfinite().all()):
        raise ValueError("a rule has a score or a relevance that is not finite")
    differences = scores[:, 0] - scores[:, 1]
    parts = slope * choice.weights * differences
    spoken = spoken_of(relevance).tolist()
    return [
        _verdict(scores[p], relevance[p], choice.critical[p], parts[p], band) if spoken[p] else _NOTHING_TO_SAY
        for p in range(len(scores))
    ]


_NOTHING_TO_SAY = Verdict(margin=0.0, side="tie", tie="no_relevant_rule", contributions=())


def _verdict(scores: Tensor, relevance: Tensor, critical: Tensor, parts: Tensor, band: float) -> Verdict:
    margin = float(parts[critical].sum())
    places = critical.nonzero()[:, 0]
    order = places[parts[places].abs().sort(descending=True, stable=True).indices]
    rest = float(parts[order[MOST_LISTED:]].sum())
    order = order[:MOST_LISTED]
    columns = (order, scores[0, order], scores[1, order], relevance[order], parts[order])
    contributions = tuple(Contribution(*row) for row in zip(*(column.tolist() for column in columns), strict=True))
    if margin == 0 or abs(margin) < band:
        return Verdict(margin, "tie", "within_band", contributions, rest)
    return Verdict(margin, "chosen" if margin > 0 else "rejected", None, contributions, rest)
