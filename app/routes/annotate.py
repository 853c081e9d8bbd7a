"""POST /annotate: preference pairs in, margins out."""

import tempfile
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Annotated

from fastapi import APIRouter, Header, Response
from starlette.concurrency import run_in_threadpool

from app.answer import Patience, answer, answers, submit_once
from app.auth.caller import GUARDED, CallerDep, requires
from app.auth.quota import METERED
from app.body import JsonRoute
from app.datasets.rows import Row
from app.idempotent import KeyedDep, attempt_of
from app.jobs import keys
from app.jobs.cut import pairs_chunk, tokens_of
from app.jobs.rows import store_rows
from app.jobs.submission import Submission
from app.reading import reading_of
from app.schemas.annotate import AnnotateRequest, AnnotateResponse
from app.schemas.chunk import Reading
from app.service import Service, ServiceDep
from app.webhooks.admission import admitted

_FEW = 64
"""Pairs whose tokens are estimated sooner than a thread would take over."""

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
    few = len(request.pairs) <= _FEW
    tokens = tokens_of(request, reading) if few else await run_in_threadpool(tokens_of, request, reading)
    job = Submission(
        kind="annotate",
        owner=caller.owner,
        queue=keys.ANNOTATE,
        chunks=1,
        total=len(request.pairs),
        tokens=tokens,
        keep_seconds=service.settings.result_seconds,
        webhook=admitted(request.webhook, service.settings),
    )
    attempt = await attempt_of(service, caller, keyed)
    small = tokens <= service.settings.sync_tokens and not reading.asks  # no small request waits behind one that asks
    form = _small if small else _large
    make = partial(form, service, attempt.job_id, job, request, reading)
    limits = await submit_once(service, caller, attempt, tokens, make)
    service.metrics.pairs.inc(len(request.pairs))
    patience = Patience.of(prefer, tokens, service.settings)
    response = await answer(service, attempt.job_id, patience, keep=attempt.repeatable or job.webhook is not None)
    response.headers.update(limits)
    return response


def _small(_: Service, _job_id: str, job: Submission, request: AnnotateRequest, reading: Reading) -> Submission:
    """One chunk that waits and is answered in the queue's memory."""
    return replace(job, work=[pairs_chunk(request, reading).model_dump_json().encode()])


def _large(service: Service, job_id: str, job: Submission, request: AnnotateRequest, reading: Reading) -> Submission:
    """Rows in the artifact store, behind all small requests."""
    pairs = zip(request.pairs, request.ids(), strict=True)
    rows = (Row(line=i, pair=pair.model_copy(update={"id": own})) for i, (pair, own) in enumerate(pairs, 1))
    place = f"jobs/{job_id}/rows"
    with tempfile.TemporaryDirectory(prefix="safemargin-rows-") as scratch:
        most = service.settings.chunk_tokens
        stored = store_rows(service.artifacts, place, rows, most, Path(scratch), cost=reading.cost)
    return replace(job, queue=keys.BULK, chunks=stored.chunks, rows=place, options=reading.model_dump_json())
