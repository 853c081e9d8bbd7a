"""Jobs as users see them; states are named as in OpenAI's batch API."""

from typing import Literal

from pydantic import BaseModel, Field

JobStatus = Literal["in_progress", "completed", "failed"]


JobKind = Literal["annotate", "score", "direction"]


class RequestCounts(BaseModel):
    """How many rows of a job are done."""

    total: int
    completed: int
    failed: int


class Job(BaseModel):
    """A request that is being answered, or has been."""

    id: str
    kind: JobKind = Field(description="What it does: annotate pairs, score responses, or make a direction.")
    status: JobStatus
    request_counts: RequestCounts
    created_at: float = Field(description="Unix time in seconds.")
    completed_at: float | None = None
    expires_at: float = Field(description="Unix time after which results are gone and the job answers 410.")
    results: str = Field(description="Where the results are once the status is `completed`.")
    error: str | None = Field(default=None, description="Why the job failed as a whole.")
