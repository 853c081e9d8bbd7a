"""Directions: made, listed, explained, chosen as default, exported and deleted."""

from functools import partial
from typing import Annotated

from fastapi import APIRouter, Header, Path, Response
from fastapi.responses import HTMLResponse
from starlette.concurrency import run_in_threadpool

from app.answer import ACCEPTED, accepted, submit_once
from app.auth.caller import GUARDED, CallerDep, requires
from app.auth.quota import METERED
from app.body import JsonRoute
from app.errors import TAKEN, Conflict, NotFound
from app.idempotent import KeyedDep, attempt_of
from app.jobs import keys
from app.jobs.cut import CHARACTERS_PER_TOKEN
from app.jobs.submission import Submission
from app.registry import CONTROL_VECTOR, PAGE, REPORT, DirectionMissing
from app.schemas.annotate import DEFAULT
from app.schemas.directions import DefaultRequest, DirectionCard, DirectionList
from app.schemas.fit import FitRequest, rows_of
from app.schemas.jobs import Job
from app.schemas.names import DirectionId
from app.schemas.problem import documented
from app.schemas.report import DirectionReport
from app.service import Service, ServiceDep
from app.webhooks.admission import admitted

router = APIRouter(prefix="/directions", route_class=JsonRoute, tags=["directions"], responses=GUARDED)

_READ, _CHANGE = [requires("annotate")], [requires("train")]
_MISSING = documented({404: "No such direction."})
DirectionName = Annotated[DirectionId, Path()]


@router.get("", dependencies=_READ, summary="Directions that can be used now")
async def list_directions(service: ServiceDep) -> DirectionList:
    """Every direction that a ready worker holds, and which of them `default` stands for."""
    held = await service.directions()
    return DirectionList(directions=[held[name] for name in sorted(held)], default=await service.default())


@router.post(
    "",
    dependencies=_CHANGE,
    status_code=202,
    response_model=Job,
    summary="Make a direction",
    responses=ACCEPTED
    | METERED
    | documented(
        {
            409: "The id is taken, and `replace` is false.",
            422: "A field is not valid.",
            503: "The queue is full, or no worker is ready; `Retry-After` says when to come back.",
        }
    ),
)
async def fit_direction(request: FitRequest, service: ServiceDep, caller: CallerDep, keyed: KeyedDep) -> Response:
    """Queues the fit for a worker; running workers use the direction as soon as its job is completed.

    Data that gives no direction (too few pairs, all labels equal, …) fails the job, whose `error` says why.
    """
    await service.directions()  # without a worker nobody would ever come to it
    payload = request.model_dump_json().encode()
    tokens = len(payload) // CHARACTERS_PER_TOKEN
    job = Submission(
        kind="direction",
        owner=caller.owner,
        queue=keys.TRAIN,
        chunks=1,
        total=rows_of(request),
        tokens=tokens,
        keep_seconds=service.settings.result_seconds,
        work=[payload],
        webhook=admitted(request.webhook, service.settings),
    )
    attempt = await attempt_of(service, caller, keyed)
    make = partial(_unless_taken, service, request, job)
    limits = await submit_once(service, caller, attempt, tokens, make)
    response = accepted(attempt.job_id, await run_in_threadpool(service.jobs.job, attempt.job_id))
    response.headers.update(limits)
    return response


def _unless_taken(service: Service, request: FitRequest, job: Submission) -> Submission:
    if not request.replace and service.registry.holds(request.id):
        raise Conflict.at("/id", "direction_exists", TAKEN, "a direction of this id exists")
    return job


@router.put("/default", dependencies=_CHANGE, summary="Choose what `default` stands for", responses=_MISSING)
async def choose_default(request: DefaultRequest, service: ServiceDep) -> DirectionCard:
    """From now on `"direction": "default"`, and requests that name none, use this direction on its annotator."""
    card = await service.direction(request.id, "/id")
    await service.choose_default(card)
    return card


@router.get("/{direction_id}", dependencies=_READ, summary="One direction", responses=_MISSING)
async def get_direction(direction_id: DirectionName, service: ServiceDep) -> DirectionCard:
    """How a direction was made and how well it reads."""
    return await service.direction(direction_id, "path/direction_id")


@router.delete(
    "/{direction_id}",
    dependencies=_CHANGE,
    status_code=204,
    summary="Delete a direction",
    responses=_MISSING | documented({409: "It is what `default` stands for."}),
)
async def delete_direction(direction_id: DirectionName, service: ServiceDep) -> None:
    """Deletes it with its report; a job that still uses it fails and says so."""
    if direction_id == DEFAULT or direction_id in (await run_in_threadpool(service.registry.defaults)).values():
        raise Conflict("`default` stands for this direction; choose another default first")
    try:
        await run_in_threadpool(service.registry.delete, direction_id)
    except DirectionMissing:
        raise NotFound("there is no such direction") from None


@router.get(
    "/{direction_id}/report",
    dependencies=_READ,
    summary="What is known of a direction",
    response_model=DirectionReport,
    responses={**_MISSING, 200: {"content": {"text/html": {}}, "description": "JSON, or by `Accept` a page."}},
)
async def get_report(
    direction_id: DirectionName, service: ServiceDep, accept: Annotated[str, Header()] = "*/*"
) -> Response:
    """Accuracy by layer and pooling, calibration and controls: a page for browsers, JSON for everybody else."""
    if "text/html" in accept:
        return HTMLResponse(await _part(service, direction_id, PAGE))
    return Response(await _part(service, direction_id, REPORT), media_type="application/json")


@router.get(
    "/{direction_id}/control-vector.gguf",
    dependencies=_READ,
    summary="A direction as a GGUF control vector",
    responses={**_MISSING, 200: {"content": {"application/octet-stream": {}}, "description": "The file."}},
)
async def get_control_vector(direction_id: DirectionName, service: ServiceDep) -> Response:
    """What llama.cpp loads with `--control-vector`; `safemargin directions import` reads it back exactly."""
    content = await _part(service, direction_id, CONTROL_VECTOR)
    headers = {"Content-Disposition": f'attachment; filename="{direction_id}.gguf"'}
    return Response(content, media_type="application/octet-stream", headers=headers)


async def _part(service: Service, direction_id: str, name: str) -> bytes:
    """A file of a direction in the artifact store, whether a worker holds it or not."""
    wanted = await service.default() if direction_id == DEFAULT else direction_id
    try:
        digest = await run_in_threadpool(service.registry.digest, wanted or DEFAULT)
        return await run_in_threadpool(service.registry.part, wanted or DEFAULT, digest, name)
    except DirectionMissing as missing:
        raise NotFound(str(missing)) from None
