"""Requests and answers of /reward-models/{id}/reward, in the form of OpenRLHF's remote reward client."""

from typing import Annotated, Any

from pydantic import BaseModel, Field

from app.schemas.names import Finite
from app.schemas.pairs import Identifier, Message, Strict, Text


class RewardRequest(BaseModel):
    """Whole dialogues; fields that other versions of the client send, too, are not read."""

    query: list[Annotated[Text, Field(min_length=1)]] = Field(
        max_length=10_000, description="Prompts with their responses, as the chat template writes them."
    )
    prompts: list[Any] | None = Field(
        default=None,
        description="The prompts alone; what a query begins with is computed once for all that begin so. Prompts that "
        "are no text, or not what the query begins with, are not read.",
    )
    labels: list[Any] | None = Field(default=None, description="Not read.")


class RewardResponse(BaseModel):
    """A reward a query, in their order."""

    rewards: list[Finite]
    scores: list[Finite] = Field(description="The same.")
    extra_logs: dict[str, list[Finite]] = Field(
        default_factory=dict, description="`truncated`: 1 of a query that was cut; only where `truncate` allowed it."
    )


class Query(Strict):
    """A whole dialogue on its way to a worker.

    Attributes:
        id: its position.
        text: prompt and response, as the chat template writes them.
        prompt: what others begin with, too; empty where nothing is known of that.
    """

    id: Identifier
    text: Text
    prompt: Text = ""

    @property
    def messages(self) -> list[Message]:
        """Nothing: they are in the text."""
        return []


class Rewarded(BaseModel):
    """The reward of a query."""

    id: str
    reward: Finite
    truncated: bool = Field(description="Its beginning was cut to fit.")
