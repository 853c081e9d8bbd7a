"""How a reward model is trained on annotated pairs, and what is known of it afterwards."""

from typing import Annotated, Literal, Self

from pydantic import BaseModel, Field, model_validator

from app.schemas.directions import Accuracy
from app.schemas.names import Finite, RewardId
from app.schemas.pairs import Strict, refuse_contradictions

MarginUse = Literal["none", "margin", "level"]
Conflicts = Literal["keep", "drop", "flip", "down-weight"]

Positive = Annotated[Finite, Field(gt=0)]

_WEIGHT, _RANK = 0.5, 16
_CALIBRATED, _CHANCE = 0.1, 0.5


class MarginSettings(Strict):
    """What enters the loss of a pair.

    With Δ = r_chosen − r_rejected, m the margin, w the weight and ε the smoothing, a pair's loss is
    w·[(1 − ε)·(−log σ(Δ − m)) + ε·(−log σ(m − Δ))]; a batch's is the sum over its pairs divided by their number.
    A pair conflicts if the margin of its row is negative.
    """

    margin: MarginUse = Field(
        default="margin",
        description="What m is, before `margin_scale`: the row's margin; a third of its level (0, ⅓, ⅔, 1 of the usual "
        "four), which only rows of format `raw` have; or nothing, 0.",
    )
    margin_scale: Positive = Field(default=1.0, description="What m is multiplied by.")
    margin_clip: Positive | None = Field(default=None, description="After that, m is cut to ± this.")
    conflicts: Conflicts = Field(
        default="keep",
        description="Pairs whose margin is negative. `keep`: m is negative, so that the chosen response may be that "
        "far below the other. `drop`: left out. `flip`: sides exchanged, m made positive (0 of a level, which says "
        "nothing of the other side). `down-weight`: m is 0 and w is `conflict_weight`.",
    )
    conflict_weight: Finite = Field(
        default=_WEIGHT, ge=0, le=1, description="w of conflicting pairs; of others it is 1."
    )
    label_smoothing: Finite = Field(
        default=0.0, ge=0, lt=0.5, description="ε: how likely a label, and with it the sign of m, is taken to be wrong."
    )
    center_rewards_coefficient: Finite = Field(
        default=0.0, ge=0, description="How much of the mean over pairs of (r_chosen + r_rejected)² is added."
    )

    @model_validator(mode="after")
    def _goes_together(self) -> Self:
        refuse_contradictions(
            ("margin_scale", self.margin == "none" and self.margin_scale != 1, "there is no margin to scale"),
            ("margin_clip", self.margin == "none" and self.margin_clip is not None, "there is no margin to clip"),
            (
                "conflict_weight",
                self.conflicts != "down-weight" and self.conflict_weight != _WEIGHT,
                "goes with `conflicts: down-weight`",
            ),
        )
        return self


class RewardSettings(MarginSettings):
    """How a reward model is trained."""

    weights: Literal["full", "lora"] = Field(default="full", description="What is trained: every weight, or adapters.")
    rank: int = Field(default=_RANK, ge=1, le=256, description="Of the adapters; what B A counts for is 2.")
    epochs: int = Field(default=1, ge=1, le=100)
    batch: int = Field(default=16, ge=1, le=4096, description="Pairs a step.")
    learning_rate: Positive | None = Field(default=None, le=1, description="1e-5 for every weight, 2e-4 for adapters.")
    warmup: Finite = Field(default=0.1, ge=0, lt=1, description="Share of the steps in which the rate rises from zero.")
    weight_decay: Finite = Field(default=0.0, ge=0)
    max_length: int = Field(default=1024, ge=8, description="Tokens of a dialogue; longer pairs are left out.")
    budget: int = Field(default=2048, ge=8, description="Tokens of a pass; a batch that has more takes several.")
    held_out: Finite = Field(default=0.1, ge=0, lt=1, description="Share of the prompts that nothing is trained on.")
    seed: int = Field(default=0, ge=0, lt=2**31, description="Of everything that is drawn at random.")
    checkpoint: int = Field(default=100, ge=1, description="Steps from one checkpoint to the next.")

    @model_validator(mode="after")
    def _adapters_as_said(self) -> Self:
        idle = self.weights == "full" and self.rank != _RANK
        refuse_contradictions(("rank", idle, "there are no adapters: every weight is trained"))
        return self

    @property
    def rate(self) -> float:
        """The highest learning rate."""
        return self.learning_rate or (1e-5 if self.weights == "full" else 2e-4)


class Step(BaseModel):
    """One step of a training."""

    step: int
    loss: Finite
    accuracy: Finite = Field(description="Share of the batch's pairs whose chosen response was above the other.")
    learning_rate: Finite


class HeldOut(BaseModel):
    """How the rewards read the held-out pairs, as they are labelled, after some step."""

    step: int = Field(description="0 is before training.")
    loss: Finite = Field(description="Mean of −log σ(Δ), without margins, so that it compares across them.")
    accuracy: Accuracy
    calibration_error: Finite = Field(description="Of σ(Δ) as a probability, ten bins.")
    level_edges: list[Finite] = Field(default_factory=list, description="Quartiles of Δ: `level` goes up by one there.")


class RewardCurves(BaseModel):
    """How a training went."""

    steps: list[Step]
    held_out: list[HeldOut] = Field(description="Before training and after every epoch; empty where none are held out.")


class TrainedOn(BaseModel):
    """What became of the pairs."""

    data: str = Field(description="Name of the file.")
    digest: str = Field(description="sha256 of pairs and margins.")
    calibrated: bool | None = Field(description="Whether the margins are log-odds; null where the rows do not say.")
    pairs: int = Field(description="Trained on.")
    held_out: int
    refused: dict[str, int] = Field(
        description="Pairs that were left out by why: `too_long`, or `template_refused` for their roles."
    )
    conflicts: int = Field(description="Of those to train on, how many conflicted, whatever became of them.")
    mean_margin: Finite = Field(description="Mean of |m| over the pairs trained on.")


class RewardCard(BaseModel):
    """A reward model as users see it: a sequence classifier whose only output is the reward of a dialogue."""

    id: RewardId
    digest: str = Field(description="sha256 of its files and card.")
    model: str = Field(description="What it was made of, by name, weights and chat template.")
    model_revision: str
    template: str
    training: RewardSettings
    data: TrainedOn
    steps: int
    tokens: int = Field(description="Tokens of all dialogues trained on, epoch for epoch.")
    seconds: Finite = Field(description="It took since it was last resumed.")
    dtype: str = Field(description="In which matrices were multiplied; weights and rewards are float32.")
    before: HeldOut | None
    after: HeldOut | None
    files: list[str] = Field(description="Its files, this card left out.")
    settings: dict[str, str | int | float | bool | None] = Field(default_factory=dict)
    created: str
    version: str

    @property
    def calibrated(self) -> bool:
        """Whether σ(Δ) was about as often right on the pairs held out as it said."""
        return self.after is not None and self.after.calibration_error <= _CALIBRATED

    @property
    def unreliable(self) -> bool:
        """Whether nothing shows that it reads pairs better than chance."""
        return self.after is None or self.after.accuracy.low <= _CHANCE


class RewardList(BaseModel):
    """The reward models that there are."""

    reward_models: list[RewardCard]
