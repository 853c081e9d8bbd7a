"""Deletes what has expired in the artifact store."""

import asyncio
import logging
import time
from typing import cast

from redis import Redis
from redis.exceptions import RedisError
from starlette.concurrency import run_in_threadpool

from app.artifacts import Artifacts, StoreUnreachable
from app.jobs import keys

log = logging.getLogger(__name__)

_SECONDS = 30.0
_MOST_AT_ONCE = 100
_FOLDERS = {"job": "jobs", "file": "files"}


def sweep(redis: Redis, artifacts: Artifacts, now: float) -> int:
    """Delete what has expired by now; returns how much that was.

    Several processes may sweep at once, and one may die doing it: what is gone is deleted again, to no effect.
    """
    count = 0
    while due := cast(list[bytes], redis.zrange(keys.EXPIRING, "-inf", now, byscore=True, offset=0, num=_MOST_AT_ONCE)):
        for entry in due:
            if (until := redis.zscore(keys.EXPIRING, entry)) is None or until > now:
                continue  # deleted, or kept for longer, meanwhile
            kind, _, name = entry.decode().partition(":")
            artifacts.delete(f"{_FOLDERS[kind]}/{name}")
            redis.zrem(keys.EXPIRING, entry)
            count += 1
    return count


async def keep_sweeping(redis: Redis, artifacts: Artifacts) -> None:
    """Sweep now and then until cancelled."""
    while True:
        try:
            await run_in_threadpool(sweep, redis, artifacts, time.time())
        except (RedisError, StoreUnreachable) as error:
            log.warning("nothing swept: %s", error)
        await asyncio.sleep(_SECONDS)
