"""Requests that a client repeats with an `Idempotency-Key` become one job."""

import hashlib
from typing import cast

from redis import Redis

from app.jobs import keys


class KeyReused(Exception):
    """The key came with another request before."""


def job_for(redis: Redis, owner: str, key: str, request: bytes, fresh: str, keep_seconds: int) -> str:
    """Id of the job that a request with this key became, or `fresh` where it is the first.

    Args:
        redis: where keys are kept.
        owner: whose key it is; another owner's is another key.
        key: as the client chose it.
        request: what it stands for, in full.
        fresh: id for a new job.
        keep_seconds: how long the key is known.

    Raises:
        KeyReused: the key stands for another request.
    """
    digest = hashlib.sha256(request).hexdigest()
    name = keys.idempotency(owner, hashlib.sha256(key.encode()).hexdigest())
    before = cast(bytes | None, redis.set(name, f"{digest}:{fresh}", nx=True, get=True, ex=keep_seconds))
    if before is None:
        return fresh
    known, _, job_id = before.decode().partition(":")
    if known != digest:
        raise KeyReused
    return job_id
