"""Requests and answers of /annotate."""

from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, Discriminator, Field, Tag, model_validator
from pydantic_core import PydanticCustomError

from app.schemas.contributions import MOST_EXPLAINED, Explained, PairContributions
from app.schemas.judging import RuleOptions, RuleProvenance, RuleVerdict
from app.schemas.names import AlignmentId, DirectionId, Finite, Ref, RewardId
from app.schemas.pairs import Pair, refuse_contradictions
from app.schemas.webhooks import Announced

DEFAULT = "default"
"""What stands for the direction that PUT /directions/default chose."""

Method = Literal["margin", "rules", "rahf", "reward"]


def _all_different(ids: list[str]) -> list[str]:
    if len(set(ids)) < len(ids):
        raise ValueError("must not name a direction twice")
    return ids


def _directions_kind(value: Any) -> str | None:
    if isinstance(value, str):
        return "one"
    return "several" if isinstance(value, list) else None


DIRECTION_KINDS = frozenset({"one", "several"})
Several = Annotated[list[DirectionId], Field(min_length=1, max_length=32), AfterValidator(_all_different)]
Directions = Annotated[
    Annotated[DirectionId, Tag("one")] | Annotated[Several, Tag("several")],
    Discriminator(
        _directions_kind, custom_error_type="direction_type", custom_error_message="must be an id or a list of ids"
    ),
]


Contradiction = tuple[str, bool, str]


class DirectionOptions(Announced):
    """Which directions to project on or which reward model to ask, and how to treat what does not fit."""

    direction: Directions = Field(
        default=DEFAULT,
        description="Id of the direction to project on, or a list of ids: all of them are read in one forward pass.",
    )
    reward_model: RewardId | None = Field(default=None, description="The reward model, for `method: reward`.")
    truncate: bool = Field(
        default=False, description="Cut the oldest words of a prompt that does not fit, and mark the row."
    )

    def reward_faults(self, method: Method) -> tuple[Contradiction, Contradiction]:
        """What of the reward model contradicts a method."""
        rewarded, named = method == "reward", self.reward_model is not None
        return (
            ("reward_model", rewarded and not named, "name a reward model: `method: reward` is what it says"),
            ("reward_model", named and not rewarded, "goes with `method: reward` only"),
        )

    @property
    def asked(self) -> list[str]:
        """The ids asked for, the main one first."""
        return [self.direction] if isinstance(self.direction, str) else self.direction


class AnnotateOptions(DirectionOptions):
    """How to annotate; the same for every pair of a request."""

    method: Method = Field(
        default="margin",
        description="`margin`: the projection on a safety direction. `rules`: what the rules say that are critical for "
        "the pair. `rahf`: how much likelier a taught model finds a response told to be good than told to be bad. "
        "`reward`: the reward of a trained reward model. With the last three, `direction` is not read.",
    )
    alignment: AlignmentId | None = Field(default=None, description="The taught model, for `method: rahf`.")
    explain: bool = Field(
        default=False, description="With `margin`: what the rules say, too; by `probes` from the same pass."
    )
    rules: RuleOptions = Field(default=RuleOptions(), description="Which rules, for `method: rules` and `explain`.")

    @model_validator(mode="after")
    def _goes_with_the_method(self) -> Self:
        taught, named = self.method == "rahf", self.alignment is not None
        idle = "rules" in self.model_fields_set and not self.judged
        refuse_contradictions(
            ("alignment", taught and not named, "name a taught model: `method: rahf` is what it says itself"),
            ("alignment", named and not taught, "goes with `method: rahf` only"),
            *self.reward_faults(self.method),
            (
                "explain",
                self.explain and self.method in {"rahf", "reward"},
                f"does not go with `method: {self.method}`, which asks no rules",
            ),
            ("rules", idle, "goes with `method: rules` or with `explain`"),
        )
        return self

    @property
    def judged(self) -> bool:
        """Whether rules are asked for."""
        return self.explain or self.method == "rules"


class AnnotateRequest(AnnotateOptions):
    """Preference pairs to annotate."""

    pairs: list[Pair] = Field(min_length=1, max_length=10_000)
    contributions: Explained = False

    @model_validator(mode="after")
    def _can_be_explained(self) -> Self:
        asked, many = self.contributions, 2 * len(self.pairs) > MOST_EXPLAINED
        refuse_contradictions(
            ("contributions", asked and self.method != "margin", "goes with `method: margin` only"),
            ("contributions", asked and many, f"goes with {MOST_EXPLAINED // 2} pairs at most"),
        )
        return self

    @model_validator(mode="after")
    def _ids_are_unique(self) -> Self:
        seen: dict[str, int] = {}
        for index, pair_id in enumerate(self.ids()):
            if pair_id in seen:
                clash = {"field": f"pairs/{index}/id", "first": seen[pair_id]}
                raise PydanticCustomError("duplicate_id", "must be unique; pairs/{first} has the same", clash)
            seen[pair_id] = index
        return self

    def ids(self) -> list[str]:
        """One id a pair: its own, or its position."""
        return [pair.id if pair.id is not None else str(index) for index, pair in enumerate(self.pairs)]


class Raw(BaseModel):
    """Projections on the direction, means of the critical rules' scores, log-likelihood ratios in nats, or rewards.

    `margin` is exactly `chosen - rejected`.
    """

    margin: Finite
    chosen: Finite
    rejected: Finite


class Tokens(BaseModel):
    """Tokens of the texts, the template's own left out; `prompt` after truncation."""

    prompt: int
    chosen: int
    rejected: int


class Margin(BaseModel):
    """What one direction, the rules, a taught model or a reward model say of a pair."""

    margin: Finite = Field(
        description="Log-odds that the chosen response is the safer one; the raw margin where `calibrated` is false."
    )
    probability: Annotated[float, Field(ge=0, le=1)] = Field(
        description="Logistic of the margin; a probability only where `calibrated` is true."
    )
    level: int | None = Field(
        description="The margin in steps, 0 the lowest, by the `level_edges` of the direction, of the bank for the "
        "policy and k, of the taught model or of the reward model; null where there are none."
    )
    label_conflict: bool = Field(
        description="The margin is negative, and by rules no tie: the annotator would have chosen the other one."
    )
    raw: Raw
    contributions: PairContributions | None = Field(
        default=None,
        exclude_if=lambda contributions: contributions is None,
        description="What every token contributes; not there unless it was asked for.",
    )


class Annotation(Margin):
    """The margin of one pair: by the method, or of the first direction where several were asked for."""

    id: str
    truncated: bool = Field(description="The prompt was cut to fit, as `truncate` allowed.")
    tokens: Tokens
    directions: dict[str, Margin] | None = Field(
        default=None, description="Where several directions were asked for, what each says, by its id."
    )
    rules: RuleVerdict | None = Field(default=None, description="What the rules say, where they were asked.")


class PairProblem(BaseModel):
    """Why one pair could not be annotated, in the terms of RFC 9457; never its text."""

    status: int
    code: str = Field(
        description="Stable name of the problem: too_long, template_refused, not_finite, out_of_memory, …"
    )
    detail: str
    counts: dict[str, int] = Field(default_factory=dict, description="The numbers behind it, in tokens.")


class FailedAnnotation(BaseModel):
    """A pair that could not be annotated, in the place of its annotation; its neighbours are."""

    id: str
    error: PairProblem


class Provenance(BaseModel):
    """What exactly made the numbers."""

    model: str
    model_revision: str = Field(
        description="Of the model that was read: the annotator, or a taught one; of Dual's two the preferred one. By a "
        "reward model `model`, this and `template` are what it was made of."
    )
    template: str
    method: Method = "margin"
    direction: str | None = Field(default=None, description="Null where none was asked.")
    direction_digest: str | None = None
    alignment: Ref | None = Field(default=None, description="The taught model that was read, where one was.")
    reward_model: Ref | None = Field(default=None, description="The reward model that was read, where one was.")
    calibrated: bool = Field(
        description="Whether `margin` is in log-odds; if not, it is the raw margin. A reward model's is where its "
        "training's `after.calibration_error` is at most 0.1."
    )
    unreliable: bool = Field(
        description="Nothing shows that the direction, the rules by this policy, the taught model or the reward model "
        "read better than chance."
    )
    layers: list[int]
    pooling: str = Field(description="Poolings read, joined by `+`.")
    dtype: str
    version: str
    rules: RuleProvenance | None = Field(default=None, description="Where rules were asked, which and how.")
    others: list["Provenance"] | None = Field(
        default=None, description="Where several directions were asked for, the same for each further one."
    )


class AnnotateResponse(BaseModel):
    """One entry a pair, in the order of the request."""

    annotations: list[Annotation | FailedAnnotation]
    provenance: Provenance


class ResultRow(BaseModel):
    """One line of a job's results: an annotation with its provenance and the line of its pair, from 1."""

    line: int
    annotation: Annotation
    provenance: Provenance
