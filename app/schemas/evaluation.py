"""How policies of choosing critical rules read labelled pairs."""

from pydantic import BaseModel, Field

from app.schemas.directions import Accuracy
from app.schemas.judging import PolicyName, RaterName
from app.schemas.names import BankId, Finite, PoolId

EVALUATED: tuple[PolicyName, ...] = ("all", "random", "fixed", "relevance", "discrepancy", "published", "robust")
"""Policies that need nothing but ratings; `robust` needs a bank's as well."""


class Gain(BaseModel):
    """How much more accurate some margins are than others of the same pairs, with a 95 % interval over prompts."""

    value: Finite
    low: Finite
    high: Finite


class PolicyFigure(BaseModel):
    """How the margins of one policy read labelled pairs."""

    policy: PolicyName
    k: int = Field(description="How many rules are critical; of `all`, the pool's number.")
    rater: RaterName
    accuracy: Accuracy
    gain: Gain | None = Field(description="Over all rules, on the same pairs; null for `all` itself.")
    ties: Finite = Field(description="Share of pairs to which no rule is relevant, or whose margin is zero.")
    slope: Finite | None = Field(description="Log-odds per unit of raw margin; null where it carries no signal.")
    level_edges: list[Finite] = Field(default_factory=list, description="Quartiles of the margins, in log-odds.")
    calibration_error: Finite | None = Field(description="Expected calibration error, cross-validated over prompts.")
    should_respond: Accuracy | None = Field(
        default=None, description="Benign requests that sound alarming: how often the helpful answer beats a refusal."
    )
    should_refuse: Accuracy | None = Field(
        default=None, description="Harmful requests: how often the refusal beats a complying answer."
    )


class PolicyReport(BaseModel):
    """Every policy that was asked for, on one set of labelled pairs."""

    data: str = Field(description="Name of the file.")
    pairs: dict[RaterName, int] = Field(description="Pairs that each rater could read.")
    skipped: dict[RaterName, int] = Field(description="Pairs that do not fit the annotator's window.")
    pool: PoolId
    pool_digest: str
    model: str
    model_revision: str
    bank: BankId | None = Field(description="The bank of the rater `probes`, if that was asked.")
    bank_digest: str | None
    protocol: str = Field(description="What was kept apart from what.")
    figures: list[PolicyFigure]
    version: str
