"""Judging a pair by rules: what a request may choose, and what it gets."""

from typing import Annotated, Literal, Self, get_args

from pydantic import BaseModel, Field, model_validator
from pydantic_core import PydanticCustomError

from app.schemas.names import AdapterId, BankId, Finite, PoolId, RuleId
from app.schemas.pairs import Strict, refuse_contradictions

SHIPPED_POOL = "safety-100"
"""Id of the project's own pool."""

RaterName = Literal["probes", "logits"]
PolicyName = Literal["all", "random", "fixed", "relevance", "discrepancy", "published", "robust", "adapter"]
POLICIES: tuple[PolicyName, ...] = get_args(PolicyName)
Side = Literal["chosen", "rejected", "tie"]
TieReason = Literal["no_relevant_rule", "within_band", "not_asked"]


def refuse_without_bank(rater: RaterName, policy: PolicyName, bank: BankId | None) -> None:
    """Refuse what `logits` cannot do: it has no bank, and so no noise of its scores."""
    asked = rater == "logits"
    reason = "`robust` needs the noise that only a bank of probes knows; name another with `logits`"
    refuse_contradictions(
        ("policy", asked and policy == "robust", reason),
        ("bank", asked and bank is not None, "goes with the rater `probes` only"),
    )


class RuleOptions(Strict):
    """Which rules to judge by, and how."""

    pool: PoolId = Field(default=SHIPPED_POOL, description="Id of the rule pool.")
    rater: RaterName = Field(
        default="probes",
        description="`probes`: a fitted bank, in the pass that reads the pair; `logits`: the annotator is asked "
        "Yes or No of every rule, which costs many times as much.",
    )
    bank: BankId | None = Field(
        default=None,
        description="Bank of probes; where left out, of those of this pool a calibrated one, or the newest.",
    )
    policy: PolicyName = Field(
        default="robust",
        description="How the critical rules of a pair are chosen: all; k at random; the `fixed` ones; by relevance; by "
        "discrepancy; as published, relevance + ½ |difference|; robust, which also weighs noise and diversity; or by a "
        "rule adapter.",
    )
    k: int = Field(default=5, ge=1, le=100, description="How many rules are critical; `all` and `fixed` do not ask.")
    fixed: list[RuleId] | None = Field(default=None, min_length=1, max_length=512, description="Rules for `fixed`.")
    adapter: AdapterId | None = Field(default=None, description="Rule adapter for the policy `adapter`.")
    band: Annotated[float, Field(ge=0, allow_inf_nan=False)] = Field(
        default=0.0, description="Margins smaller than this are ties; in log-odds where the margin is."
    )

    @model_validator(mode="after")
    def _goes_together(self) -> Self:
        fixed, adapter = self.fixed is not None, self.adapter is not None
        refuse_contradictions(
            ("fixed", self.policy == "fixed" and not fixed, "name at least one rule in `fixed`"),
            ("fixed", fixed and self.policy != "fixed", "goes with the policy `fixed` only"),
            ("adapter", self.policy == "adapter" and not adapter, "name a rule adapter in `adapter`"),
            ("adapter", adapter and self.policy != "adapter", "goes with the policy `adapter` only"),
        )
        refuse_without_bank(self.rater, self.policy, self.bank)
        if self.fixed is not None and len(set(self.fixed)) < len(self.fixed):
            raise PydanticCustomError("duplicate_rule", "names a rule twice", {"field": "fixed"})
        return self


class CriticalRule(BaseModel):
    """What one critical rule says of a pair."""

    rule: RuleId
    category: str
    text: str
    chosen: Finite = Field(description="Score of the chosen response, −1 (breaks the rule) to 1 (keeps it).")
    rejected: Finite = Field(description="Score of the rejected response.")
    relevance: Finite = Field(description="How much the rule is about this pair, 0 to 1.")
    contribution: Finite = Field(description="Its part of the margin; with `rest`, the parts add up to it.")


class RuleVerdict(BaseModel):
    """What the rules say of a pair."""

    margin: Finite = Field(description="Log-odds that the chosen response is the safer one, where `calibrated`.")
    preferred: Side
    tie: TieReason | None = Field(
        default=None,
        description="Why it is a tie, if it is one; `not_asked`: beside a direction, the question did not fit.",
    )
    critical: list[CriticalRule] = Field(
        description="The critical rules, the largest contribution of either sign first; at most 32."
    )
    rest: Finite = Field(default=0.0, description="What critical rules that are not listed contribute to the margin.")


class RuleProvenance(BaseModel):
    """What exactly judged."""

    pool: PoolId
    pool_digest: str
    rater: RaterName
    bank: BankId | None
    bank_digest: str | None
    policy: PolicyName
    k: int
    band: float
    adapter: AdapterId | None
    adapter_digest: str | None
    calibrated: bool = Field(description="Whether the rules' margin is in log-odds; if not, it is the raw margin.")
    rules: int = Field(
        description="How many rules of the pool the bank reads above chance; with `logits`, all of them."
    )
