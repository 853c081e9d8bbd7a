"""Training: what is learned from uploaded pairs."""

import time
from functools import partial

from fastapi import APIRouter, Response
from fastapi.exceptions import RequestValidationError
from pydantic import ValidationError
from starlette.concurrency import run_in_threadpool

from app.answer import ACCEPTED, accepted, submit_once
from app.auth.caller import GUARDED, CallerDep, requires
from app.auth.quota import METERED
from app.body import JsonRoute
from app.errors import TAKEN, Conflict, invalid
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
    AdapterOptions,
    AdapterTask,
    AlignmentRequest,
    AlignmentTask,
    RuleAdapterRequest,
    TrainingRequest,
)
from app.service import Service, ServiceDep
from app.shelf import Shelf
from app.webhooks.admission import admitted

router = APIRouter(prefix="/training", route_class=JsonRoute, tags=["training"], responses=GUARDED)


@router.post(
    "",
    dependencies=[requires("train")],
    status_code=202,
    response_model=Job,
    summary="Train a rule adapter, or teach the annotator and align it",
    responses=ACCEPTED
    | METERED
    | documented(
        {
            404: "No such file, pool or bank.",
            409: "The id is taken, and `replace` is false.",
            422: "A field is not valid, or what it names was made for something else.",
            503: "The queue is full, or no worker is ready; `Retry-After` says when to come back.",
        }
    ),
)
async def train(request: TrainingRequest, service: ServiceDep, caller: CallerDep, keyed: KeyedDep) -> Response:
    """Queues the work for a worker; what comes of it can be used as soon as its job is completed.

    Data that teach nothing (too few pairs, no rule ever critical, …) fail the job, whose `error` says why.
    """
    file = await stored_file(service, caller, request.data, "/data")
    _refuse_unfit(file, request)
    await service.directions()  # without a worker nobody would ever come to it
    task = await _task(service, request)
    webhook = admitted(request.webhook, service.settings)
    attempt = await attempt_of(service, caller, keyed)
    make = partial(_submission, service, caller.owner, file, task, webhook)
    limits = await submit_once(service, caller, attempt, file.tokens, make)
    response = accepted(attempt.job_id, await run_in_threadpool(service.jobs.job, attempt.job_id))
    response.headers.update(limits)
    return response


def _refuse_unfit(file: StoredFile, request: TrainingRequest) -> None:
    """Refuse a file whose count of pairs alone says that it will not do."""
    what: str = request.method
    fewest, most = FEWEST_ALIGNED, MOST_ALIGNED
    if not isinstance(request, AlignmentRequest):
        what, fewest, most = f"a rule adapter of kind {request.kind}", 1, MOST_PAIRS[request.kind]
    if file.rows > most:
        raise invalid("/data", "too_many_pairs", f"holds {file.rows:,} pairs; {what} is taught with {most:,} at most")
    if file.rows < fewest:
        raise invalid("/data", "too_few_pairs", f"holds {file.rows} pairs; {what} is taught with {fewest} at least")


async def _task(service: Service, request: TrainingRequest) -> AdapterTask | AlignmentTask:
    """The request with what its names stand for now."""
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


def _submission(
    service: Service, owner: str, file: StoredFile, task: AdapterTask | AlignmentTask, webhook: str | None
) -> Submission:
    if isinstance(task, AlignmentTask):
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


def _refuse_taken(wanted: AlignmentTask | AdapterOptions, shelf: Shelf, code: str, exists: str) -> None:
    if not wanted.replace and shelf.holds(wanted.id):
        raise Conflict.at("/id", code, TAKEN, exists)
