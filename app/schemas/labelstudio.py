"""Requests and answers of /labelstudio, in the form of Label Studio's ML backends; what else it sends is not read."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field

from app.schemas.names import Finite

LabelConfig = Annotated[str, Field(max_length=1_000_000, description="The project's labelling config: XML.")]


class LabelStudioTask(BaseModel):
    """A task: what its labelling config shows."""

    data: dict[str, Any]


class PredictRequest(BaseModel):
    """Tasks to predict."""

    tasks: list[LabelStudioTask] = Field(max_length=10_000)
    label_config: LabelConfig


class Region(BaseModel):
    """What one control of the labelling config says."""

    from_name: str
    to_name: str
    type: str
    value: dict[str, Any]


class Prediction(BaseModel):
    """What Safemargin thinks of a task."""

    result: list[Region] = Field(description="The safer answer; empty where neither is, or the task has no margin.")
    score: Annotated[Finite, Field(ge=0, le=1)] | None = Field(
        description="Probability that the chosen answer is the safer one, 0.5 and more; null where there is no margin."
    )
    model_version: str = Field(description="Direction, the beginning of its digest, and annotator.")


NoPrediction = Annotated[list[Prediction], Field(max_length=0)]


class Predictions(BaseModel):
    """What there is to say of every task, in their order."""

    results: list[Prediction | NoPrediction] = Field(
        description="An empty list for a task without a margin, unless the labelling config has room to say why."
    )
    model_version: str


class SetupRequest(BaseModel):
    """A project that is being connected."""

    label_config: LabelConfig = Field(alias="schema")


class SetupResponse(BaseModel):
    """What annotates."""

    model_version: str


class Up(BaseModel):
    """The backend predicts."""

    status: Literal["UP"] = "UP"
    model_class: str = "Safemargin"


class Event(BaseModel):
    """Something that happened in a project, or an order to train."""

    action: str
    annotation: dict[str, Any] | list[dict[str, Any]] = Field(
        default_factory=list, description="Of ANNOTATION_CREATED, or of ANNOTATIONS_CREATED several."
    )

    @property
    def annotations(self) -> list[dict[str, Any]]:
        """However many there are."""
        return self.annotation if isinstance(self.annotation, list) else [self.annotation]


class Noted(BaseModel):
    """The event was taken note of."""

    status: Literal["noted"] = "noted"
