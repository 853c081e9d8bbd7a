"""What POST /training takes: a method, the data, and how."""

from typing import Annotated, Any, Literal, Self, get_args

from pydantic import BaseModel, Field, JsonValue, model_validator

from app.schemas.alignment import AlignmentMethod, AlignmentSettings, PresetName
from app.schemas.judging import SHIPPED_POOL, RaterName, refuse_without_bank
from app.schemas.names import FILE_ID, AdapterId, AlignmentId, BankId, PoolId, Ref, RewardId
from app.schemas.pairs import Strict
from app.schemas.rewards import HeldOut, RewardSettings, TrainedOn
from app.schemas.ruleadapters import AdapterKind, AdapterMeasures, TaughtPolicy
from app.schemas.webhooks import Announced


class AdapterOptions(Strict):
    """What a rule adapter is taught, whatever its kind."""

    method: Literal["rule-adapter"]
    id: AdapterId = Field(description="Name of the new rule adapter.")
    pool: PoolId = Field(default=SHIPPED_POOL, description="The pool whose rules it chooses from.")
    rater: RaterName = Field(
        default="probes",
        description="Whose ratings teach it. `logits` asks the annotator of every rule: many times the cost.",
    )
    bank: BankId | None = Field(
        default=None,
        description="Bank of probes; where left out, of those of this pool a calibrated one, or the newest.",
    )
    policy: TaughtPolicy = Field(default="published", description="What makes rules critical.")
    k: int = Field(default=5, ge=1, le=100, description="How many rules are critical.")
    seed: int = Field(default=0, ge=0, lt=2**31, description="Of everything that is drawn at random.")
    replace: bool = Field(default=False, description="Whether a rule adapter of this id may be replaced.")

    @model_validator(mode="after")
    def _goes_together(self) -> Self:
        refuse_without_bank(self.rater, self.policy, self.bank)
        return self


class HeadOptions(AdapterOptions):
    """A multi-label head on activations that are read anyway: seconds to fit, and it costs next to nothing to ask."""

    kind: Literal["head"]
    epochs: int = Field(default=200, ge=1, le=1000, description="At most; it stops when validation gets no better.")


class LoraOptions(AdapterOptions):
    """A sequence classifier on the annotator's weights with low-rank adapters, as published (arXiv 2501.15453)."""

    kind: Literal["lora"]
    epochs: int = Field(default=3, ge=1, le=100)
    learning_rate: float = Field(
        default=5e-4,
        gt=0,
        le=1,
        allow_inf_nan=False,
        description="The published 2e-5 is for all weights; low-rank adapters begin at zero and need more.",
    )
    batch: int = Field(default=8, ge=1, le=256, description="Pairs a step.")
    rank: int = Field(default=16, ge=1, le=256, description="Of the adapters.")


RuleAdapterOptions = Annotated[HeadOptions | LoraOptions, Field(discriminator="kind")]

KINDS = frozenset({"head", "lora"})

ALIGNMENT_METHODS: tuple[AlignmentMethod, ...] = get_args(AlignmentMethod)

METHODS = frozenset({"rule-adapter", "reward-model", *ALIGNMENT_METHODS})

MOST_PAIRS: dict[AdapterKind, int] = {"head": 50_000, "lora": 20_000}
"""Pairs that a rule adapter of each kind can be taught with at most."""

MOST_ALIGNED, FEWEST_ALIGNED = 200_000, 24
"""Pairs of an alignment: patterns of the others take disk, and there have to be some to calibrate on."""


MOST_REWARDED = 500_000
"""Pairs that a reward model can be trained on."""


class _OfFile(Announced):
    data: str = Field(
        pattern=FILE_ID,
        description="Id of an uploaded file of pairs: at most 50,000 for a head, 20,000 for LoRA, 200,000 for RAHF.",
    )


class HeadRequest(HeadOptions, _OfFile):
    """A rule adapter of the kind `head` to teach with the pairs of an uploaded file."""

    @property
    def options(self) -> HeadOptions:
        """How, without what of."""
        return HeadOptions.model_validate(self.model_dump(include=set(HeadOptions.model_fields)))


class LoraRequest(LoraOptions, _OfFile):
    """A rule adapter of the kind `lora` to teach with the pairs of an uploaded file."""

    @property
    def options(self) -> LoraOptions:
        """How, without what of."""
        return LoraOptions.model_validate(self.model_dump(include=set(LoraOptions.model_fields)))


class AlignmentRequest(_OfFile):
    """A model to teach the preference of an uploaded file's pairs, and to align: RAHF (arXiv 2312.15997).

    It publishes the alignment and a direction of the same id, which reads the taught model's activations.
    """

    method: AlignmentMethod = Field(
        description="rahf-scit: one model is taught a good and a bad instruction; rahf-dual: two models, one side each."
    )
    id: AlignmentId = Field(description="Name of the new alignment, and of its direction.")
    preset: PresetName = Field(
        default="small",
        description="small: adapters, about an hour on two CPU cores with the default annotator and a thousand pairs; "
        "paper: as published, every weight.",
    )
    settings: dict[str, JsonValue] = Field(
        default_factory=dict,
        description="Values instead of the preset's, nested as in `AlignmentSettings`, such as "
        '`{"align": {"alpha": 10}}`.',
    )
    replace: bool = Field(default=False, description="Whether an alignment and a direction of this id may be replaced.")


class RewardRequest(RewardSettings, Announced):
    """A reward model to train on annotated pairs: the annotator's weights as a sequence classifier."""

    method: Literal["reward-model"]
    id: RewardId = Field(description="Name of the new reward model.")
    data: str = Field(
        pattern=r"^[A-Za-z0-9_-]{1,64}$",
        description="Id of a completed job that annotated a file, or of an uploaded file, whose rows have a `margin` "
        "unless `margin` is `none`; at most 500,000 pairs.",
    )
    replace: bool = Field(default=False, description="Whether a reward model of this id may be replaced.")

    @property
    def settings(self) -> RewardSettings:
        """How, without what of."""
        return RewardSettings.model_validate(self.model_dump(include=set(RewardSettings.model_fields)))


RuleAdapterRequest = Annotated[HeadRequest | LoraRequest, Field(discriminator="kind")]


def _without_mapping(schema: dict[str, Any]) -> None:
    """OpenAPI maps what tells apart to one schema each, and a rule adapter is of two."""
    del schema["discriminator"]


TrainingRequest = Annotated[
    RuleAdapterRequest | AlignmentRequest | RewardRequest,
    Field(discriminator="method", json_schema_extra=_without_mapping),
]
"""What can be trained: by `method`, and a rule adapter by its kind."""


class AdapterTask(BaseModel):
    """A rule adapter that a worker is asked to make: what a request names, with what it stood for then."""

    options: RuleAdapterOptions
    data: str
    pool: Ref
    bank: Ref | None


class AlignmentTask(BaseModel):
    """An alignment that a worker is asked to make, with all its settings."""

    method: AlignmentMethod
    id: AlignmentId
    data: str
    settings: AlignmentSettings
    replace: bool


class RewardTask(BaseModel):
    """A reward model that a worker is asked to make.

    Attributes:
        id, settings, replace: as requested.
        file: the pairs.
        job: whose answers are their annotations; None where the margins are in the file, or not wanted.
    """

    id: RewardId
    settings: RewardSettings
    file: str
    job: str | None
    replace: bool


class TrainingAnswer(BaseModel):
    """What became of a training job for a rule adapter."""

    id: str
    digest: str
    measures: AdapterMeasures


class AlignmentAnswer(BaseModel):
    """What became of a training job for an alignment."""

    id: str
    digest: str
    direction: Ref = Field(description="Made with it.")


class RewardAnswer(BaseModel):
    """What became of a training job for a reward model."""

    id: str
    digest: str
    data: TrainedOn
    before: HeldOut | None = Field(description="How it read the held-out pairs; null where there are none.")
    after: HeldOut | None
