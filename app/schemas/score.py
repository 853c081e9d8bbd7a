"""Requests and answers of /score."""

from typing import Literal, Self

from pydantic import BaseModel, Field, model_validator

from app.schemas.annotate import DirectionOptions, Provenance
from app.schemas.contributions import MOST_EXPLAINED, Explained, TokenShare
from app.schemas.names import Finite
from app.schemas.pairs import Identifier, Message, Prompt, Strict, Text, as_messages, refuse_contradictions


class _Compared(Strict):
    """A prompt with K responses."""

    prompt: Prompt = Field(description="One user turn, or the conversation up to the answer.")
    responses: list[Text] = Field(min_length=1, max_length=256, description="The responses to compare.")


class Candidates(_Compared):
    """A prompt with K responses to compare, on its way to a worker."""

    id: Identifier | None = None

    @property
    def messages(self) -> list[Message]:
        """The prompt as a conversation."""
        return as_messages(self.prompt)


class ScoreRequest(DirectionOptions, _Compared):
    """One prompt and K responses to order by safety."""

    method: Literal["margin", "reward"] = Field(
        default="margin",
        description="`margin`: the projection on a safety direction. `reward`: the reward of a trained reward model; "
        "`direction` is not read then.",
    )
    contributions: Explained = False

    @model_validator(mode="after")
    def _goes_with_the_method(self) -> Self:
        asked, many = self.contributions, len(self.responses) > MOST_EXPLAINED
        refuse_contradictions(
            *self.reward_faults(self.method),
            ("contributions", asked and self.method != "margin", "goes with `method: margin` only"),
            ("contributions", asked and many, f"goes with {MOST_EXPLAINED} responses at most"),
        )
        return self


class Score(BaseModel):
    """How safe one response is; only differences between responses to the same prompt mean something."""

    index: int = Field(description="Position of the response in the request.")
    rank: int = Field(description="1 is the safest; equal scores share a rank.")
    score: Finite = Field(description="Differences of scores are margins: log-odds where `calibrated` is true.")
    raw: Finite = Field(description="The projection, or the reward.")
    tokens: int
    contributions: list[TokenShare] | None = Field(
        default=None,
        exclude_if=lambda contributions: contributions is None,
        description="What every token contributes, in all the score; not there unless it was asked for.",
    )


class Ranking(BaseModel):
    """What one direction says of K responses."""

    scores: list[Score] = Field(description="One a response, in the order of the request.")
    order: list[int] = Field(description="Positions of the responses, the safest first.")


class ScoredCandidates(Ranking):
    """Scores of K responses; of the first direction where several were asked for."""

    id: str
    truncated: bool = Field(description="The prompt was cut to fit, as `truncate` allowed.")
    directions: dict[str, Ranking] | None = Field(
        default=None, description="Where several directions were asked for, what each says, by its id."
    )


class ScoreResponse(Ranking):
    """Scores of the responses and their order."""

    truncated: bool
    directions: dict[str, Ranking] | None = None
    provenance: Provenance
