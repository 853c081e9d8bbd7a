"""POST /score: one prompt and K responses in, their order by safety out."""

from typing import Annotated, Any

from fastapi import APIRouter, Header, Response

from app.answer import Patience, answer_or_accept
from app.body import JsonRoute
from app.jobs.cut import whole
from app.schemas.jobs import Job
from app.schemas.problem import Problem
from app.schemas.score import ScoreRequest, ScoreResponse
from app.service import ServiceDep

router = APIRouter(route_class=JsonRoute, tags=["annotate"])

_PROBLEM: dict[str, Any] = {"model": Problem}


@router.post(
    "/score",
    response_model=ScoreResponse,
    summary="Score and order responses to one prompt",
    responses={
        202: {"model": Job, "description": "Accepted; `Location` names the job."},
        404: {**_PROBLEM, "description": "No such direction."},
        413: {**_PROBLEM, "description": "The body is too large."},
        422: {**_PROBLEM, "description": "A field is not valid, or the responses cannot be scored."},
        503: {**_PROBLEM, "description": "No worker is ready; `Retry-After` says when to come back."},
    },
)
async def score(request: ScoreRequest, service: ServiceDep, prefer: Annotated[str | None, Header()] = None) -> Response:
    """Answers K scores in the order of the responses, and the order of the responses, the safest first.

    The difference of two scores is the margin that `POST /annotate` gives for that pair.
    """
    refs = await service.refs(request)
    chunk, tokens = whole(request, refs)
    return await answer_or_accept(service, "score", [chunk], 1, Patience.of(prefer, tokens, service.settings))
