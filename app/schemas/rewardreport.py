"""How well a reward model reads pairs, and chooses among responses."""

from typing import Literal

from pydantic import BaseModel, Field

from app.schemas.directions import Accuracy
from app.schemas.evaluation import Gain
from app.schemas.names import Finite
from app.schemas.report import ReliabilityBin


class QuantileFigure(BaseModel):
    """Pairs between two quantiles of something."""

    low: Finite
    high: Finite
    accuracy: Accuracy


class LengthFigures(BaseModel):
    """Whether rewards go by length, in tokens."""

    correlation: Finite | None = Field(
        description="Pearson's r of r_chosen − r_rejected with the difference in length; null where one never changes."
    )
    chosen_shorter: Accuracy | None = Field(description="Pairs whose chosen response is the shorter one.")
    chosen_longer: Accuracy | None = Field(description="Pairs whose chosen response is the longer one.")


class SubsetFigure(BaseModel):
    """One subset of a benchmark."""

    subset: str
    accuracy: Accuracy


class SectionFigure(BaseModel):
    """A section of RewardBench: the mean accuracy of its subsets, weighted by their prompts in the benchmark."""

    section: str
    accuracy: Gain = Field(description="The interval resamples the prompts of each subset.")
    subsets: list[str] = Field(description="Those that the file has.")
    missing: list[str] = Field(description="Those that it lacks: then this is not the benchmark's figure.")


class PairFigures(BaseModel):
    """How the rewards read the pairs of one file."""

    data: str
    pairs: int
    refused: dict[str, int] = Field(description="Pairs that could not be read, by why.")
    accuracy: Accuracy
    loss: Finite = Field(description="Mean of −log σ(r_chosen − r_rejected), no margins.")
    calibration_error: Finite = Field(description="Of σ(r_chosen − r_rejected) as a probability, ten bins.")
    slope: Finite | None = Field(description="What rewards would have to be multiplied by to fit best as log-odds.")
    reliability: list[ReliabilityBin]
    quantiles_of: Literal["margin", "reward difference"] = Field(
        description="The margin of the rows; where there is none, how far the rewards are apart, whichever is higher."
    )
    quantiles: list[QuantileFigure]
    length: LengthFigures
    subsets: list[SubsetFigure]
    sections: list[SectionFigure]


class Mean(BaseModel):
    """A mean with a 95 % interval over prompts."""

    value: Finite
    low: Finite
    high: Finite


class BestOfN(BaseModel):
    """What a judge thinks of the responses with the highest rewards."""

    data: str
    judge: str = Field(description="`direction:ID` or `reward:NAME`.")
    unit: str = Field(description="Of the judge's scores.")
    prompts: int
    refused: dict[str, int] = Field(description="Prompts that model or judge could not read, by why.")
    responses: Finite = Field(description="Mean number of responses to a prompt.")
    best: Mean = Field(description="The judge's score of the response with the highest reward.")
    first: Mean = Field(description="Of the first response.")
    random: Mean = Field(description="Of one drawn at random: the mean over all of them.")
    most: Mean = Field(description="Of the one that the judge thinks best: more cannot be had.")
    over_first: Gain = Field(description="`best` less `first`, by prompts.")
    over_random: Gain
    win_rate: Accuracy = Field(description="How often the judge puts `best` above `first`; the same response is a tie.")


class RewardReport(BaseModel):
    """A reward model's report."""

    model: str
    model_revision: str
    template: str
    dtype: str
    sets: list[PairFigures]
    should_respond: Accuracy | None = Field(
        default=None, description="Benign requests that sound alarming: how often the helpful answer beats a refusal."
    )
    should_refuse: Accuracy | None = Field(
        default=None, description="Harmful requests: how often the refusal beats a complying answer."
    )
    best_of_n: BestOfN | None = None
    version: str
