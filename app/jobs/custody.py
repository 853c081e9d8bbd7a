"""What becomes of the chunks that a worker had in hand when it died.

A chunk is noted in a lane's hand in the same step in which it is claimed, and struck off in the step that takes its
answer. When a worker's heartbeat has ended, the next live worker to look gives back what was noted. Doing so twice is
harmless: a chunk is given back once, and answered once.
"""

from typing import cast

from redis import Redis

from app.jobs import keys
from app.jobs.hand import Hand
from app.jobs.store import JobStore
from app.jobs.suspicion import Suspicion

_MOST_DEATHS = 3


def inherit(redis: Redis) -> int:
    """Give back the chunks of dead workers; returns how many.

    A job fails after three deaths where its chunk cannot be divided, or is fatal before any row of it is read.
    """
    jobs, count = JobStore(redis), 0
    for name in (raw.decode() for raw in cast(set[bytes], redis.smembers(keys.WORKERS))):
        if redis.exists(keys.worker(name)):
            continue
        held = cast(dict[bytes, bytes], redis.hgetall(keys.in_hand(name)))
        for lane, entry in held.items():
            count += _give_back(Hand(jobs, name, lane.decode()), entry.decode())
        if not redis.exists(keys.in_hand(name)):
            redis.srem(keys.WORKERS, name)
    return count


def wake_idle(redis: Redis) -> None:
    """Queue tasks for work that none is left for: they were lost with a worker or with the queue."""
    jobs = JobStore(redis)
    for queue in keys.TASKS:
        if unclaimed := jobs.unclaimed(queue):
            jobs.wake(queue, unclaimed)


def _give_back(hand: Hand, entry: str) -> bool:
    job_id, number, *rows = entry.split(":")
    marked = range(int(rows[0]), int(rows[1])) if len(rows) == 2 else None
    raw = cast(bytes | None, hand.jobs.redis.hget(keys.suspicions(job_id), number))
    known = (Suspicion.model_validate_json(raw) if raw else Suspicion()).after_death(marked)
    divisible = marked is not None and hand.jobs.state(job_id).get("kind") == "annotate"
    if known.deaths >= _MOST_DEATHS and not divisible:
        hand.jobs.fail(job_id, f"it was in hand at {_MOST_DEATHS} deaths of workers")
    return hand.give_back(entry, known)
