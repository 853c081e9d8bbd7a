"""Pages of what an owner has, the newest first."""

from collections.abc import Callable
from typing import TypeVar, cast

from redis import Redis

Found = TypeVar("Found")


class PageMissing(Exception):
    """There is no page after this id: it is not in the list, or not any more."""


def page(redis: Redis, place: str, after: str | None, limit: int, find: Callable[[str], Found | None]) -> list[Found]:
    """What comes after an id in a list, without what is gone, which is struck off.

    Args:
        redis: where the list is.
        place: its key: a sorted set of ids by the time they were made.
        after: the last id of the page before; None for the first page.
        limit: how many.
        find: what an id stands for; None if it is gone.

    Raises:
        PageMissing: `after` is not in the list.
    """
    rank = redis.zrevrank(place, after) if after else -1
    if rank is None:
        raise PageMissing
    found: list[Found] = []
    start = cast(int, rank) + 1
    while len(found) < limit:
        ids = cast(list[bytes], redis.zrange(place, start, start + limit - 1, desc=True))
        if not ids:
            break
        for raw in ids:
            if (one := find(raw.decode())) is None:
                redis.zrem(place, raw)
            else:
                start += 1
                found.append(one)
    return found[:limit]


def strike_off_oldest(redis: Redis, place: str, find: Callable[[str], Found | None]) -> None:
    """Strike the oldest two off a list if they are gone: done with every entry, it grows no longer than they live."""
    for raw in cast(list[bytes], redis.zrange(place, 0, 1)):
        if find(raw.decode()) is None:
            redis.zrem(place, raw)
