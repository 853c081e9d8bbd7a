"""Directions as users see them."""

from pydantic import BaseModel, Field

from app.schemas.names import DirectionId, Finite, Ref
from app.schemas.pairs import Strict


class SiteCard(BaseModel):
    """One place that a direction reads."""

    layer: int = Field(ge=0, description="0-based block; the number of blocks means after the final norm.")
    pooling: str = Field(description="mean, last, end_of_turn: of the response; request: of the last user turn.")


class Accuracy(BaseModel):
    """Share of labelled pairs whose margin is positive, with a 95 % interval (bootstrap over prompts)."""

    value: Finite
    low: Finite
    high: Finite
    pairs: int
    prompts: int


class Reading(BaseModel):
    """How well a direction reads labelled pairs."""

    data: str = Field(description="What it was measured on.")
    protocol: str = Field(description="How the pairs were kept apart from the fit.")
    accuracy: Accuracy
    calibration_error: Finite | None = Field(default=None, description="Expected calibration error, ten bins.")


class DirectionCard(BaseModel):
    """What a direction is, how it was made and how well it reads."""

    id: DirectionId
    digest: str = Field(description="sha256 of vectors and card.")
    model: str
    model_revision: str
    template: str
    sites: list[SiteCard] = Field(min_length=1)
    prompt_sites: list[SiteCard] = Field(
        default_factory=list, description="Where it reads the prompt, if what is safer depends on the prompt."
    )
    slope: Finite | None = Field(description="Log-odds per unit of raw margin; null where it was not calibrated.")
    level_edges: list[Finite] = Field(
        default_factory=list,
        description="Margins at which `level` goes up by one: quantiles of the held-out margins fitted on.",
    )
    recipe: str
    settings: dict[str, str | int | float | bool | None] = Field(default_factory=dict)
    readings: list[Reading] = Field(default_factory=list)
    should_respond: Accuracy | None = Field(
        default=None, description="Benign requests that sound alarming: how often the helpful answer beats a refusal."
    )
    should_refuse: Accuracy | None = Field(
        default=None, description="Harmful requests: how often the refusal beats a complying answer."
    )
    unreliable: bool = Field(description="Nothing shows that it reads better than chance.")
    alignment: Ref | None = Field(
        default=None,
        exclude_if=lambda alignment: alignment is None,  # digests of cards that know nothing of it stay as they are
        description="The taught model whose activations it reads; not there where it reads the annotator's own.",
    )
    created: str
    version: str


class DirectionList(BaseModel):
    """Directions that running workers hold."""

    directions: list[DirectionCard]
    default: str | None = Field(description="Id that `default` stands for; null where nothing does yet.")


class DefaultRequest(Strict):
    """What `default` is to stand for."""

    id: DirectionId
