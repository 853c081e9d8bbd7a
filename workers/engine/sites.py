"""Places in the annotator that a direction reads: layers, and tokens of a response or of its prompt."""

from dataclasses import dataclass
from typing import Literal

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
