"""Answering work at once where it is done soon, or with a job where it is not."""

import re
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial

from fastapi import Response
from fastapi.responses import JSONResponse
from pydantic import BaseModel
from redis.exceptions import RedisError
from starlette.background import BackgroundTask
from starlette.concurrency import run_in_threadpool

from app.auth.caller import Caller
from app.auth.quota import spend
from app.errors import Conflict, Gone, Unprocessable, problem_response
from app.idempotent import Attempt
from app.jobs.collect import RefusedQueries
from app.jobs.submission import QueueFull, Submission
from app.schemas.annotate import AnnotateResponse, FailedAnnotation, PairProblem
from app.schemas.jobs import Job
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
            409: "The first request with this `Idempotency-Key` is still being answered; `Location` names its job.",
            410: "What came of the first request with this `Idempotency-Key` has been deleted.",
            413: "The body is too large.",
            422: invalid,
            503: "The queue is full, or no worker is ready; `Retry-After` says when to come back.",
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


async def submit_once(
    service: Service, caller: Caller, attempt: Attempt, tokens: int, make: Callable[[], Submission]
) -> dict[str, str]:
    """Make a job of a request, unless it is one already; returns headers that say what is left of the quota.

    Args:
        service: where to.
        caller: who pays, unless the request is refused.
        attempt: the request.
        tokens: what it costs.
        make: what it is.

    Raises:
        OverQuota: the caller has spent too much.
        QueueFull: not now.
        Conflict: the request is a repetition of one that is being answered.
    """
    before = await run_in_threadpool(service.jobs.job, attempt.job_id) if attempt.repeatable else None
    if before is not None and before.status == "in_progress":
        headers = {"Location": f"/jobs/{attempt.job_id}", "Retry-After": "1"}
        raise Conflict("the first request with this Idempotency-Key is still being answered", headers=headers)
    if before is not None:
        return {}
    limits = await spend(service, caller, tokens)
    try:
        await run_in_threadpool(_submit, service, make, attempt.job_id)
    except Exception:
        with suppress(RedisError):
            await spend(service, caller, -tokens)
        raise
    return limits


def _submit(service: Service, make: Callable[[], Submission], job_id: str) -> None:
    work = make()
    try:
        service.submit(work, job_id)
    except QueueFull:
        if service.jobs.job(job_id) is None:  # a repetition may have been taken meanwhile
            service.artifacts.delete(f"jobs/{job_id}")
        raise


async def answer(service: Service, job_id: str, patience: Patience, *, keep: bool) -> Response:
    """200 with the result of a job if it is there soon, else 202 with the job.

    Args:
        service: where it is.
        job_id: which.
        patience: how long to wait.
        keep: whether its client may ask again; an answer that was given at once is not kept otherwise, and not long.

    Raises:
        Gone: the request was made before, and what came of it was deleted.
    """
    if not patience.seconds and not keep:  # however soon it is done: who wants no answer now gets none
        return accepted(job_id, await run_in_threadpool(service.jobs.job, job_id), patience.applied)
    job, result = await outcome(service, job_id, patience.seconds)
    if job is None or job.status == "in_progress":
        return accepted(job_id, job, patience.applied)
    over = service.jobs.drop if not keep else partial(service.jobs.shorten, seconds=service.settings.repeat_seconds)
    after = BackgroundTask(over, job_id)
    if _expired(job):
        raise Gone("the results of this job have expired")
    if job.status == "cancelled":
        return problem_response(409, "the job was cancelled", background=after)
    if job.status == "failed":
        return problem_response(500, f"the job failed: {job.error}", background=after)
    assert result is not None
    if (refused := _refused(result)) is not None:
        return problem_response(422, refused.detail, errors=refused.errors, background=after)
    return Response(result.model_dump_json(), media_type="application/json", background=after)


async def outcome(service: Service, job_id: str, seconds: float) -> tuple[Job | None, BaseModel | None]:
    """A job once it is over, or as it is after `seconds`; its result where it is completed and has not expired."""
    await service.completions.wait(service.jobs, job_id, seconds)
    return await run_in_threadpool(_outcome, service, job_id)


def _outcome(service: Service, job_id: str) -> tuple[Job | None, BaseModel | None]:
    job, kept = service.jobs.job_and_answers(job_id)
    there = job is not None and job.status == "completed" and not _expired(job)
    return job, service.answers(job_id).whole(job, kept) if job and there else None


def _expired(job: Job) -> bool:
    return job.expires_at is not None and job.expires_at <= time.time()


def accepted(job_id: str, job: Job | None, applied: str | None = None) -> JSONResponse:
    """202 with a job and where to follow it."""
    headers = {"Location": f"/jobs/{job_id}", "Retry-After": "1"}
    if applied:
        headers["Preference-Applied"] = applied
    return JSONResponse(job.model_dump() if job else {"id": job_id}, 202, headers)


def _refused(answer: BaseModel) -> Unprocessable | None:
    """What to answer where nothing could be: every pair failed, or the one item, or a query that others wait for."""
    if isinstance(answer, RefusedQueries):
        return _unprocessable("not every query has a reward", "/query/{}", answer.problems)
    entries = answer.annotations if isinstance(answer, AnnotateResponse) else [answer]
    failed = [entry.error for entry in entries if isinstance(entry, FailedAnnotation)]
    if len(failed) < len(entries):
        return None
    if isinstance(answer, AnnotateResponse):
        return _unprocessable("no pair of the request could be annotated", "/pairs/{}", dict(enumerate(failed)))
    return _unprocessable("the responses cannot be scored", "", dict(enumerate(failed)))


def _unprocessable(what: str, pointer: str, problems: Mapping[int, PairProblem]) -> Unprocessable:
    errors = [
        FieldProblem(pointer=pointer.format(place), code=error.code, detail=error.detail, counts=error.counts)
        for place, error in problems.items()
    ]
    return Unprocessable(what, errors=errors)
