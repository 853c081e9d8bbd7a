"""Liveness, readiness and metrics."""

from fastapi import APIRouter, Response
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from pydantic import BaseModel
from redis.exceptions import RedisError
from starlette.concurrency import run_in_threadpool

from app.artifacts import StoreUnreachable
from app.errors import Unavailable
from app.jobs import load
from app.schemas.problem import FieldProblem, Problem
from app.service import Service, ServiceDep

router = APIRouter(tags=["health"])


class Alive(BaseModel):
    """The process answers."""

    status: str = "alive"


class Ready(BaseModel):
    """The service annotates."""

    status: str = "ready"
    workers: list[str]
    directions: list[str]


@router.get("/livez", summary="Is the process alive?")
async def livez() -> Alive:
    """Says yes as long as the process answers at all."""
    return Alive()


@router.get(
    "/readyz",
    summary="Would a request be answered?",
    responses={503: {"model": Problem, "description": "Not now; `errors` says what is missing."}},
)
async def readyz(service: ServiceDep) -> Ready:
    """Green only when the queue answers and a live worker has proven itself and holds the default direction."""
    try:
        await run_in_threadpool(service.redis.ping)
        workers = await service.workers()
    except RedisError:
        raise _not_ready("redis", "not_ready", "the queue does not answer") from None
    if not workers:
        raise _not_ready("workers", "not_ready", "no worker has a fresh heartbeat")
    default = await service.default()
    ready = [worker for worker in workers if default is not None and worker.ready_for(default)]
    if not ready:
        missing = "nothing is the default of this annotator: `safemargin directions fit --default` makes a direction"
        raise _not_ready("directions", "no_direction", missing)
    held = {card.id for worker in ready for card in worker.directions if worker.ready_for(card.id)}
    return Ready(workers=[worker.name for worker in ready], directions=sorted(held))


@router.get("/metrics", summary="Prometheus metrics of the API", response_class=Response)
async def metrics(service: ServiceDep) -> Response:
    """The API's own metrics and the state of the queue; every worker serves its own."""
    try:
        await _look_at_queue(service)
        await _look_at_workers(service)
    except RedisError:
        service.metrics.queue_away()
    return Response(generate_latest(service.metrics.registry), media_type=CONTENT_TYPE_LATEST)


class Targets(BaseModel):
    """Where metrics are to be had, in the form of Prometheus' HTTP service discovery."""

    targets: list[str]


@router.get("/metrics/workers", summary="Where the metrics of the workers are")
async def worker_metrics(service: ServiceDep) -> list[Targets]:
    """Every live worker's, for `http_sd_configs` of Prometheus."""
    return [Targets(targets=[worker.metrics_at]) for worker in await service.workers()]


async def _look_at_queue(service: Service) -> None:
    waiting = await run_in_threadpool(load.queues, service.redis)
    ended = await run_in_threadpool(load.ended, service.redis)
    memory = await run_in_threadpool(load.memory, service.redis)
    service.metrics.queue(waiting, ended, memory)


async def _look_at_workers(service: Service) -> None:
    workers = await service.workers()
    try:
        default = await service.default()
    except StoreUnreachable:
        return service.metrics.workers_unknown()
    ready = sum(default is not None and worker.ready_for(default) for worker in workers)
    service.metrics.workers(ready, len(workers) - ready)


def _not_ready(what: str, code: str, why: str) -> Unavailable:
    error = FieldProblem(pointer=what, code=code, detail=why)
    return Unavailable("the service is not ready", errors=[error], headers={"Retry-After": "2"})
