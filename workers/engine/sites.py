"""Places in the annotator that a direction reads."""

from dataclasses import dataclass
from typing import Literal

Pooling = Literal["mean", "last", "end_of_turn"]


@dataclass(frozen=True, slots=True, order=True)
class Site:
    """A layer and a pooling over the response's tokens.

    Attributes:
        layer: 0-based block whose residual stream is read; the number of blocks means "after the final norm".
        pooling: how the tokens of a response become one vector.
    """

    layer: int
    pooling: Pooling
