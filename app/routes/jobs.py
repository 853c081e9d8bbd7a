"""Jobs: where they stand, and what came of them."""

import time
from collections.abc import Iterator
from typing import Annotated

from fastapi import APIRouter, Header, Path, Query, Response
from fastapi.responses import StreamingResponse
from starlette.concurrency import run_in_threadpool

from app.errors import ApiError, Gone, NotFound, NotReady
from app.jobs.collect import chunk_answers, collect
from app.schemas.annotate import Annotation, FailedAnnotation, ResultRow
from app.schemas.chunk import ChunkAnswer
from app.schemas.jobs import Job
from app.schemas.problem import documented
from app.service import ServiceDep

router = APIRouter(prefix="/jobs", tags=["jobs"])

_MISSING = documented({404: "No such job.", 410: "The job's results have expired."})
JobId = Annotated[str, Path(pattern=r"^[A-Za-z0-9_-]{1,64}$")]
_NDJSON = "application/x-ndjson"


@router.get("/{job_id}", responses=_MISSING, summary="Where a job stands")
async def get_job(
    job_id: JobId,
    service: ServiceDep,
    response: Response,
    wait: Annotated[float, Query(ge=0, le=60, description="Seconds to wait for the job to be over.")] = 0,
) -> Job:
    """Answers at once, or with `wait` as soon as the job is over."""
    job = _kept(await service.completions.follow(service.jobs, job_id, wait))
    if job.status == "in_progress":
        response.headers["Retry-After"] = "1"
    return job


@router.get(
    "/{job_id}/results",
    response_model=ResultRow,
    summary="What came of a job",
    responses={
        200: {
            "description": "One `ResultRow` a line, in the order of the pairs; with `Accept: application/json` the "
            "answer that `POST /annotate` would have given.",
            "content": {_NDJSON: {}, "application/json": {"schema": {"$ref": "#/components/schemas/AnnotateResponse"}}},
        },
        **documented({409: "The job is still in progress."}),
        **_MISSING,
    },
)
async def get_results(job_id: JobId, service: ServiceDep, accept: Annotated[str, Header()] = "*/*") -> Response:
    """The annotations of a finished job, every row with its provenance; what other jobs made, as one document."""
    job = _kept(await run_in_threadpool(service.jobs.job, job_id))
    if job.status == "in_progress":
        raise NotReady("the job is still in progress", headers={"Retry-After": "1"})
    if job.status == "failed":
        raise ApiError(f"the job failed: {job.error}")
    if job.kind != "annotate" or "application/json" in accept:
        answer = await run_in_threadpool(collect, service.jobs, job)
        return Response(answer.model_dump_json(), media_type="application/json")
    answers = await run_in_threadpool(chunk_answers, service.jobs, job_id)
    return StreamingResponse((line for answer in answers for line in _rows(answer)), media_type=_NDJSON)


def _kept(job: Job | None) -> Job:
    if job is None:
        raise NotFound("no such job")
    if job.expires_at <= time.time():
        raise Gone("the results of this job have expired")
    return job


def _rows(answer: ChunkAnswer) -> Iterator[str]:
    for entry in answer.entries:
        assert isinstance(entry, Annotation | FailedAnnotation)
        yield ResultRow(annotation=entry, provenance=answer.provenance).model_dump_json() + "\n"
