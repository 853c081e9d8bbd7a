"""How much waits in the queues, and how fast they are worked through; every answer takes constant time."""

import time
from dataclasses import dataclass
from typing import cast, get_args

from redis import Redis

from app.jobs import keys
from app.schemas.jobs import JobKind

PERIOD_SECONDS = 15
_PERIODS = 3
MOST_SECONDS = 60.0
_LEAST_SECONDS, _UNKNOWN_SECONDS = 1.0, 10.0
_MOST_MEMORY = 0.8
_MOST_LOOKED_AT = 100
_ENDS = ("completed", "failed", "cancelled")


def period() -> int:
    """Number of the period that it is now."""
    return int(time.time() // PERIOD_SECONDS)


@dataclass(frozen=True, slots=True)
class Waiting:
    """What waits in a queue.

    Attributes:
        tokens: estimated, of the chunks that are not answered.
        jobs: with chunks that nobody has taken.
        oldest: seconds that the oldest job waits of which nobody has taken anything; 0 where there is none.
    """

    tokens: int
    jobs: int
    oldest: float


def queues(redis: Redis) -> dict[str, Waiting]:
    """What waits, by queue; the age is that of the jobs whose turn comes first."""
    tokens, now = waiting(redis), time.time()
    with redis.pipeline(transaction=False) as pipe:
        for name in tokens:
            pipe.llen(keys.ready(name))
            pipe.lrange(keys.ready(name), 0, _MOST_LOOKED_AT - 1)
        found = pipe.execute()
        names = [name for name, ids in zip(tokens, found[1::2], strict=True) for _ in ids]
        for job_id in (job_id for ids in found[1::2] for job_id in ids):
            pipe.hmget(keys.job(job_id.decode()), "created_at", "started_at")
        times = pipe.execute()
    ages = dict.fromkeys(tokens, 0.0)
    for name, (made, begun) in zip(names, times, strict=True):
        if made and not begun:
            ages[name] = max(ages[name], now - float(made))
    lengths = zip(tokens.items(), found[::2], strict=True)
    return {name: Waiting(count, length, ages[name]) for (name, count), length in lengths}


def ended(redis: Redis) -> dict[tuple[str, str], int]:
    """How many jobs have ended, by kind and status."""
    counts = cast(dict[bytes, bytes], redis.hgetall(keys.ENDED))
    counted = {field.decode(): int(count) for field, count in counts.items()}
    every = {(kind, status): 0 for kind in get_args(JobKind) for status in _ENDS}
    return every | {(kind, status): n for (kind, _, status), n in ((f.partition(":"), n) for f, n in counted.items())}


def waiting(redis: Redis) -> dict[str, int]:
    """Estimated tokens of the chunks that are not answered, by queue."""
    names = list(keys.TASKS)
    counts = cast(list[bytes | None], redis.mget([keys.tokens(name) for name in names]))
    return {name: max(0, int(count or 0)) for name, count in zip(names, counts, strict=True)}


def pace(redis: Redis, queue: str) -> float:
    """Estimated tokens per second that a queue was worked through in the last periods; 0 if nobody worked."""
    now = time.time()
    names = [keys.pace(queue, period() - back) for back in range(_PERIODS)]
    counts = cast(list[bytes | None], redis.mget(names))
    return sum(int(count or 0) for count in counts) / (now % PERIOD_SECONDS + (_PERIODS - 1) * PERIOD_SECONDS)


def seconds_left(redis: Redis, queue: str, tokens: int) -> float | None:
    """Seconds until a job is done that has so many tokens left, while the jobs of its queue take turns.

    None where nothing moves.
    """
    speed = pace(redis, queue)
    turns = max(1, redis.llen(keys.ready(queue)))
    return min(tokens * turns, max(tokens, waiting(redis)[queue])) / speed if speed else None


def seconds_until(redis: Redis, queue: str, tokens: int) -> float:
    """After how long it is worth coming back if so many tokens have to be done first."""
    speed = pace(redis, queue)
    return min(MOST_SECONDS, max(_LEAST_SECONDS, tokens / speed)) if speed else _UNKNOWN_SECONDS


def memory_is_short(redis: Redis) -> bool:
    """Whether the queue's server is so near its `maxmemory` that the rest is for the answers to what it has accepted.

    What small requests leave behind is kept there until it expires, however many tokens wait.
    """
    used, most = memory(redis)
    return 0 < most * _MOST_MEMORY < used


def memory(redis: Redis) -> tuple[int, int]:
    """Bytes that the queue's server uses, and how many it may; 0 where nobody has said."""
    found = cast(dict[str, int], redis.info("memory"))
    return found["used_memory"], found["maxmemory"]
