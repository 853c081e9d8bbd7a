"""How much waits in the queues, and how fast they are worked through; every answer takes constant time."""

import time
from typing import cast

from redis import Redis

from app.jobs import keys

PERIOD_SECONDS = 15
_PERIODS = 3
MOST_SECONDS = 60.0
_LEAST_SECONDS, _UNKNOWN_SECONDS = 1.0, 10.0
_MOST_MEMORY = 0.8


def period() -> int:
    """Number of the period that it is now."""
    return int(time.time() // PERIOD_SECONDS)


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
    memory = cast(dict[str, int], redis.info("memory"))
    return 0 < memory["maxmemory"] * _MOST_MEMORY < memory["used_memory"]
