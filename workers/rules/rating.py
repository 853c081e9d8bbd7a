"""What every rater answers, whatever it is made of."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from app.schemas.pairs import Message
from workers.engine.errors import PairRefused


@dataclass(frozen=True)
class Ratings:
    """How K responses to one prompt stand to R rules.

    Attributes:
        scores: [K, R] in [−1, 1], P(keeps) − P(breaks).
        relevance: [R] in [0, 1], whether the rule has to do with the prompt and its responses.
        truncated: whether the conversation was cut to fit.
    """

    scores: Tensor
    relevance: Tensor
    truncated: bool = False


@dataclass(frozen=True)
class Answered:
    """A prompt with the responses to rate.

    Attributes:
        messages: the conversation up to the answer.
        responses: K answers to it.
    """

    messages: Sequence[Message]
    responses: Sequence[str]


class Rater(Protocol):
    """Rates items by the rules it was made for."""

    def rate(self, items: Sequence[Answered], *, truncate: bool = False) -> list[Ratings | PairRefused]:
        """Ratings of each item, in order; where one cannot be read there is the reason instead."""
