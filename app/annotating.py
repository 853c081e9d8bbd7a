"""The job that a request to annotate pairs is: one chunk that is answered soon, or rows behind all small requests."""

import tempfile
from dataclasses import replace
from functools import partial
from pathlib import Path

from starlette.concurrency import run_in_threadpool

from app.answer import submit_once
from app.auth.caller import Caller
from app.datasets.rows import Row
from app.idempotent import Attempt
from app.jobs import keys
from app.jobs.cut import pairs_chunk, tokens_of
from app.jobs.rows import store_rows
from app.jobs.submission import Submission
from app.schemas.annotate import AnnotateRequest
from app.schemas.chunk import Reading
from app.service import Service
from app.webhooks.admission import admitted

_FEW = 64
"""Pairs whose tokens are estimated sooner than a thread would take over."""


async def job_of(service: Service, caller: Caller, request: AnnotateRequest, reading: Reading) -> Submission:
    """The job that pairs are to be, but for its work.

    Args:
        service: where.
        caller: whose it is.
        request: the pairs.
        reading: how they are read.

    Raises:
        Unprocessable: its webhook would never be delivered.
    """
    few = len(request.pairs) <= _FEW
    return Submission(
        kind="annotate",
        owner=caller.owner,
        queue=keys.ANNOTATE,
        chunks=1,
        total=len(request.pairs),
        tokens=tokens_of(request, reading) if few else await run_in_threadpool(tokens_of, request, reading),
        keep_seconds=service.settings.result_seconds,
        webhook=admitted(request.webhook, service.settings),
    )


async def submit_pairs(
    service: Service, caller: Caller, attempt: Attempt, job: Submission, request: AnnotateRequest, reading: Reading
) -> dict[str, str]:
    """Make the job of pairs, unless it is made already; returns headers that say what is left of the quota.

    Args:
        service: where to.
        caller: who pays.
        attempt: which job it is.
        job: as `job_of` gave it.
        request: the pairs.
        reading: how they are read.

    Raises:
        OverQuota, QueueFull, Conflict: as `submit_once` does.
    """
    small = job.tokens <= service.settings.sync_tokens and not reading.asks  # none of them waits behind one that asks
    form = _small if small else _large
    make = partial(form, service, attempt.job_id, job, request, reading)
    limits = await submit_once(service, caller, attempt, job.tokens, make)
    service.metrics.pairs.inc(len(request.pairs))
    return limits


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
