"""Banks of rule probes as users see them."""

from pydantic import BaseModel, Field

from app.schemas.annotate import DirectionId, Finite
from app.schemas.directions import SiteCard
from app.schemas.rules import PoolId, RuleId

BankId = DirectionId


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
    created: str
    version: str

    @property
    def used(self) -> int:
        """How many rules read above chance."""
        return sum(rule.used for rule in self.rules)


class BankList(BaseModel):
    """The banks that there are."""

    banks: list[BankCard]
