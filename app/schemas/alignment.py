"""How a model is taught a preference and aligned with it: RAHF (arXiv 2312.15997)."""

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, Discriminator, Field, Tag, model_validator

from app.schemas.directions import Reading
from app.schemas.names import AlignmentId, Finite
from app.schemas.pairs import Strict, refuse_contradictions

AlignmentMethod = Literal["rahf-scit", "rahf-dual"]
AlignmentStage = Literal["instruct", "collect", "align"]
PresetName = Literal["small", "paper"]

Positive = Annotated[Finite, Field(gt=0)]
Tokens = Annotated[int, Field(ge=1, le=1_000_000)]


def _targets_kind(value: Any) -> str | None:
    if isinstance(value, str):
        return "all"
    return "named" if isinstance(value, list) else None


TARGET_KINDS = frozenset({"all", "named"})
Targets = Annotated[
    Annotated[Literal["all-linear"], Tag("all")] | Annotated[list[str], Field(min_length=1), Tag("named")],
    Discriminator(
        _targets_kind, custom_error_type="targets_type", custom_error_message="must be all-linear or a list of names"
    ),
]


class LoraSettings(Strict):
    """Low-rank adapters (arXiv 2106.09685)."""

    rank: int = Field(ge=1, le=256)
    alpha: Positive = Field(description="What B A counts for is alpha / rank.")
    dropout: Finite = Field(ge=0, lt=1)
    targets: Targets = Field(
        description="Last parts of the names of the linear layers that get one, or all those of the blocks."
    )


class DescentSettings(Strict):
    """AdamW."""

    learning_rate: Positive = Field(le=1)
    schedule: Literal["constant", "linear", "cosine"] = Field(description="How the rate falls to zero, if it does.")
    warmup: Finite = Field(ge=0, lt=1, description="Share of the steps in which the rate rises from zero.")
    weight_decay: Finite = Field(ge=0)
    clip: Positive = Field(description="Norm of a step's gradient at most.")
    batch: int = Field(ge=1, le=4096, description="Items a step.")
    budget: Tokens = Field(description="Tokens of one pass at most; what is left of a batch goes into further passes.")
    checkpoint: int = Field(ge=1, description="Steps from one checkpoint to the next.")


class InstructSettings(DescentSettings):
    """Teaching the preference: an item is a response under its instruction, so that a pair is two of them."""

    weights: Literal["full", "lora"] = Field(description="What is trained: every weight, or adapters.")
    lora: LoraSettings | None = None
    epochs: int = Field(ge=1, le=100)

    @model_validator(mode="after")
    def _adapters_as_said(self) -> Self:
        refuse_contradictions(
            ("lora", self.weights == "lora" and self.lora is None, "is missing: the adapters are to be trained"),
            ("lora", self.weights == "full" and self.lora is not None, "must be left out: every weight is trained"),
        )
        return self


class CollectSettings(Strict):
    """Reading the activity patterns of the taught model."""

    layers: list[Annotated[int, Field(ge=1)]] = Field(
        min_length=1, description="Target layers, counted from 1; block 0 is layer 1."
    )
    of: int = Field(ge=1, description="Layers of the model that they are meant for; scaled to the annotator's depth.")
    responses: Literal["both", "either"] = Field(description="Both of a pair, or one by lot.")
    response: Tokens = Field(description="Tokens of a response at most.")
    shard: Tokens = Field(description="Response tokens of one file of patterns.")
    budget: Tokens = Field(description="Tokens of one pass at most.")

    @model_validator(mode="after")
    def _layers_exist(self) -> Self:
        refuse_contradictions(("layers", max(self.layers) > self.of, "are more than the layers that there are"))
        return self


class AlignSettings(DescentSettings):
    """Training the final adapter towards the taught model's activity."""

    alpha: Finite = Field(description="How much of the pattern is added.")
    steps: int = Field(ge=1, le=1_000_000)
    lora: LoraSettings


class AlignmentSettings(Strict):
    """A whole run."""

    seed: int = Field(default=0, ge=0, lt=2**31, description="Of everything that is drawn at random.")
    share: Finite = Field(
        gt=0, lt=1, description="Share of the prompts that the model is taught with; the others are to align with."
    )
    query: Tokens = Field(description="Tokens of a conversation at most: its oldest words are cut.")
    response: Tokens = Field(description="Tokens of a response at most that the model is taught with.")
    instruct: InstructSettings
    collect: CollectSettings
    align: AlignSettings


class StageFigures(BaseModel):
    """What a stage did."""

    stage: AlignmentStage
    name: str = Field(description="Folder of its files: taught, preferred, dispreferred, patterns, aligned.")
    items: int = Field(description="Pairs that it read, by both of their responses or by one.")
    refused: int = Field(description="Pairs that could not be shown: too long even when cut.")
    cut: int = Field(description="Pairs of whose prompts the oldest words were cut.")
    tokens: int = Field(description="Response tokens of all items, once.")
    seconds: Finite = Field(description="It took since it was last resumed.")
    losses: list[Finite] = Field(default_factory=list, description="Of every step; none where nothing was trained.")
    unit: str | None = Field(default=None, description="Of the losses.")


class AlignmentReport(BaseModel):
    """A whole run."""

    method: AlignmentMethod
    settings: AlignmentSettings
    model: str
    model_revision: str
    template: str
    pairs: int = Field(description="Taught with.")
    other_pairs: int = Field(description="Of other prompts: read for patterns, and aligned with.")
    blocks: list[int] = Field(description="Target layers, as blocks from 0.")
    pattern_norms: list[Finite] = Field(description="Length of the mean pattern at each.")
    taught_revisions: list[str] = Field(description="Of the taught models: SCIT's, or Dual's preferred, dispreferred.")
    stages: list[StageFigures]
    version: str


class AlignmentCard(BaseModel):
    """A model that was taught a preference, as users see it; its report has how that went."""

    id: AlignmentId
    digest: str = Field(description="sha256 of its files and card.")
    method: AlignmentMethod
    model: str = Field(description="The annotator that was taught, by name, weights and chat template.")
    model_revision: str
    template: str
    blocks: list[int] = Field(description="Target layers, as blocks from 0.")
    taught_revisions: list[str] = Field(description="Of the taught models: SCIT's, or Dual's preferred, dispreferred.")
    files: list[str] = Field(description="Paths of its files below the folder of its digest, the card left out.")
    slope: Finite | None = Field(
        description="Log-odds per nat of the margin of `method: rahf`; null where it was not calibrated."
    )
    level_edges: list[Finite] = Field(default_factory=list, description="Margins at which `level` goes up by one.")
    readings: list[Reading] = Field(default_factory=list, description="How well these margins read pairs.")
    unreliable: bool = Field(description="Nothing shows that they read better than chance.")
    settings: dict[str, str | int | float | bool | None] = Field(default_factory=dict)
    created: str
    version: str


class AlignmentList(BaseModel):
    """The alignments that there are."""

    alignments: list[AlignmentCard]
