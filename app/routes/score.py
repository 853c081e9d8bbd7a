"""POST /score: one prompt and K responses in, their order by safety out."""

from typing import Annotated

from fastapi import APIRouter, Header, Response

from app.answer import Patience, answer, answers, submit_once
from app.auth.caller import GUARDED, CallerDep, requires
from app.auth.quota import METERED
from app.body import JsonRoute
from app.idempotent import KeyedDep, attempt_of
from app.jobs import keys
from app.jobs.cut import candidates_chunk
from app.jobs.submission import Submission
from app.reading import reading_of
from app.schemas.score import ScoreRequest, ScoreResponse
from app.service import ServiceDep
from app.webhooks.admission import admitted

router = APIRouter(
    route_class=JsonRoute, tags=["annotate"], dependencies=[requires("annotate")], responses=GUARDED | METERED
)


@router.post(
    "/score",
    response_model=ScoreResponse,
    summary="Score and order responses to one prompt",
    responses=answers("A field is not valid, or the responses cannot be scored."),
)
async def score(
    request: ScoreRequest,
    service: ServiceDep,
    caller: CallerDep,
    keyed: KeyedDep,
    prefer: Annotated[str | None, Header()] = None,
) -> Response:
    """Answers K scores in the order of the responses, and the order of the responses, the safest first.

    The difference of two scores is the margin that `POST /annotate` gives for that pair.
    """
    reading = (await reading_of(service, request)).model_copy(update={"contributions": request.contributions})
    chunk = candidates_chunk(request, reading)
    work = Submission(
        kind="score",
        owner=caller.owner,
        queue=keys.ANNOTATE,
        chunks=1,
        total=1,
        tokens=chunk.tokens,
        keep_seconds=service.settings.result_seconds,
        webhook=admitted(request.webhook, service.settings),
        work=[chunk.model_dump_json().encode()],
    )
    attempt = await attempt_of(service, caller, keyed)
    limits = await submit_once(service, caller, attempt, chunk.tokens, lambda: work)
    patience = Patience.of(prefer, chunk.tokens, service.settings)
    response = await answer(service, attempt.job_id, patience, keep=attempt.repeatable or work.webhook is not None)
    response.headers.update(limits)
    return response
