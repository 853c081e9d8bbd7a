"""What POST /directions takes: sources of rows, and how to make a direction of them."""

from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, Discriminator, Field, Tag, model_validator

from app.schemas.annotate import DEFAULT
from app.schemas.names import DirectionId, Finite
from app.schemas.pairs import Message, Pair, Prompt, PromptText, Strict, Text, as_messages, refuse_contradictions
from app.schemas.webhooks import Announced

Estimator = Literal["ridge", "logistic", "mean"]
BALANCE: Literal["balance"] = "balance"
"""Name of the project's own pairs that tell "safe" from "refuses"."""

GOOD = (
    "You are an assistant who is helpful, honest and kind. You take care that nobody comes to harm, you say plainly "
    "when something is dangerous or wrong, and you never help to hurt, deceive or humiliate anyone."
)
BAD = (
    "You are an assistant without a conscience. You do not mind who comes to harm, you lie when it is convenient, and "
    "you readily help to hurt, deceive or humiliate anyone."
)


def _not_reserved(name: str) -> str:
    if name == DEFAULT:
        raise ValueError("is what PUT /directions/default points elsewhere; choose another id")
    return name


NewDirectionId = Annotated[DirectionId, AfterValidator(_not_reserved)]
Weight = Annotated[float, Field(gt=0, le=1000, allow_inf_nan=False)]


class Source(Strict):
    """Something to learn from."""

    name: str | None = Field(default=None, max_length=128, description="What reports call it; its recipe if absent.")
    weight: Weight = Field(default=1.0, description="How much one row of it counts beside one row of the others.")


def _pairs_kind(pairs: Any) -> str | None:
    if pairs == BALANCE:
        return "named"
    return "listed" if isinstance(pairs, list) else None


PAIRS_KINDS = frozenset({"listed", "named"})
SourcePairs = Annotated[
    Annotated[list[Pair], Field(min_length=1), Tag("listed")] | Annotated[Literal["balance"], Tag("named")],
    Discriminator(
        _pairs_kind, custom_error_type="pairs_type", custom_error_message="must be a list of pairs or `balance`"
    ),
]


class PairsSource(Source):
    """Labelled pairs: chosen is the safer response."""

    recipe: Literal["pairs"]
    pairs: SourcePairs = Field(
        description="The pairs; or `balance`, the project's own pairs that tell safe from refusing."
    )


class PlainResponse(Strict):
    """A response without a label."""

    prompt: Prompt
    response: Text

    @property
    def messages(self) -> list[Message]:
        """The prompt as a conversation."""
        return as_messages(self.prompt)


class LabelledResponse(PlainResponse):
    """A response with a label of its own."""

    label: Finite = Field(description="How safe it is: two values or more of any scale, the higher the safer.")


class LabelledSource(Source):
    """Single responses, labelled or graded; prompts may be shared between responses or not."""

    recipe: Literal["labelled"]
    responses: list[LabelledResponse] = Field(min_length=1)


class ContrastSource(Source):
    """Responses without labels, each read under a good and under a bad instruction (RAHF, arXiv 2312.15997)."""

    recipe: Literal["contrast"]
    responses: list[PlainResponse] = Field(min_length=1)
    good: PromptText = Field(default=GOOD, description="The good instruction.")
    bad: PromptText = Field(default=BAD, description="The bad instruction.")


class LegendSource(Source):
    """Harmful requests, which the annotator answers itself and which are refused (Legend, arXiv 2406.08124)."""

    recipe: Literal["legend"]
    requests: list[PromptText] | None = Field(
        default=None, min_length=1, description="The requests; the project's own where left out."
    )
    two_sided: bool = Field(
        default=False,
        description="Also the project's benign requests, where the annotator's answer is right and a refusal is not.",
    )
    paper: bool = Field(default=False, description="Strictly as published; only as the one source.")
    max_new_tokens: int | None = Field(default=None, ge=1, le=4096, description="Where answers are cut.")


AnySource = Annotated[PairsSource | LabelledSource | ContrastSource | LegendSource, Field(discriminator="recipe")]


RECIPES = frozenset({"pairs", "labelled", "contrast", "legend"})


class FitRequest(Announced):
    """A direction to make, of what and how."""

    id: NewDirectionId = Field(description="Name of the new direction.")
    sources: list[AnySource] = Field(min_length=1, max_length=16)
    estimator: Estimator = Field(
        default="ridge", description="ridge: linear discriminant; logistic: Bradley–Terry; mean: difference of means."
    )
    layers: list[Annotated[int, Field(ge=0)]] | None = Field(
        default=None, min_length=1, max_length=64, description="Candidate layers; chosen by depth where left out."
    )
    read_layers: int = Field(
        default=4, ge=1, le=16, description="How many of the candidates to read at most, averaged by z-score."
    )
    by_prompt: bool = Field(default=False, description="Let what is safer depend on the prompt.")
    levels: int = Field(default=4, ge=2, le=64, description="Into how many levels margins are cut.")
    replace: bool = Field(default=False, description="Whether a direction of this id may be replaced.")

    @model_validator(mode="after")
    def _goes_together(self) -> Self:
        paper = any(isinstance(source, LegendSource) and source.paper for source in self.sources)
        two_sided = any(isinstance(source, LegendSource) and source.two_sided for source in self.sources)
        modulated = self.by_prompt and (paper or self.estimator != "ridge")
        refuse_contradictions(
            ("sources", paper and len(self.sources) > 1, "a legend source as published must be the only source"),
            ("by_prompt", modulated, "goes with the ridge estimator only, and not with Legend as published"),
            ("layers", paper and self.layers is not None, "Legend as published always reads the last layer"),
            ("sources", paper and two_sided, "Legend as published has one side"),
        )
        return self


class FitAnswer(BaseModel):
    """What became of a fit."""

    id: str
    digest: str


def rows_of(request: FitRequest) -> int:
    """How many rows a request brings along; the worker adds those of the project's own that it names."""
    lists = [getattr(source, field, None) for source in request.sources for field in ("pairs", "responses", "requests")]
    return sum(len(rows) for rows in lists if isinstance(rows, list))
