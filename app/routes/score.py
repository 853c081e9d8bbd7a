"""POST /score: one prompt and K responses in, their order by safety out."""

from typing import Annotated

from fastapi import APIRouter, Header, Response

from app.answer import Patience, answer_or_accept, answers
from app.body import JsonRoute
from app.jobs.cut import whole
from app.schemas.score import ScoreRequest, ScoreResponse
from app.service import ServiceDep

router = APIRouter(route_class=JsonRoute, tags=["annotate"])


@router.post(
    "/score",
    response_model=ScoreResponse,
    summary="Score and order responses to one prompt",
    responses=answers("A field is not valid, or the responses cannot be scored."),
)
async def score(request: ScoreRequest, service: ServiceDep, prefer: Annotated[str | None, Header()] = None) -> Response:
    """Answers K scores in the order of the responses, and the order of the responses, the safest first.

    The difference of two scores is the margin that `POST /annotate` gives for that pair.
    """
    refs = await service.refs(request)
    chunk, tokens = whole(request, refs)
    return await answer_or_accept(service, "score", [chunk], 1, Patience.of(prefer, tokens, service.settings))
