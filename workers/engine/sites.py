"""Places in the annotator that a direction reads: layers, and tokens of a response or of its prompt."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, cast, get_args

from app.schemas.directions import SiteCard

Pooling = Literal["mean", "last", "end_of_turn", "request"]


@dataclass(frozen=True, slots=True, order=True)
class Site:
    """A layer and a pooling over the response's tokens.

    Attributes:
        layer: 0-based block whose residual stream is read; the number of blocks means "after the final norm".
        pooling: how tokens become one vector: those of a response (`mean`, `last`, `end_of_turn`), or the mean over
            the last user turn that it answers (`request`).
    """

    layer: int
    pooling: Pooling


def sites_of(cards: Sequence[SiteCard], *, of_prompt: bool) -> tuple[Site, ...]:
    """The sites that a card names, all of the prompt or all of the response.

    Raises:
        ValueError: one is not, or is of a pooling that is not known.
    """
    if any(card.pooling not in get_args(Pooling) or (card.pooling == "request") != of_prompt for card in cards):
        raise ValueError("reads a pooling that this version does not know")
    return tuple(Site(card.layer, cast(Pooling, card.pooling)) for card in cards)
