"""Training: what is learned from uploaded pairs."""

import time
from functools import partial

from fastapi import APIRouter, Response
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
from app.reading import held_bank, pool_of
from app.routes.files import stored_file
from app.schemas.jobs import Job
from app.schemas.names import Ref
from app.schemas.problem import documented
from app.schemas.training import MOST_PAIRS, AdapterTask, TrainingRequest
from app.service import Service, ServiceDep
from app.webhooks.admission import admitted

router = APIRouter(prefix="/training", route_class=JsonRoute, tags=["training"], responses=GUARDED)


@router.post(
    "",
    dependencies=[requires("train")],
    status_code=202,
    response_model=Job,
    summary="Train a rule adapter",
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
    _refuse_too_many(file, request)
    await service.directions()  # without a worker nobody would ever come to it
    task = await _task(service, request)
    webhook = admitted(request.webhook, service.settings)
    attempt = await attempt_of(service, caller, keyed)
    make = partial(_submission, service, caller.owner, file, task, webhook)
    limits = await submit_once(service, caller, attempt, file.tokens, make)
    response = accepted(attempt.job_id, await run_in_threadpool(service.jobs.job, attempt.job_id))
    response.headers.update(limits)
    return response


def _refuse_too_many(file: StoredFile, request: TrainingRequest) -> None:
    most = MOST_PAIRS[request.kind]
    if file.rows > most:
        detail = f"holds {file.rows:,} pairs; a rule adapter of kind {request.kind} is taught with {most:,} at most"
        raise invalid("/data", "too_many_pairs", detail)


async def _task(service: Service, request: TrainingRequest) -> AdapterTask:
    """The request with what its names stand for now."""
    pool = Ref(id=request.pool, digest=(await run_in_threadpool(pool_of, service, request.pool)).digest)
    bank = await held_bank(service, request.bank, pool.digest) if request.rater == "probes" else None
    return AdapterTask(options=request.options, data=request.data, pool=pool, bank=bank)


def _submission(service: Service, owner: str, file: StoredFile, task: AdapterTask, webhook: str | None) -> Submission:
    if not task.options.replace and service.rule_adapters.holds(task.options.id):
        raise Conflict.at("/id", "adapter_exists", TAKEN, "a rule adapter of this id exists")
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
