"""What every token of a response contributes to its score."""

from typing import Annotated

from pydantic import BaseModel, Field

from app.schemas.names import Finite

MOST_EXPLAINED = 32
"""Responses of one request."""

Explained = Annotated[
    bool,
    Field(
        description="Say what every token of every response contributes, too: of "
        f"{MOST_EXPLAINED} responses at most, each of which is read once more for it."
    ),
]


class TokenShare(BaseModel):
    """What one token contributes."""

    text: str | None = Field(
        description="Its part of the response; empty where the token before has the whole character. Null is the end "
        "of the turn, which is no part of the response. The parts in order are the response."
    )
    contribution: Finite = Field(description="In the unit of the margin.")


class PairContributions(BaseModel):
    """What the tokens of both responses contribute: those of the chosen one less the others are the margin."""

    chosen: list[TokenShare]
    rejected: list[TokenShare]
