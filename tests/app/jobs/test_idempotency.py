"""Keys by which a client makes one job of a request that it repeats."""

from functools import partial

import pytest
from redis import Redis

from app.jobs.idempotency import KeyReused, job_for
from app.jobs.keys import PREFIX


def test_the_first_request_gets_the_fresh_id_and_every_repetition_the_same(redis: Redis) -> None:
    assert [job_for(redis, "me", "key", b"request", fresh, 60) for fresh in ("one", "two", "three")] == ["one"] * 3


def test_a_key_stands_for_one_request(redis: Redis) -> None:
    ask = partial(job_for, redis, "me", "key")
    ask(b"request", "one", 60)
    with pytest.raises(KeyReused):
        ask(b"another", "two", 60)
    assert ask(b"request", "three", 60) == "one"


def test_another_owners_key_is_another_key(redis: Redis) -> None:
    assert job_for(redis, "me", "key", b"request", "one", 60) == "one"
    assert job_for(redis, "you", "key", b"another", "two", 60) == "two"


def test_a_key_is_forgotten_in_time_and_never_kept_as_it_is(redis: Redis) -> None:
    job_for(redis, "me", "secret", b"request", "one", 60)
    (name,) = redis.scan_iter(PREFIX + "idempotency:*")
    assert b"secret" not in name
    assert 0 < redis.ttl(name) <= 60
