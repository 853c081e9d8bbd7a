"""What a comparison of margins finds."""

from typing import Literal

from pydantic import BaseModel, Field

from app.schemas.directions import Accuracy
from app.schemas.evaluation import Gain
from app.schemas.names import Finite
from app.schemas.rewards import RewardSettings

SourceName = Literal["legend", "default", "rules", "ensemble"]


class Cost(BaseModel):
    """What something took."""

    seconds: Finite = 0.0
    tokens: Finite = Field(
        default=0.0,
        description="Tokens through the whole annotator, forward: a pass through 23 of 30 blocks counts 23/30, a step "
        "of training three passes of the trained blocks alone; text that the annotator writes is in the seconds only.",
    )

    def __add__(self, other: "Cost") -> "Cost":
        return Cost(seconds=self.seconds + other.seconds, tokens=self.tokens + other.tokens)


class SourceFigures(BaseModel):
    """Where margins come from: how they read the labels of the pairs trained on, and what they cost."""

    source: SourceName
    note: str
    accuracy: Accuracy = Field(description="How often the margin has the label's sign; below that they conflict.")
    mean: Finite = Field(description="Mean |m| before they are scaled.")
    making: Cost = Field(description="Once: the direction, or the models of the ensemble.")
    reading: Cost = Field(description="The pairs trained on.")


class ArmOn(BaseModel):
    """An arm on one set of pairs that nothing was trained on."""

    accuracy: Accuracy = Field(description="Mean over seeds; the interval resamples prompts.")
    by_seed: list[Finite]
    gain: Gain | None = Field(description="Over no margin, on the same pairs and seeds; null for that itself.")
    p: Finite | None = Field(description="Of no difference, two-sided, from the same bootstrap.")
    calibration_error: Finite = Field(description="Mean over seeds.")


class ArmFigures(BaseModel):
    """What an arm comes to."""

    arm: str
    about: str
    seeds: list[int]
    sets: dict[str, ArmOn]
    should_respond: Accuracy | None
    should_refuse: Accuracy | None
    pairs: int = Field(description="Trained on.")
    conflicts: int = Field(description="Of them those whose margin contradicts the label.")
    mean_margin: Finite
    annotation: Cost = Field(description="Making and reading.")
    training: Cost = Field(description="Of one model, mean over seeds.")


class MarginReport(BaseModel):
    """Every arm and every seed."""

    data: str
    labelled: str | None
    base: str = Field(description="What reward models are made of.")
    annotator: str
    training: RewardSettings = Field(description="What all arms have in common.")
    mean_margin: Finite = Field(description="Mean |m| to which margins are scaled.")
    pairs: int = Field(description="To train on.")
    prompts: int
    tests: dict[str, int] = Field(description="Pairs to measure on.")
    refused: dict[str, int] = Field(description="Pairs left out, by why.")
    sources: list[SourceFigures]
    arms: list[ArmFigures]
    ratios: dict[str, Finite] = Field(description="How many times as much RewardEnsemble@3 costs as a projection.")
    verdict: str
    version: str
