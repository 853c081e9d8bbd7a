"""/labelstudio: Safemargin as an ML backend of Label Studio, which adds `/health`, `/setup`, … to that address.

The id of a direction may follow, as in `/labelstudio/mine`; else it is the default.
"""

import secrets

from fastapi import APIRouter, BackgroundTasks, Response
from fastapi.responses import RedirectResponse
from starlette.concurrency import run_in_threadpool

from app.annotating import job_of, submit_pairs
from app.answer import outcome
from app.auth.caller import GUARDED, Caller, CallerDep, requires
from app.auth.quota import METERED
from app.body import JsonRoute
from app.errors import ApiError, Unavailable, Unprocessable, invalid
from app.idempotent import Attempt
from app.labelstudio.predictions import TaskRefused, agreement, pair_of, prediction_of, version_of
from app.labelstudio.template import FAULTS, Fault, Template, TemplateRefused, template_of
from app.routes.health import readyz
from app.schemas.annotate import DEFAULT, AnnotateRequest, AnnotateResponse, Annotation, FailedAnnotation
from app.schemas.chunk import Reading
from app.schemas.directions import DirectionCard
from app.schemas.labelstudio import (
    Event,
    LabelStudioTask,
    Noted,
    Prediction,
    Predictions,
    PredictRequest,
    SetupRequest,
    SetupResponse,
    Up,
)
from app.schemas.names import DirectionId, Ref
from app.schemas.pairs import Pair
from app.schemas.problem import Responses, documented
from app.service import Service, ServiceDep

_WAIT_SECONDS = 90.0
"""Label Studio gives up after 100."""

_MADE = frozenset({"ANNOTATION_CREATED", "ANNOTATIONS_CREATED"})

router = APIRouter(
    prefix="/labelstudio",
    route_class=JsonRoute,
    tags=["label studio"],
    dependencies=[requires("annotate")],
    responses=GUARDED | documented({404: "No such direction.", 422: "A field is not valid."}),
)

_SLOW: Responses = METERED | documented(
    {503: "No worker is ready, or it would take too long; `Retry-After` says when to return."}
)
_ELSEWHERE: Responses = {303: {"description": "To the reason why the labelling config is refused."}}


@router.get("/health", summary="Would it predict?")
@router.get("/{direction}/health", summary="Would it predict, by one direction?")
async def health(service: ServiceDep, direction: DirectionId = DEFAULT) -> Up:
    """Answers as GET /readyz, but to holders of a key alone: Label Studio tells its users so that theirs is wrong."""
    await readyz(service)
    await service.direction(direction, "path/direction")
    return Up()


@router.post("/setup", responses=_ELSEWHERE, response_model=SetupResponse, summary="Connect a project")
@router.post(
    "/{direction}/setup",
    responses=_ELSEWHERE,
    response_model=SetupResponse,
    summary="Connect a project to one direction",
)
async def setup(
    request: SetupRequest, service: ServiceDep, direction: DirectionId = DEFAULT
) -> SetupResponse | RedirectResponse:
    """Answers what annotates, or 303 and the reason where the labelling config does not compare two answers.

    Label Studio shows no more of a refusal than its status and address: the address it is sent to names the reason.
    """
    card = await service.direction(direction, "path/direction")
    try:
        await run_in_threadpool(template_of, request.label_config)
    except TemplateRefused as refusal:
        return RedirectResponse(f"refused/{refusal.fault}", 303)
    return SetupResponse(model_version=_version(card))


@router.post(
    "/predict", responses=_SLOW, response_model=Predictions, summary="Predict which answer of each task is safer"
)
@router.post("/{direction}/predict", responses=_SLOW, response_model=Predictions, summary="Predict, by one direction")
async def predict(
    request: PredictRequest,
    service: ServiceDep,
    caller: CallerDep,
    after: BackgroundTasks,
    direction: DirectionId = DEFAULT,
) -> Response:
    """Answers once every task is read, in the order of the tasks.

    A task without a margin (it lacks a field, or is too long) costs its neighbours nothing. Tasks are small requests,
    and are paid for as such. What takes longer than Label Studio would wait is 503: `safemargin labelstudio push` has
    no such limit.
    """
    card = await service.direction(direction, "path/direction")
    try:
        template = await run_in_threadpool(template_of, request.label_config)
    except TemplateRefused as refusal:
        raise invalid("/label_config", refusal.fault, str(refusal)) from None
    pairs, entries = await run_in_threadpool(_pairs, request.tasks, template)
    limits: dict[str, str] = {}
    provenance = None
    if pairs:
        answered, limits = await _annotated(service, caller, card, pairs, after)
        provenance = answered.provenance
        entries |= {int(entry.id): entry for entry in answered.annotations}
    version, empty = _version(card), list[Prediction]()
    results = [prediction_of(entry, template, version, provenance) or empty for _, entry in sorted(entries.items())]
    body = Predictions(results=results, model_version=version).model_dump_json()
    return Response(body, media_type="application/json", headers=limits)


@router.post("/webhook", summary="What happens in a project")
@router.post("/{direction}/webhook", summary="What happens in a project connected to one direction")
async def webhook(event: Event, service: ServiceDep, direction: DirectionId = DEFAULT) -> Noted:
    """Counts annotations by whether people chose as the prediction did that they saw; everything else is ignored.

    An order to train is 422: a direction is made of thousands of labelled pairs, by POST /directions.
    """
    if event.action == "START_TRAINING":
        raise Unprocessable(
            "annotations do not train Safemargin: export them, and make a direction by POST /directions"
        )
    if event.action in _MADE:
        for made in event.annotations:
            service.metrics.labelstudio_annotations.labels(agreement(made)).inc()
    return Noted()


@router.get("/refused/{fault}", summary="Why a project cannot be connected")
@router.get("/{direction}/refused/{fault}", summary="The same")
async def refused(fault: Fault, direction: DirectionId = DEFAULT) -> None:
    """Where `/setup` sends a project that it refuses."""
    raise invalid("/schema", fault, FAULTS[fault])


def _version(card: DirectionCard) -> str:
    return version_of(card.id, card.digest, card.model)


def _pairs(
    tasks: list[LabelStudioTask], template: Template
) -> tuple[list[Pair], dict[int, Annotation | FailedAnnotation]]:
    """Pairs, each with its task's place as id, and why the other tasks are none, by their places."""
    pairs: list[Pair] = []
    entries: dict[int, Annotation | FailedAnnotation] = {}
    for place, task in enumerate(tasks):
        try:
            pairs.append(pair_of(task.data, template, str(place)))
        except TaskRefused as refusal:
            entries[place] = FailedAnnotation(id=str(place), error=refusal.problem)
    return pairs, entries


async def _annotated(
    service: Service, caller: Caller, card: DirectionCard, pairs: list[Pair], after: BackgroundTasks
) -> tuple[AnnotateResponse, dict[str, str]]:
    """What a direction says of pairs, and headers that say what is left of the quota."""
    request = AnnotateRequest(direction=card.id, pairs=pairs)
    reading = Reading(directions=[Ref(id=card.id, digest=card.digest)], truncate=False)
    attempt = Attempt(secrets.token_urlsafe(16), repeatable=False)
    job = await job_of(service, caller, request, reading)
    limits = await submit_pairs(service, caller, attempt, job, request, reading)
    ended, result = await outcome(service, attempt.job_id, _WAIT_SECONDS)
    if ended is None or ended.status == "in_progress":
        await run_in_threadpool(service.jobs.cancel, attempt.job_id)
        detail = f"not done within {_WAIT_SECONDS:.0f} s; `safemargin labelstudio push` waits as long as it takes"
        raise Unavailable(detail, headers={"Retry-After": "1"})
    after.add_task(service.jobs.drop, attempt.job_id)
    if not isinstance(result, AnnotateResponse):
        raise ApiError(f"the job {ended.status}" + (f": {ended.error}" if ended.error else ""))
    return result, limits
