"""Jobs: made of files, followed, read and cancelled."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from functools import partial
from itertools import chain, islice
from typing import Annotated, Literal, TypeVar

from fastapi import APIRouter, Header, Path, Query, Response
from fastapi.responses import StreamingResponse
from pydantic import BaseModel
from starlette.concurrency import run_in_threadpool

from app.answer import ACCEPTED, accepted, submit_once
from app.artifacts import ArtifactMissing
from app.auth.caller import GUARDED, Caller, CallerDep, requires
from app.auth.quota import METERED
from app.body import JsonRoute
from app.datasets import exports
from app.datasets.exports import Format
from app.errors import ApiError, Conflict, Gone, NotFound, NotReady, Unprocessable
from app.files import StoredFile, place
from app.idempotent import KeyedDep, attempt_of
from app.jobs import keys
from app.jobs.outcome import Outcome
from app.jobs.submission import Submission
from app.reading import reading_of
from app.routes.files import stored_file
from app.schemas.annotate import ResultRow
from app.schemas.batch import JobRequest
from app.schemas.chunk import Reading
from app.schemas.jobs import Job, JobList, RowError
from app.schemas.problem import documented
from app.service import Service, ServiceDep
from app.webhooks.admission import admitted

router = APIRouter(
    prefix="/jobs",
    tags=["jobs"],
    route_class=JsonRoute,
    dependencies=[requires("annotate", "train")],
    responses=GUARDED,
)

_MISSING = documented({404: "No such job.", 410: "The job's results have expired, or its file was deleted."})
JobId = Annotated[str, Path(pattern=r"^[A-Za-z0-9_-]{1,64}$")]
_NDJSON, _PARQUET = "application/x-ndjson", "application/vnd.apache.parquet"
_EVENT_SECONDS = 1.0
Row = TypeVar("Row")
_STREAM = {"X-Accel-Buffering": "no", "Cache-Control": "no-cache"}


@router.post(
    "",
    dependencies=[requires("annotate")],
    status_code=202,
    response_model=Job,
    summary="Annotate a file",
    responses=ACCEPTED
    | METERED
    | documented({404: "No such file or direction.", 422: "A field is not valid.", 503: "The queue is full."}),
)
async def make_job(request: JobRequest, service: ServiceDep, caller: CallerDep, keyed: KeyedDep) -> Response:
    """Queues a file with any option of `POST /annotate`; small requests overtake it."""
    file = await stored_file(service, caller, request.file, "/file")
    reading = await reading_of(service, request)
    webhook = admitted(request.webhook, service.settings)
    attempt = await attempt_of(service, caller, keyed)
    tokens = reading.cost(file.tokens, file.rows)
    make = partial(_submission, service, caller.owner, file, reading, webhook)
    limits = await submit_once(service, caller, attempt, tokens, make)
    service.metrics.pairs.inc(file.rows)
    response = accepted(attempt.job_id, await run_in_threadpool(service.jobs.job, attempt.job_id))
    response.headers.update(limits)
    return response


def _submission(service: Service, owner: str, file: StoredFile, reading: Reading, webhook: str | None) -> Submission:
    keep = service.settings.file_seconds
    service.files.keep(file, time.time() + keep)
    return Submission(
        kind="annotate",
        owner=owner,
        queue=keys.BULK,
        chunks=file.chunks,
        total=file.rows + file.bad_rows,
        failed=file.bad_rows,
        tokens=reading.cost(file.tokens, file.rows),
        keep_seconds=keep,
        rows=place(file.id),
        options=reading.model_dump_json(),
        file=file.id,
        webhook=webhook,
    )


@router.get("", summary="Jobs")
async def list_jobs(
    service: ServiceDep,
    caller: CallerDep,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
    after: Annotated[str | None, Query(max_length=64, description="The last id of the page before.")] = None,
) -> JobList:
    """The newest first. A request that was answered at once is no job any more."""
    found = await run_in_threadpool(service.jobs.listed, caller.owner, after, limit + 1)
    return JobList(data=found[:limit], has_more=len(found) > limit)


@router.get("/{job_id}", responses=_MISSING, summary="Where a job stands")
async def get_job(
    job_id: JobId,
    service: ServiceDep,
    caller: CallerDep,
    response: Response,
    wait: Annotated[float, Query(ge=0, le=60, description="Seconds to wait for the job to be over.")] = 0,
) -> Job:
    """Answers at once, or with `wait` as soon as the job is over."""
    job = await _job(service, caller, job_id)
    if job.status == "in_progress" and wait:
        job = _kept(await service.completions.follow(service.jobs, job_id, wait))
    if job.status == "in_progress":
        response.headers["Retry-After"] = "1"
    return job


@router.delete(
    "/{job_id}",
    responses=_MISSING | documented({409: "With `cancel`: the job is over."}),
    summary="Cancel a job, or delete its results",
)
async def end_job(
    job_id: JobId,
    service: ServiceDep,
    caller: CallerDep,
    cancel: Annotated[bool, Query(description="Only cancel: of a job that is over nothing is deleted.")] = False,
) -> Job:
    """Cancels a job in progress, of which what is done can still be read; deletes the results of one that is over.

    A job may end just before the request comes: whoever means to cancel says so, and loses nothing.
    """
    job = await _job(service, caller, job_id)
    if not await run_in_threadpool(service.jobs.cancel, job_id):
        if cancel:
            raise Conflict("the job is over; nothing was deleted")
        if job.status != "in_progress":
            await run_in_threadpool(service.jobs.forget, job_id)
    after = await run_in_threadpool(service.jobs.job, job_id)
    return after or job


@router.get(
    "/{job_id}/events",
    summary="Progress of a job as it happens",
    response_class=StreamingResponse,
    responses={200: {"content": {"text/event-stream": {}}, "description": "Server-sent events."}, **_MISSING},
)
async def follow_job(job_id: JobId, service: ServiceDep, caller: CallerDep) -> Response:
    """`event: progress` with the job as data whenever something has changed, and at the end `event: end`."""
    first = await _job(service, caller, job_id)
    return StreamingResponse(_events(service, first), media_type="text/event-stream", headers=_STREAM)


@router.get(
    "/{job_id}/results",
    response_model=ResultRow,
    summary="What came of a job",
    responses={
        200: {
            "description": "One row a line, in the order of the pairs; with `Accept: application/json` the whole "
            "answer that the request would have had at once, unless it was a file.",
            "content": {
                _NDJSON: {},
                _PARQUET: {},
                "application/json": {"schema": {"$ref": "#/components/schemas/AnnotateResponse"}},
            },
        },
        **documented({409: "The job is in progress or cancelled, and the whole answer was asked for."}),
        **_MISSING,
    },
)
async def get_results(
    job_id: JobId,
    service: ServiceDep,
    caller: CallerDep,
    accept: Annotated[str, Header()] = "*/*",
    format: Annotated[Format, Query(description="`raw`, or rows for a trainer.")] = "raw",
    type: Annotated[Literal["jsonl", "parquet"], Query(description="How rows are written.")] = "jsonl",
    cursor: Annotated[int, Query(ge=0, description="Only rows of lines after this one.")] = 0,
) -> Response:
    """Annotated rows as far as they are done in order; a reader that lost its connection goes on with `cursor`.

    Rows that could not be annotated are among the job's errors instead.
    """
    job = await _job(service, caller, job_id)
    if job.kind != "annotate" or ("application/json" in accept and job.file is None):
        return await _whole(service, job)
    rows = await _begun(Outcome(service.answers(job_id)).results(format, cursor))
    if type == "jsonl":
        return StreamingResponse(exports.json_stream(rows), media_type=_NDJSON, headers=_STREAM)
    return StreamingResponse(exports.parquet_stream(rows, exports.schema(format)), media_type=_PARQUET)


@router.get(
    "/{job_id}/errors",
    response_model=RowError,
    summary="Rows of a job that could not be annotated",
    responses={200: {"description": "One row a line.", "content": {_NDJSON: {}}}, **_MISSING},
)
async def get_errors(
    job_id: JobId,
    service: ServiceDep,
    caller: CallerDep,
    cursor: Annotated[int, Query(ge=0, description="Only lines after this one.")] = 0,
) -> Response:
    """In the order of the lines, as far as they are done: rows that were no pairs, and pairs that cannot be read."""
    job = await _job(service, caller, job_id)
    if job.kind != "annotate":
        raise Unprocessable("only jobs that annotate have errors of rows")
    errors = await _begun(Outcome(service.answers(job_id)).errors(cursor))
    rows = (error.model_dump() for error in errors)
    return StreamingResponse(exports.json_stream(rows), media_type=_NDJSON, headers=_STREAM)


async def _job(service: Service, caller: Caller, job_id: str) -> Job:
    """A job that the caller may see and that has not expired.

    Raises:
        NotFound: there is none.
        Gone: not any more.
    """
    state = await run_in_threadpool(service.jobs.state, job_id)
    if not state or not caller.sees(state["owner"]):
        raise NotFound("no such job")
    return _kept(await run_in_threadpool(service.jobs.job, job_id))


def _kept(job: Job | None) -> Job:
    if job is None:
        raise NotFound("no such job")
    if job.expires_at is not None and job.expires_at <= time.time():
        raise Gone("the results of this job have expired")
    return job


async def _begun(rows: Iterator[Row]) -> Iterator[Row]:
    """The rows, of which the first is there: what stands in the way of all of them is known before the answer begins.

    Raises:
        Gone: the job's file was deleted.
    """
    try:
        first = await run_in_threadpool(lambda: list(islice(rows, 1)))
    except ArtifactMissing:
        raise Gone("the file of this job was deleted") from None
    return chain(first, rows)


async def _whole(service: Service, job: Job) -> Response:
    if job.status == "in_progress":
        raise NotReady("the job is still in progress", headers={"Retry-After": "1"})
    if job.status == "cancelled":
        raise Conflict("the job was cancelled")
    if job.status == "failed":
        raise ApiError(f"the job failed: {job.error}")
    answer = await run_in_threadpool(_kept_whole, service, job)
    return Response(answer.model_dump_json(), media_type="application/json")


def _kept_whole(service: Service, job: Job) -> BaseModel:
    _, kept = service.jobs.job_and_answers(job.id)
    return service.answers(job.id).whole(job, kept)


async def _events(service: Service, job: Job) -> AsyncIterator[str]:
    shown = None
    while True:
        text = job.model_dump_json()
        event = "progress" if job.status == "in_progress" else "end"
        now = (event, job.request_counts, job.stage, job.loss)
        if now != shown:
            yield f"event: {event}\ndata: {text}\n\n"
        else:
            yield ": still there\n\n"
        shown = now
        if event == "end":
            return
        await asyncio.sleep(_EVENT_SECONDS)
        following = await run_in_threadpool(service.jobs.job, job.id)
        if following is None:
            return
        job = following
