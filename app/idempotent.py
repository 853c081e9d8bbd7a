"""The `Idempotency-Key` header: a repeated request is one job."""

import secrets
from dataclasses import dataclass
from functools import partial
from typing import Annotated

from fastapi import Depends, Header, Request
from starlette.concurrency import run_in_threadpool

from app.auth.caller import Caller
from app.errors import invalid
from app.jobs.idempotency import KeyReused, job_for
from app.service import Service

IdempotencyKey = Annotated[
    str | None,
    Header(
        alias="Idempotency-Key",
        min_length=1,
        max_length=255,
        description="The same key with the same request is answered once: a repetition gets the stored answer, 409 "
        "with the job's `Location` while that is being made, and 422 if the request is another one.",
    ),
]


@dataclass(frozen=True, slots=True)
class Attempt:
    """A request that becomes a job, or became one before.

    Attributes:
        job_id: the job that it is.
        repeatable: whether its client may ask again, so that the answer has to be kept.
    """

    job_id: str
    repeatable: bool


@dataclass(frozen=True, slots=True)
class Keyed:
    """A request with an `Idempotency-Key`, or without.

    Attributes:
        key: as the client chose it.
        whole: what it stands for.
    """

    key: str | None
    whole: bytes


async def _keyed(request: Request, key: IdempotencyKey = None) -> Keyed:
    return Keyed(key, f"{request.method} {request.url.path}\n".encode() + await request.body())


KeyedDep = Annotated[Keyed, Depends(_keyed)]


async def attempt_of(service: Service, caller: Caller, keyed: Keyed) -> Attempt:
    """Which job a request is; asked once it is known to be valid, because from then on its key stands for it.

    Raises:
        invalid: the key stands for another request.
    """
    fresh = secrets.token_urlsafe(16)
    if keyed.key is None:
        return Attempt(fresh, repeatable=False)
    made = partial(job_for, service.redis, caller.owner, keyed.key, keyed.whole, fresh)
    try:
        return Attempt(await run_in_threadpool(made, service.settings.result_seconds), repeatable=True)
    except KeyReused:
        detail = "stands for another request that was made before"
        raise invalid("header/Idempotency-Key", "idempotency_key_reused", detail) from None
