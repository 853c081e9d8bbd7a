"""Which worker has which chunk in hand, and what becomes of the chunks of a worker that died.

A chunk is noted before it is worked on and struck off after it is answered. When a worker's heartbeat has ended, the
next live worker to look queues what was noted. Doing so twice is harmless: a chunk is answered once.
"""

from typing import cast

from redis import Redis

from app.jobs import keys
from app.jobs.store import JobStore

_LOCK_SECONDS = 5
_MOST_DEATHS = 3


def take(redis: Redis, worker: str, job_id: str, number: int) -> None:
    """Note that this worker works on a chunk."""
    redis.sadd(keys.in_hand(worker), f"{job_id}:{number}")


def put_down(redis: Redis, worker: str, job_id: str, number: int) -> None:
    """Strike a chunk off."""
    redis.srem(keys.in_hand(worker), f"{job_id}:{number}")


def inherit(redis: Redis, heir: str) -> int:
    """Queue the chunks of dead workers again; returns how many.

    A chunk that was in hand at three deaths is taken for their cause: its job fails.
    """
    names = [name.decode() for name in cast(set[bytes], redis.smembers(keys.WORKERS))]
    dead = [name for name in names if not redis.exists(keys.worker(name))]
    if not dead or not redis.set(keys.INHERITING, heir, nx=True, ex=_LOCK_SECONDS):
        return 0
    jobs = JobStore(redis)
    count = 0
    for name in dead:
        for entry in cast(set[bytes], redis.smembers(keys.in_hand(name))):
            job_id, _, number = entry.decode().rpartition(":")
            count += 1
            if jobs.died(job_id, int(number)) >= _MOST_DEATHS:
                jobs.fail(job_id, f"a chunk of it was in hand at {_MOST_DEATHS} deaths of workers")
            else:
                jobs.requeue(job_id, int(number))
        redis.delete(keys.in_hand(name))
        redis.srem(keys.WORKERS, name)
    redis.delete(keys.INHERITING)
    return count
