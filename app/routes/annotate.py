"""POST /annotate: preference pairs in, margins out."""

import re
from typing import Annotated, Any

from fastapi import APIRouter, Header, Response
from fastapi.responses import JSONResponse
from starlette.concurrency import run_in_threadpool

from app.body import JsonRoute
from app.errors import ApiError, Unprocessable
from app.jobs.cut import cut
from app.schemas.annotate import AnnotateRequest, AnnotateResponse, FailedAnnotation
from app.schemas.jobs import Job
from app.schemas.problem import FieldProblem, Problem
from app.service import ServiceDep
from app.settings import Settings

router = APIRouter(route_class=JsonRoute, tags=["annotate"])

_PREFERENCES = re.compile(r"^\s*(respond-async|wait\s*=\s*\"?(\d{1,4})\"?)\s*$", re.IGNORECASE)
_PROBLEM: dict[str, Any] = {"model": Problem}


@router.post(
    "/annotate",
    response_model=AnnotateResponse,
    summary="Annotate preference pairs with safety margins",
    responses={
        202: {"model": Job, "description": "Accepted; `Location` names the job."},
        404: {**_PROBLEM, "description": "No such direction."},
        413: {**_PROBLEM, "description": "The body is too large."},
        422: {**_PROBLEM, "description": "A field is not valid, or no pair could be annotated."},
        503: {**_PROBLEM, "description": "No worker is ready; `Retry-After` says when to come back."},
    },
)
async def annotate(
    request: AnnotateRequest, service: ServiceDep, prefer: Annotated[str | None, Header()] = None
) -> Response:
    """Answers 200 with one annotation per pair, in order, or 202 with a job where that would take too long.

    A pair that cannot be annotated (it is longer than the annotator's window, say) has an `error` in its place and
    costs its neighbours nothing; only if no pair of the request could be annotated is the answer 422. `Prefer:
    respond-async` asks for 202 at once, `Prefer: wait=5` for 202 after five seconds.
    """
    await service.direction(request.direction)
    chunks, tokens = await run_in_threadpool(cut, request, service.settings.chunk_tokens)
    patience, applied = _patience(prefer, tokens, service.settings)
    job_id = await run_in_threadpool(service.jobs.submit, chunks, keep_seconds=service.settings.result_seconds)
    service.metrics.pairs.inc(len(request.pairs))
    job = await service.completions.follow(service.jobs, job_id, patience)
    if job is None or job.status == "in_progress":
        headers = {"Location": f"/jobs/{job_id}", "Retry-After": "1"}
        if applied:
            headers["Preference-Applied"] = applied
        return JSONResponse(job.model_dump() if job else {"id": job_id}, 202, headers)
    if job.status == "failed":
        raise ApiError(f"the annotation failed: {job.error}")
    answer = await run_in_threadpool(service.jobs.collect, job_id)
    _refuse_if_all_failed(answer)
    return Response(answer.model_dump_json(), media_type="application/json")


def _patience(prefer: str | None, tokens: int, config: Settings) -> tuple[float, str | None]:
    """Seconds to wait before answering 202, and the preference that was followed."""
    for preference in (prefer or "").split(","):
        if match := _PREFERENCES.match(preference):
            seconds = min(float(match[2] or 0), config.sync_wait_seconds)
            return seconds, f"wait={seconds:.0f}" if match[2] else "respond-async"
    return config.sync_wait_seconds if tokens <= config.sync_tokens else 0.0, None


def _refuse_if_all_failed(answer: AnnotateResponse) -> None:
    failed = [entry.error for entry in answer.annotations if isinstance(entry, FailedAnnotation)]
    if len(failed) < len(answer.annotations):
        return
    errors = [
        FieldProblem(pointer=f"/pairs/{index}", code=error.code, detail=error.detail, counts=error.counts)
        for index, error in enumerate(failed)
    ]
    raise Unprocessable("no pair of the request could be annotated", errors=errors)
