"""Banks of rule probes as users see them."""

from typing import Annotated

from pydantic import BaseModel, Field

from app.schemas.directions import Accuracy, SiteCard
from app.schemas.judging import PolicyName
from app.schemas.names import BankId, Finite, PoolId, RuleId


class Auc(BaseModel):
    """Chance that a score of the upper side exceeds one of the lower, with a 95 % interval (bootstrap over prompts)."""

    value: Finite
    low: Finite
    high: Finite
    above: int = Field(description="Labels on the upper side: keeps, or relevant.")
    below: int = Field(description="Labels on the lower side.")


class ProbeCard(BaseModel):
    """How well a bank reads one rule."""

    rule: RuleId
    keeps: Auc | None = Field(description="Keeping against breaking responses, held out; null with too few labels.")
    relevant: Auc | None = Field(description="Exchanges where it matters against others, held out; null likewise.")
    noise: Finite = Field(ge=0, description="Standard deviation of the difference of two responses that keep it alike.")
    used: bool = Field(description="Whether the interval of `keeps` lies above one half.")


class PolicyReading(BaseModel):
    """How the margins of one policy read labelled pairs, and the scale that makes log-odds of them."""

    policy: PolicyName
    k: int
    slope: Annotated[float, Field(gt=0, allow_inf_nan=False)] = Field(description="Log-odds per unit of raw margin.")
    level_edges: list[Finite] = Field(default_factory=list, description="Quantiles of the margins, in log-odds.")
    accuracy: Accuracy
    calibration_error: Finite = Field(description="Expected calibration error, cross-validated over prompts.")
    data: str = Field(description="Which pairs.")


class BankCard(BaseModel):
    """What a bank of probes is, how it was made and how well it reads."""

    id: BankId
    digest: str = Field(description="sha256 of numbers and card.")
    pool: PoolId
    pool_digest: str
    model: str
    model_revision: str
    template: str
    sites: list[SiteCard] = Field(min_length=1)
    prompt_sites: list[SiteCard] = Field(default_factory=list, description="Where relevance reads the prompt as well.")
    rules: list[ProbeCard] = Field(min_length=1, description="By id of the rule, as in the pool.")
    source: str = Field(description="exchanges, rows or logits.")
    settings: dict[str, str | int | float | bool | None] = Field(default_factory=dict)
    protocol: str = Field(description="How the labels were kept apart from the fit.")
    readings: list[PolicyReading] = Field(default_factory=list, description="Policies that are calibrated.")
    created: str
    version: str

    def reading(self, policy: PolicyName, k: int) -> PolicyReading | None:
        """How the margins of a policy are calibrated; None if they are not. `all` does not ask for k."""
        found = (r for r in self.readings if r.policy == policy and (r.k == k or policy == "all"))
        return next(found, None)

    @property
    def calibrated(self) -> bool:
        """Whether the margins of any policy are."""
        return bool(self.readings)

    @property
    def used(self) -> int:
        """How many rules read above chance."""
        return sum(rule.used for rule in self.rules)


class BankList(BaseModel):
    """The banks that there are."""

    banks: list[BankCard]
