"""Answering work at once where it is done soon, or with a job where it is not."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from fastapi import Response
from fastapi.responses import JSONResponse
from pydantic import BaseModel
from starlette.concurrency import run_in_threadpool

from app.errors import ApiError, Unprocessable
from app.jobs.collect import collect
from app.schemas.annotate import AnnotateResponse, FailedAnnotation
from app.schemas.jobs import Job, JobKind
from app.schemas.problem import FieldProblem, Responses, documented
from app.service import Service
from app.settings import Settings

_PREFERENCES = re.compile(r"^\s*(respond-async|wait\s*=\s*\"?(\d{1,4})\"?)\s*$", re.IGNORECASE)


ACCEPTED: Responses = {202: {"model": Job, "description": "Accepted; `Location` names the job."}}


def answers(invalid: str) -> Responses:
    """What the description of an endpoint that answers so says besides 200; `invalid` is what 422 means there."""
    return ACCEPTED | documented(
        {
            404: "No such direction.",
            413: "The body is too large.",
            422: invalid,
            503: "No worker is ready; `Retry-After` says when to come back.",
        }
    )


@dataclass(frozen=True, slots=True)
class Patience:
    """How long to wait for an answer before answering 202.

    Attributes:
        seconds: that long.
        applied: the `Prefer` header that was followed.
    """

    seconds: float
    applied: str | None = None

    @classmethod
    def of(cls, prefer: str | None, tokens: int, config: Settings) -> "Patience":
        """What the `Prefer` header asks for, or what the size of the work suggests."""
        for preference in (prefer or "").split(","):
            if match := _PREFERENCES.match(preference):
                seconds = min(float(match[2] or 0), config.sync_wait_seconds)
                return cls(seconds, f"wait={seconds:.0f}" if match[2] else "respond-async")
        return cls(config.sync_wait_seconds if tokens <= config.sync_tokens else 0.0)


async def answer_or_accept(
    service: Service, kind: JobKind, work: Sequence[BaseModel], rows: int, patience: Patience
) -> Response:
    """Queue work and answer 200 with its result, or 202 with its job.

    Raises:
        Unprocessable: nothing of it could be answered.
        ApiError: the job failed as a whole.
    """
    keep = service.settings.result_seconds
    job_id = await run_in_threadpool(service.jobs.submit, kind, work, rows=rows, keep_seconds=keep)
    job = await service.completions.follow(service.jobs, job_id, patience.seconds)
    if job is None or job.status == "in_progress":
        return accepted(job_id, job, patience.applied)
    if job.status == "failed":
        raise ApiError(f"the job failed: {job.error}")
    answer = await run_in_threadpool(collect, service.jobs, job)
    _refuse_if_all_failed(answer)
    return Response(answer.model_dump_json(), media_type="application/json")


def accepted(job_id: str, job: Job | None, applied: str | None = None) -> JSONResponse:
    """202 with a job and where to follow it."""
    headers = {"Location": f"/jobs/{job_id}", "Retry-After": "1"}
    if applied:
        headers["Preference-Applied"] = applied
    return JSONResponse(job.model_dump() if job else {"id": job_id}, 202, headers)


def _refuse_if_all_failed(answer: BaseModel) -> None:
    entries = answer.annotations if isinstance(answer, AnnotateResponse) else [answer]
    failed = [entry.error for entry in entries if isinstance(entry, FailedAnnotation)]
    if len(failed) < len(entries):
        return
    place = "/pairs/{}" if isinstance(answer, AnnotateResponse) else ""
    errors = [
        FieldProblem(pointer=place.format(index), code=error.code, detail=error.detail, counts=error.counts)
        for index, error in enumerate(failed)
    ]
    what = "no pair of the request could be annotated" if place else "the responses cannot be scored"
    raise Unprocessable(what, errors=errors)
