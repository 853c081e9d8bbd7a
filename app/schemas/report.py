"""Everything measured about a direction: what its report shows."""

from pydantic import BaseModel, Field

from app.schemas.directions import Accuracy, DirectionCard
from app.schemas.names import Finite


class Behaviour(BaseModel):
    """What else a margin goes along with, over the pairs measured on."""

    auroc: Finite = Field(description="Chance that a pair's margin exceeds another pair's margin with sides swapped.")
    length_correlation: Finite = Field(description="Pearson's r of the margin with chosen minus rejected length.")
    refusal_correlation: Finite | None = Field(
        description="Pearson's r with chosen refuses minus rejected refuses; null where no pair differs in that."
    )


class SiteReading(Behaviour):
    """One layer and pooling by itself."""

    layer: int
    pooling: str
    accuracy: Accuracy = Field(description="Held-out pair accuracy of a ridge at this place alone.")
    split_half_cosine: Finite = Field(description="Cosine of the directions fitted on two halves of the prompts.")


class Control(BaseModel):
    """Something that a direction should beat, on the same pairs."""

    name: str
    accuracy: Accuracy
    should_respond: Accuracy | None = None
    should_refuse: Accuracy | None = None


class HistogramBin(BaseModel):
    """How many held-out margins lie in [low, high)."""

    low: Finite
    high: Finite
    count: int


class ReliabilityBin(BaseModel):
    """Pairs of about one confidence: how sure the margin was, and how often it was right."""

    confidence: Finite
    accuracy: Finite
    count: int


class DirectionReport(BaseModel):
    """A direction's report."""

    card: DirectionCard
    measured_on: str = Field(
        description="The pairs behind every figure but the refusal ones, and how they were held out."
    )
    accuracy: Accuracy | None = Field(description="Held-out pair accuracy; null where nothing was labelled.")
    behaviour: Behaviour | None
    swap_error: Finite | None = Field(
        description="Largest |margin + margin with sides swapped| of a pair re-read, in log-odds or raw units."
    )
    split_half_cosine: Finite | None
    calibration_error: Finite | None
    histogram: list[HistogramBin]
    reliability: list[ReliabilityBin]
    sites: list[SiteReading]
    controls: list[Control]
