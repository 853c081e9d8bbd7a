"""POST /reward-models/{id}/reward: dialogues in, rewards out, in the form of OpenRLHF's remote reward client."""

import secrets
from typing import Annotated

from fastapi import APIRouter, Query, Response
from fastapi.responses import JSONResponse
from starlette.concurrency import run_in_threadpool

from app.answer import Patience, answer, submit_once
from app.auth.caller import GUARDED, CallerDep, requires
from app.auth.quota import METERED
from app.body import JsonRoute
from app.errors import Unavailable
from app.idempotent import Attempt
from app.jobs import keys
from app.jobs.cut import query_chunks
from app.jobs.submission import Submission
from app.reading import reward_model_of
from app.routes.rewards import RewardName
from app.schemas.chunk import Reading
from app.schemas.problem import documented
from app.schemas.rewarding import RewardRequest, RewardResponse
from app.service import ServiceDep

_WAIT_SECONDS = 170.0
"""The client gives up after 180, and takes a 202 for an answer."""

router = APIRouter(prefix="/reward-models", route_class=JsonRoute, tags=["reward models"], responses=GUARDED | METERED)


@router.post(
    "/{reward_id}/reward",
    dependencies=[requires("annotate")],
    response_model=RewardResponse,
    summary="Rewards of whole dialogues, for OpenRLHF",
    responses=documented(
        {
            404: "No such reward model.",
            413: "The body is too large.",
            422: "A field is not valid, or a query has no reward.",
            503: "No worker is ready, or it would take too long; `Retry-After` says when to come back.",
        }
    ),
)
async def reward(
    reward_id: RewardName,
    request: RewardRequest,
    service: ServiceDep,
    caller: CallerDep,
    truncate: Annotated[bool, Query(description="Cut the beginning of a query that does not fit.")] = False,
) -> Response:
    """Answers once all rewards are there, in the order of the queries.

    A query is read as it is, without a template; one that ends its turn is given the end that the template writes, and
    padding around it is left out, so that its reward is that of the same response by `POST /score`.
    """
    if not request.query:
        return JSONResponse(RewardResponse(rewards=[], scores=[]).model_dump())
    reward_model = await reward_model_of(service, reward_id, "path/reward_id")
    reading = Reading(directions=[], truncate=truncate, reward_model=reward_model)
    chunks = await run_in_threadpool(lambda: list(query_chunks(request, reading, service.settings.chunk_tokens)))
    tokens = sum(chunk.tokens for chunk in chunks)
    work = Submission(
        kind="reward",
        owner=caller.owner,
        queue=keys.BULK,  # a trainer asks for batches, and takes no 503 for an answer for long
        chunks=len(chunks),
        total=len(request.query),
        tokens=tokens,
        keep_seconds=service.settings.result_seconds,
        work=[chunk.model_dump_json().encode() for chunk in chunks],
    )
    attempt = Attempt(secrets.token_urlsafe(16), repeatable=False)
    limits = await submit_once(service, caller, attempt, tokens, lambda: work)
    response = await answer(service, attempt.job_id, Patience(_WAIT_SECONDS), keep=False)
    if response.status_code == 202:
        await run_in_threadpool(service.jobs.cancel, attempt.job_id)
        raise Unavailable(f"not done within {_WAIT_SECONDS:.0f} s", headers={"Retry-After": "1"})
    response.headers.update(limits)
    return response
