"""What POST /training takes: a method, the data, and how."""

from typing import Annotated, Literal, Self

from pydantic import BaseModel, Field, model_validator

from app.schemas.judging import SHIPPED_POOL, RaterName, refuse_without_bank
from app.schemas.names import AdapterId, BankId, PoolId, Ref
from app.schemas.pairs import Strict
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

MOST_PAIRS: dict[AdapterKind, int] = {"head": 50_000, "lora": 20_000}
"""Pairs that a rule adapter of each kind can be taught with at most."""


class _OfFile(Announced):
    data: str = Field(
        pattern=r"^file-[0-9a-f]{32}$",
        description="Id of an uploaded file of pairs: at most 50,000 for a head, 20,000 for LoRA.",
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


TrainingRequest = Annotated[HeadRequest | LoraRequest, Field(discriminator="kind")]
"""What can be trained: by `method`, of which there is one as yet, and by the kinds that it has."""


class AdapterTask(BaseModel):
    """A rule adapter that a worker is asked to make: what a request names, with what it stood for then."""

    options: RuleAdapterOptions
    data: str
    pool: Ref
    bank: Ref | None


class TrainingAnswer(BaseModel):
    """What became of a training job."""

    id: str
    digest: str
    measures: AdapterMeasures
