"""What is due, shared by several processes, on a real queue."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

import pytest
import redis
from redis.asyncio import Redis

from app.jobs import keys
from app.webhooks.outbox import LEASE_SECONDS, Claim, Outbox

NOW = 1_700_000_000.123456
T = TypeVar("T")


@pytest.fixture
def queue(empty_queue: str) -> redis.Redis:
    return redis.Redis.from_url(empty_queue)


def within(url: str, story: Callable[[Outbox], Awaitable[T]]) -> T:
    """Let a story happen to the outbox of a queue."""

    async def tell() -> T:
        async with Redis.from_url(url) as connection:
            return await story(Outbox(connection))

    return asyncio.run(tell())


def due(queue: redis.Redis, **times: float) -> None:
    """What the end of a job does."""
    queue.zadd(keys.WEBHOOKS_DUE, times)


def left(queue: redis.Redis) -> tuple[dict[bytes, float], dict[bytes, bytes]]:
    """The deliveries to come, and their failed attempts."""
    scores = queue.zrange(keys.WEBHOOKS_DUE, 0, -1, withscores=True)
    return dict(scores), queue.hgetall(keys.WEBHOOK_ATTEMPTS)  # type: ignore[arg-type, return-value]


def test_what_is_due_longest_is_claimed_first_and_what_is_not_due_not_at_all(
    empty_queue: str, queue: redis.Redis
) -> None:
    due(queue, late=NOW - 1, later=NOW, tomorrow=NOW + 86_400)

    async def story(outbox: Outbox) -> list[Claim | None]:
        return [await outbox.claim(NOW) for _ in range(3)]

    lease = NOW + LEASE_SECONDS
    assert within(empty_queue, story) == [Claim("late", 0, lease), Claim("later", 0, lease), None]


def test_each_delivery_is_claimed_by_one(empty_queue: str, queue: redis.Redis) -> None:
    due(queue, **{f"job{number}": NOW for number in range(50)})

    async def story(outbox: Outbox) -> list[Claim | None]:
        return await asyncio.gather(*(outbox.claim(NOW) for _ in range(60)))

    claims = within(empty_queue, story)
    assert sorted(claim.job_id for claim in claims if claim) == sorted(f"job{number}" for number in range(50))
    assert claims.count(None) == 10


def test_what_is_struck_off_leaves_nothing_behind(empty_queue: str, queue: redis.Redis) -> None:
    due(queue, job=NOW)

    async def story(outbox: Outbox) -> bool:
        first = await outbox.claim(NOW)
        assert first is not None and await outbox.postpone(first, NOW + 5)
        again = await outbox.claim(NOW + 5)
        assert again is not None
        return await outbox.strike_off(again)

    assert within(empty_queue, story)
    assert left(queue) == ({}, {})


def test_what_is_postponed_comes_back_then_with_its_attempts_counted(empty_queue: str, queue: redis.Redis) -> None:
    due(queue, job=NOW)

    async def story(outbox: Outbox) -> list[Claim | None]:
        claim = await outbox.claim(NOW)
        assert claim is not None and await outbox.postpone(claim, NOW + 5)
        return [await outbox.claim(NOW + 4.999), await outbox.claim(NOW + 5)]

    assert within(empty_queue, story) == [None, Claim("job", 1, NOW + 5 + LEASE_SECONDS)]


def test_what_a_dead_process_had_in_hand_is_due_again_when_its_lease_ends(empty_queue: str, queue: redis.Redis) -> None:
    due(queue, job=NOW)

    async def story(outbox: Outbox) -> list[Claim | None]:
        await outbox.claim(NOW)  # and then it dies
        return [await outbox.claim(NOW + LEASE_SECONDS - 1), await outbox.claim(NOW + LEASE_SECONDS)]

    assert within(empty_queue, story) == [None, Claim("job", 0, NOW + 2 * LEASE_SECONDS)]


def test_who_lost_the_lease_changes_nothing(empty_queue: str, queue: redis.Redis) -> None:
    due(queue, job=NOW)

    async def story(outbox: Outbox) -> list[bool]:
        slow = await outbox.claim(NOW)
        heir = await outbox.claim(NOW + LEASE_SECONDS)
        assert slow is not None and heir is not None
        meddled = [await outbox.strike_off(slow), await outbox.postpone(slow, NOW)]
        assert left(queue) == ({b"job": heir.lease}, {})
        done = await outbox.strike_off(heir)
        return [*meddled, done, await outbox.postpone(slow, NOW), await outbox.strike_off(heir)]

    assert within(empty_queue, story) == [False, False, True, False, False]
    assert left(queue) == ({}, {})


def test_the_url_is_the_job_s(empty_queue: str, queue: redis.Redis) -> None:
    queue.hset(keys.job("job"), "webhook", "https://example.com/ü")

    async def story(outbox: Outbox) -> list[str | None]:
        return [await outbox.url(Claim(job_id, 0, NOW)) for job_id in ("job", "gone")]

    assert within(empty_queue, story) == ["https://example.com/ü", None]
