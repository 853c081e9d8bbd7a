"""Training: what is learned from uploaded pairs."""

import time
from functools import partial

from fastapi import APIRouter, Response
from fastapi.exceptions import RequestValidationError
from pydantic import ValidationError
from starlette.concurrency import run_in_threadpool

from app.answer import ACCEPTED, accepted, submit_once
from app.auth.caller import GUARDED, Caller, CallerDep, requires
from app.auth.quota import METERED
from app.body import JsonRoute
from app.errors import TAKEN, Conflict, NotFound, invalid
from app.files import StoredFile
from app.idempotent import KeyedDep, attempt_of
from app.jobs import keys
from app.jobs.submission import Submission
from app.rahf import resolved
from app.reading import held_bank, pool_of
from app.routes.files import stored_file
from app.schemas.alignment import AlignmentSettings
from app.schemas.jobs import Job
from app.schemas.names import Ref
from app.schemas.problem import documented
from app.schemas.training import (
    FEWEST_ALIGNED,
    MOST_ALIGNED,
    MOST_PAIRS,
    MOST_REWARDED,
    AdapterOptions,
    AdapterTask,
    AlignmentRequest,
    AlignmentTask,
    RewardRequest,
    RewardTask,
    RuleAdapterRequest,
    TrainingRequest,
)
from app.service import Service, ServiceDep
from app.shelf import Shelf
from app.webhooks.admission import admitted

_Task = AdapterTask | AlignmentTask | RewardTask

router = APIRouter(prefix="/training", route_class=JsonRoute, tags=["training"], responses=GUARDED)


@router.post(
    "",
    dependencies=[requires("train")],
    status_code=202,
    response_model=Job,
    summary="Train a rule adapter or a reward model, or teach the annotator and align it",
    responses=ACCEPTED
    | METERED
    | documented(
        {
            404: "No such file, job, pool or bank.",
            409: "The id is taken, and `replace` is false; or the job whose annotations are wanted is not over.",
            422: "A field is not valid, or what it names was made for something else.",
            503: "The queue is full, or no worker is ready; `Retry-After` says when to come back.",
        }
    ),
)
async def train(request: TrainingRequest, service: ServiceDep, caller: CallerDep, keyed: KeyedDep) -> Response:
    """Queues the work for a worker; what comes of it can be used as soon as its job is completed.

    Data that teach nothing (too few pairs, no rule ever critical, …) fail the job, whose `error` says why.
    """
    file, job = await _data(service, caller, request)
    _refuse_unfit(file, request)
    await service.directions()  # without a worker nobody would ever come to it
    task = await _task(service, request, file, job)
    webhook = admitted(request.webhook, service.settings)
    attempt = await attempt_of(service, caller, keyed)
    make = partial(_submission, service, caller.owner, file, task, webhook)
    limits = await submit_once(service, caller, attempt, file.tokens, make)
    response = accepted(attempt.job_id, await run_in_threadpool(service.jobs.job, attempt.job_id))
    response.headers.update(limits)
    return response


async def _data(service: Service, caller: Caller, request: TrainingRequest) -> tuple[StoredFile, str | None]:
    """The pairs, and the job that annotated them where the request names one.

    Raises:
        NotFound: there is none.
        Conflict: the job is not over.
        Unprocessable: it did not annotate a file, or failed.
    """
    if not isinstance(request, RewardRequest) or request.data.startswith("file-"):
        return await stored_file(service, caller, request.data, "/data"), None
    state = await run_in_threadpool(service.jobs.state, request.data)
    job = await run_in_threadpool(service.jobs.job, request.data)
    gone = job is None or (job.expires_at is not None and job.expires_at <= time.time())
    if job is None or gone or not caller.sees(state["owner"]):
        raise NotFound.at("/data", "unknown_job", "no such file or job, or its results have expired")
    if job.kind != "annotate" or job.file is None or job.status in ("failed", "cancelled"):
        raise invalid("/data", "no_annotations", "is a job that has not annotated a file")
    if job.status == "in_progress":
        raise Conflict.at("/data", "job_in_progress", "is a job that is not over")
    return await stored_file(service, caller, job.file, "/data"), job.id


def _refuse_unfit(file: StoredFile, request: TrainingRequest) -> None:
    """Refuse a file whose count of pairs alone says that it will not do."""
    what: str = request.method
    fewest, most = FEWEST_ALIGNED, MOST_ALIGNED
    if isinstance(request, RewardRequest):
        what, fewest, most = "a reward model", 1, MOST_REWARDED
    elif not isinstance(request, AlignmentRequest):
        what, fewest, most = f"a rule adapter of kind {request.kind}", 1, MOST_PAIRS[request.kind]
    if file.rows > most:
        raise invalid("/data", "too_many_pairs", f"holds {file.rows:,} pairs; {what} is taught with {most:,} at most")
    if file.rows < fewest:
        raise invalid("/data", "too_few_pairs", f"holds {file.rows} pairs; {what} is taught with {fewest} at least")


async def _task(service: Service, request: TrainingRequest, file: StoredFile, job: str | None) -> _Task:
    """The request with what its names stand for now."""
    if isinstance(request, RewardRequest):
        return RewardTask(id=request.id, settings=request.settings, file=file.id, job=job, replace=request.replace)
    if isinstance(request, AlignmentRequest):
        shared = request.model_dump(include={"method", "id", "data", "replace"})
        return AlignmentTask(settings=_settings(request), **shared)
    return await _adapter_task(service, request)


async def _adapter_task(service: Service, request: RuleAdapterRequest) -> AdapterTask:
    pool = Ref(id=request.pool, digest=(await run_in_threadpool(pool_of, service, request.pool)).digest)
    bank = await held_bank(service, request.bank, pool.digest) if request.rater == "probes" else None
    return AdapterTask(options=request.options, data=request.data, pool=pool, bank=bank)


def _settings(request: AlignmentRequest) -> AlignmentSettings:
    """Those of the preset, with the request's changes.

    Raises:
        RequestValidationError: one of these is not valid.
    """
    try:
        return resolved(request.method, request.preset, request.settings)
    except ValidationError as error:
        faults = [{**fault, "loc": ("body", "settings", *fault["loc"])} for fault in error.errors()]
        raise RequestValidationError(faults) from None


def _submission(service: Service, owner: str, file: StoredFile, task: _Task, webhook: str | None) -> Submission:
    if isinstance(task, RewardTask):
        _refuse_taken(task, service.reward_models, "reward_model_exists", "a reward model of this id exists")
    elif isinstance(task, AlignmentTask):
        _refuse_taken(task, service.alignments, "alignment_exists", "an alignment of this id exists")
        _refuse_taken(task, service.registry, "direction_exists", "a direction of this id exists")
    else:
        _refuse_taken(task.options, service.rule_adapters, "adapter_exists", "a rule adapter of this id exists")
    service.files.keep(file, time.time() + service.settings.file_seconds)
    return Submission(
        kind="training",
        owner=owner,
        queue=keys.TRAIN,
        chunks=1,
        total=file.rows,
        tokens=file.tokens,
        keep_seconds=service.settings.result_seconds,
        work=[task.model_dump_json().encode()],
        file=file.id,
        webhook=webhook,
    )


def _refuse_taken(wanted: AlignmentTask | AdapterOptions | RewardTask, shelf: Shelf, code: str, exists: str) -> None:
    if not wanted.replace and shelf.holds(wanted.id):
        raise Conflict.at("/id", code, TAKEN, exists)
