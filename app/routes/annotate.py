"""POST /annotate: preference pairs in, margins out."""

from typing import Annotated

from fastapi import APIRouter, Header, Response
from starlette.concurrency import run_in_threadpool

from app.answer import Patience, answer_or_accept, answers
from app.body import JsonRoute
from app.jobs.cut import cut
from app.schemas.annotate import AnnotateRequest, AnnotateResponse
from app.service import ServiceDep

router = APIRouter(route_class=JsonRoute, tags=["annotate"])


@router.post(
    "/annotate",
    response_model=AnnotateResponse,
    summary="Annotate preference pairs with safety margins",
    responses=answers("A field is not valid, or no pair could be annotated."),
)
async def annotate(
    request: AnnotateRequest, service: ServiceDep, prefer: Annotated[str | None, Header()] = None
) -> Response:
    """Answers 200 with one annotation per pair, in order, or 202 with a job where that would take too long.

    A pair that cannot be annotated (it is longer than the annotator's window, say) has an `error` in its place and
    costs its neighbours nothing; only if no pair of the request could be annotated is the answer 422. `Prefer:
    respond-async` asks for 202 at once, `Prefer: wait=5` for 202 after five seconds.
    """
    refs = await service.refs(request)
    chunks, tokens = await run_in_threadpool(cut, request, refs, service.settings.chunk_tokens)
    service.metrics.pairs.inc(len(request.pairs))
    patience = Patience.of(prefer, tokens, service.settings)
    return await answer_or_accept(service, "annotate", chunks, len(request.pairs), patience)
