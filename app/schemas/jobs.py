"""Jobs as users see them; states are named as in OpenAI's batch API."""

from typing import Literal

from pydantic import BaseModel, Field

from app.schemas.names import Finite

JobStatus = Literal["in_progress", "completed", "failed", "cancelled"]


JobKind = Literal["annotate", "score", "reward", "direction", "training"]

JobStage = Literal["read", "teach", "instruct", "collect", "align", "measure", "train"]
"""A direction: read; a rule adapter: teach; a reward model: read, train, measure; RAHF: the others, and measure."""


class RequestCounts(BaseModel):
    """How many rows of a job are done; of one that trains, how many steps of its stage."""

    total: int
    completed: int
    failed: int


class Job(BaseModel):
    """A request that is being answered, or has been."""

    id: str
    kind: JobKind = Field(
        description="What it does: annotate pairs, score responses, give rewards, make a direction, or what "
        "POST /training asks."
    )
    status: JobStatus
    request_counts: RequestCounts
    created_at: float = Field(description="Unix time in seconds.")
    completed_at: float | None = None
    expires_at: float | None = Field(
        default=None, description="Unix time after which results are gone and the job answers 410; null until it ends."
    )
    results: str = Field(description="Where the results are, as far as there are any.")
    errors: str = Field(description="Where the rows are that could not be annotated.")
    file: str | None = Field(default=None, description="Id of the file that it annotates or learns from.")
    stage: JobStage | None = Field(
        default=None, description="What a job that trains is at, or was when it ended; null until it begins."
    )
    loss: Finite | None = Field(default=None, description="Of the last step of that stage, where it has one.")
    throughput: float | None = Field(
        default=None,
        description="Rows per second since a worker first had it in hand; null for what trains in several stages.",
    )
    eta_seconds: float | None = Field(
        default=None, description="Seconds until its end at the pace of the last minute; null where nothing moves."
    )
    error: str | None = Field(default=None, description="Why the job failed as a whole.")


class JobList(BaseModel):
    """Jobs, the newest first."""

    data: list[Job]
    has_more: bool = Field(description="Whether there are older ones: ask again with `after`, the last id of these.")


class RowError(BaseModel):
    """A row of a job that could not be annotated; never its text."""

    line: int
    id: str | None = Field(default=None, description="The pair's own id, as far as there is one.")
    code: str
    detail: str
    pointer: str = Field(default="", description="JSON pointer to the field in the row, empty for the whole row.")
    counts: dict[str, int] = Field(default_factory=dict)
