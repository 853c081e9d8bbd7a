"""POST /annotate: preference pairs in, margins out."""

from typing import Annotated

from fastapi import APIRouter, Header, Response

from app.annotating import job_of, submit_pairs
from app.answer import Patience, answer, answers
from app.auth.caller import GUARDED, CallerDep, requires
from app.auth.quota import METERED
from app.body import JsonRoute
from app.idempotent import KeyedDep, attempt_of
from app.reading import reading_of
from app.schemas.annotate import AnnotateRequest, AnnotateResponse
from app.service import ServiceDep

router = APIRouter(
    route_class=JsonRoute, tags=["annotate"], dependencies=[requires("annotate")], responses=GUARDED | METERED
)


@router.post(
    "/annotate",
    response_model=AnnotateResponse,
    summary="Annotate preference pairs with safety margins",
    responses=answers("A field is not valid, or no pair could be annotated."),
)
async def annotate(
    request: AnnotateRequest,
    service: ServiceDep,
    caller: CallerDep,
    keyed: KeyedDep,
    prefer: Annotated[str | None, Header()] = None,
) -> Response:
    """Answers 200 with one annotation per pair, in order, or 202 with a job where that would take too long.

    A pair that cannot be annotated (it is longer than the annotator's window, say) has an `error` in its place and
    costs its neighbours nothing; only if no pair of the request could be annotated is the answer 422. `Prefer:
    respond-async` asks for 202 at once, `Prefer: wait=5` for 202 after five seconds.
    """
    reading = (await reading_of(service, request)).model_copy(update={"contributions": request.contributions})
    job = await job_of(service, caller, request, reading)
    attempt = await attempt_of(service, caller, keyed)
    limits = await submit_pairs(service, caller, attempt, job, request, reading)
    patience = Patience.of(prefer, job.tokens, service.settings)
    response = await answer(service, attempt.job_id, patience, keep=attempt.repeatable or job.webhook is not None)
    response.headers.update(limits)
    return response
