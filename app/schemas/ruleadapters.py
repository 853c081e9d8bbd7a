"""Rule adapters as users see them."""

from typing import Literal

from pydantic import BaseModel, Field

from app.schemas.directions import SiteCard
from app.schemas.judging import RaterName
from app.schemas.names import AdapterId, BankId, Finite, PoolId
from app.schemas.rulebanks import PolicyReading

AdapterKind = Literal["head", "lora"]
TaughtPolicy = Literal["relevance", "discrepancy", "published", "robust"]
ChooserName = Literal["adapter", "frequent", "critical", "all"]


class Estimate(BaseModel):
    """A mean with a 95 % interval (bootstrap over prompts)."""

    value: Finite
    low: Finite
    high: Finite


class ChooserReading(BaseModel):
    """How well one way to choose a pair's rules does on pairs held out.

    A label is the side that the margin by the chosen rules prefers; a tie agrees by half.
    """

    chooser: ChooserName = Field(
        description="adapter; frequent: always the k rules that are critical most often; critical: the policy itself, "
        "which rates every rule first; all: every rule."
    )
    precision: Estimate | None = Field(default=None, description="Share of its k rules that are critical.")
    recall: Estimate | None = Field(default=None, description="Share of the critical rules that are among its k.")
    with_all: Estimate = Field(description="How often its label is that by all rules.")
    with_critical: Estimate = Field(description="How often its label is that by the critical rules.")
    with_human: Estimate = Field(description="How often its label is the human preference.")


class AdapterMeasures(BaseModel):
    """How well a rule adapter chooses, on prompts that it did not see."""

    pairs: int
    prompts: int
    chance: Finite = Field(description="Precision, and recall, of k rules drawn at random from those the rater uses.")
    choosers: list[ChooserReading]
    swapped_alike: Finite = Field(description="Share of pairs whose choice stays as it is with the sides exchanged.")
    protocol: str = Field(description="How the pairs were kept apart from the fit.")

    def of(self, chooser: ChooserName) -> ChooserReading:
        """The reading of one chooser."""
        return next(reading for reading in self.choosers if reading.chooser == chooser)


class AdapterCard(BaseModel):
    """What a rule adapter is, what taught it and how well it chooses."""

    id: AdapterId
    digest: str = Field(description="sha256 of numbers and card.")
    kind: AdapterKind = Field(
        description="head: on the annotator's activations, in the pass that reads a pair; lora: a sequence classifier."
    )
    pool: PoolId
    pool_digest: str
    rater: RaterName = Field(description="Whose ratings say which rules were critical.")
    bank: BankId | None = Field(description="The probes of that rater.")
    bank_digest: str | None
    policy: TaughtPolicy = Field(description="What made rules critical.")
    k: int
    model: str
    model_revision: str
    template: str
    sites: list[SiteCard] = Field(default_factory=list, description="Where a head reads the responses.")
    prompt_sites: list[SiteCard] = Field(default_factory=list, description="Where a head reads the prompt.")
    measures: AdapterMeasures
    reading: PolicyReading | None = Field(
        default=None,
        description="What makes log-odds of the margins by its k rules, with the rater that taught it; null where "
        "these carry no signal.",
    )
    settings: dict[str, str | int | float | bool | None] = Field(default_factory=dict)
    created: str
    version: str


class AdapterList(BaseModel):
    """The rule adapters that there are."""

    adapters: list[AdapterCard]
