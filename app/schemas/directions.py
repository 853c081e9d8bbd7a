"""Directions as users see them."""

from pydantic import BaseModel, Field

from app.schemas.annotate import DirectionId, Finite


class SiteCard(BaseModel):
    """One place that a direction reads."""

    layer: int = Field(ge=0, description="0-based block; the number of blocks means after the final norm.")
    pooling: str


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
    slope: Finite | None = Field(description="Log-odds per unit of raw margin; null where it was not calibrated.")
    recipe: str
    settings: dict[str, str | int | float | bool | None] = Field(default_factory=dict)
    readings: list[Reading] = Field(default_factory=list)
    created: str
    version: str


class DirectionList(BaseModel):
    """Directions that running workers hold."""

    directions: list[DirectionCard]
