"""What banks are distilled from: exchanges, labelled rows, or what another rater says of texts."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from app.schemas.pairs import Message
from app.schemas.rules import RulePool
from workers.rules.errors import UnfitExamples
from workers.rules.labelled import Labelled
from workers.rules.pool import Exchange
from workers.rules.rating import Answered, Rater, Ratings

_AT_ONCE = 8
"""Responses that a rater is given together: it may be asked of every rule about each."""


@dataclass(frozen=True)
class Examples:
    """N responses with what is known of them by R rules.

    Attributes:
        source: where from: `exchanges`, `rows` or `logits`.
        items: the responses, one an item.
        targets: [N, R] float64: 1 keeps, −1 breaks, between them by degrees, NaN where nobody says.
        relevance: [N, R] float64: 1 where a rule matters, −1 where it does not, 0 where nobody says.
    """

    source: str
    items: Sequence[Answered]
    targets: Tensor
    relevance: Tensor


def from_exchanges(pool: RulePool, exchanges: Sequence[Exchange]) -> Examples:
    """An exchange is labelled by its own rule, and the other rules do not matter there.

    Raises:
        UnfitExamples: one is of a rule that the pool does not have.
    """
    places = _places(pool)
    targets, relevance = _blank(len(exchanges), len(places))
    for row, exchange in enumerate(exchanges):
        place = _place(places, exchange.rule)
        targets[row, place] = 1.0 if exchange.keeps else -1.0
        relevance[row] = -1.0
        relevance[row, place] = 1.0
    items = [Answered([Message(role="user", content=e.prompt)], [e.response]) for e in exchanges]
    return Examples("exchanges", items, targets, relevance)


def from_rows(pool: RulePool, rows: Sequence[Labelled]) -> Examples:
    """A row is labelled by the rules that it names.

    Raises:
        UnfitExamples: one names a rule that the pool does not have.
    """
    places = _places(pool)
    targets, relevance = _blank(len(rows), len(places))
    for number, row in enumerate(rows):
        for rule, label in row.rules.items():
            place = _place(places, rule)
            if label is None:
                relevance[number, place] = -1.0
                continue
            relevance[number, place] = 1.0
            value = (1.0 if label else -1.0) if isinstance(label, bool) else float(label)
            targets[number, place] = max(-1.0, min(1.0, value))
    return Examples("rows", [Answered(row.messages, [row.response]) for row in rows], targets, relevance)


def from_rater(
    pool: RulePool,
    rater: Rater,
    items: Sequence[Answered],
    progress: Callable[[int, int], None] = lambda _done, _total: None,
) -> Examples:
    """What a rater made for the pool says of single responses; nothing of those that it cannot read.

    Args:
        pool: the rules.
        rater: who is asked.
        items: the responses, one an item.
        progress: told how many are rated.
    """
    targets, relevance = _blank(len(items), len(pool.rules))
    for start in range(0, len(items), _AT_ONCE):
        some = items[start : start + _AT_ONCE]
        for row, ratings in enumerate(rater.rate(some), start):
            if isinstance(ratings, Ratings):
                targets[row] = ratings.scores[0]
                relevance[row] = 2 * ratings.relevance - 1
        progress(start + len(some), len(items))
    return Examples("logits", items, targets, relevance)


def _blank(rows: int, rules: int) -> tuple[Tensor, Tensor]:
    return torch.full((rows, rules), float("nan"), dtype=torch.double), torch.zeros(rows, rules, dtype=torch.double)


def _places(pool: RulePool) -> dict[str, int]:
    return {rule.id: place for place, rule in enumerate(pool.ordered)}


def _place(places: dict[str, int], rule: str) -> int:
    if rule not in places:
        raise UnfitExamples("an example is of a rule that the pool does not have")
    return places[rule]
