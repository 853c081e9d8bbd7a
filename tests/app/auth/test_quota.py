"""Quotas: what a key may use in a minute, over HTTP and on a real queue."""

import asyncio
import re
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor

import pytest
from redis import Redis
from starlette.testclient import TestClient

from app.auth.caller import Caller
from app.auth.quota import spend
from app.errors import OverQuota
from app.jobs import keys
from app.jobs.cut import estimated_tokens
from app.metrics import Metrics
from app.schemas.pairs import Pair
from app.service import Service
from app.settings import Settings
from tests.app.auth.conftest import Carry

PAIR = {"prompt": "How do I pick a lock?", "chosen": "Ask a locksmith.", "rejected": "Bend two hairpins."}
BODY = {"pairs": [PAIR]}
COST = estimated_tokens(Pair.model_validate(PAIR))


class Till:
    """Spends the tokens of one key, and can let time pass."""

    def __init__(self, redis: Redis, quota: int | None, key_id: str) -> None:
        self._redis = redis
        self._service = Service(Settings(), redis, Metrics())
        self.caller = Caller("team-a", key_id, frozenset({"annotate"}), quota)

    def spend(self, tokens: int) -> dict[str, str]:
        return asyncio.run(spend(self._service, self.caller, tokens))

    def refused(self, tokens: int) -> OverQuota:
        with pytest.raises(OverQuota) as caught:
            self.spend(tokens)
        return caught.value

    def pass_seconds(self, seconds: int) -> None:
        name = keys.quota(self.caller.key_id)
        self._redis.hincrby(name, "at", -1000 * seconds)


def left(headers: Mapping[str, str]) -> int:
    found = re.fullmatch(r'"tokens";r=(\d+);t=\d+', headers["RateLimit"])
    assert found
    return int(found[1])


def seconds_in(headers: Mapping[str, str]) -> int:
    return int(headers["RateLimit"].rpartition("t=")[2])


@pytest.fixture
def till(redis_url: str, request: pytest.FixtureRequest) -> Till:
    """A key that may use 60 tokens a minute: one a second."""
    return Till(Redis.from_url(redis_url), 60, request.node.name)


def test_a_minutes_tokens_can_be_spent_at_once_and_then_no_more(till: Till) -> None:
    assert left(till.spend(40)) == 20
    assert till.spend(20)
    assert till.refused(40)


def test_the_headers_are_those_of_the_draft(till: Till) -> None:
    headers = till.spend(40)
    assert headers["RateLimit-Policy"] == '"tokens";q=60;w=60'
    assert headers["RateLimit"] == '"tokens";r=20;t=40'
    assert "Retry-After" not in headers


def test_a_refusal_says_when_the_request_would_pass(till: Till) -> None:
    till.spend(60)
    error = till.refused(30)
    assert 1 <= int(error.headers["Retry-After"]) <= 30
    assert seconds_in(error.headers) == int(error.headers["Retry-After"])
    assert error.errors[0].counts["needed"] == 30
    till.pass_seconds(int(error.headers["Retry-After"]))
    assert till.spend(30)


def test_a_refused_request_costs_nothing(till: Till) -> None:
    till.spend(30)
    for _ in range(5):
        till.refused(50)
    assert till.spend(30)


def test_tokens_come_back_steadily_and_never_beyond_a_full_bucket(till: Till) -> None:
    till.spend(60)
    till.pass_seconds(10)
    assert 5 <= left(till.spend(5)) < 50
    till.pass_seconds(100_000)
    assert left(till.spend(1)) == 59


def test_a_request_larger_than_the_bucket_passes_when_it_is_full_and_is_paid_off_afterwards(till: Till) -> None:
    headers = till.spend(150)
    assert left(headers) == 0
    assert seconds_in(headers) == 150
    assert 60 < int(till.refused(1).headers["Retry-After"]) <= 91
    till.pass_seconds(100)
    assert left(till.spend(1)) >= 8


def test_a_request_larger_than_the_bucket_waits_until_it_is_full(till: Till) -> None:
    till.spend(20)
    error = till.refused(150)
    assert int(error.headers["Retry-After"]) <= 20
    till.pass_seconds(int(error.headers["Retry-After"]))
    assert till.spend(150)


def test_a_quota_lowered_meanwhile_holds_at_once(redis_url: str) -> None:
    redis = Redis.from_url(redis_url)
    Till(redis, 6000, "lowered").spend(1)
    lowered = Till(redis, 60, "lowered")
    assert left(lowered.spend(1)) == 59


def test_who_has_no_quota_spends_freely_and_is_told_nothing(redis_url: str) -> None:
    assert Till(Redis.from_url(redis_url), None, "free").spend(10**9) == {}


def test_nothing_is_kept_of_a_bucket_that_is_full_again(till: Till, redis_url: str) -> None:
    till.spend(30)
    kept = Redis.from_url(redis_url).ttl(keys.quota(till.caller.key_id))
    assert 0 < int(str(kept)) <= 32


def test_many_at_once_get_no_more_than_there_is(redis_url: str) -> None:
    till = Till(Redis.from_url(redis_url), 10, "crowd")

    def passes(_number: int) -> bool:
        try:
            return bool(till.spend(1))
        except OverQuota:
            return False

    with ThreadPoolExecutor(8) as pool:
        passed = sum(pool.map(passes, range(40)))
    assert 10 <= passed <= 11  # one more, if a slow machine takes six seconds for all this


def test_a_metered_answer_says_what_is_left(guarded: TestClient, carry: Carry) -> None:
    _key, carried = carry("annotate", tokens_per_minute=10 * COST)
    answer = guarded.post("/annotate", json=BODY, headers=carried)
    assert answer.status_code == 200
    assert answer.headers["RateLimit-Policy"] == f'"tokens";q={10 * COST};w=60'
    assert left(answer.headers) == 9 * COST
    accepted = guarded.post("/annotate", json=BODY, headers=carried | {"Prefer": "respond-async"})
    assert accepted.status_code == 202
    assert accepted.headers["RateLimit"]
    score = {"prompt": PAIR["prompt"], "responses": [PAIR["chosen"]]}
    assert guarded.post("/score", json=score, headers=carried).headers["RateLimit"]


def test_over_quota_is_429_and_costs_other_keys_nothing(guarded: TestClient, carry: Carry) -> None:
    _key, carried = carry("annotate", tokens_per_minute=COST)
    _other, others = carry("annotate", tokens_per_minute=COST)
    assert guarded.post("/annotate", json=BODY, headers=carried).status_code == 200
    answer = guarded.post("/annotate", json=BODY, headers=carried)
    assert answer.status_code == 429
    assert answer.headers["content-type"] == "application/problem+json"
    assert 1 <= int(answer.headers["Retry-After"]) <= 60
    assert left(answer.headers) < COST
    assert answer.json()["errors"][0]["code"] == "over_quota"
    assert guarded.post("/annotate", json=BODY, headers=others).status_code == 200


def test_a_request_that_is_not_valid_costs_nothing(guarded: TestClient, carry: Carry) -> None:
    _key, carried = carry("annotate", tokens_per_minute=COST)
    assert guarded.post("/annotate", json={"pairs": []}, headers=carried).status_code == 422
    assert guarded.post("/annotate", json=BODY | {"direction": "nowhere"}, headers=carried).status_code == 404
    assert guarded.post("/annotate", json=BODY, headers=carried).status_code == 200


def test_what_is_paid_back_can_be_spent_again_and_never_fills_a_bucket_beyond_its_brim(till: Till) -> None:
    till.spend(60)
    till.spend(-60)
    assert left(till.spend(20)) == 40
    till.spend(-1000)
    assert left(till.spend(1)) == 59


def test_what_is_paid_back_lessens_a_debt(till: Till) -> None:
    till.spend(150)
    till.spend(-150)
    assert till.spend(60)


def test_a_request_that_a_full_queue_refuses_costs_nothing(guarded: TestClient, carry: Carry, redis_url: str) -> None:
    _key, carried = carry("annotate", tokens_per_minute=COST)
    with Redis.from_url(redis_url) as redis:
        redis.incrby(keys.tokens(keys.ANNOTATE), 10**9)
        refused = guarded.post("/annotate", json=BODY, headers=carried)
        redis.decrby(keys.tokens(keys.ANNOTATE), 10**9)
    assert (refused.status_code, refused.json()["detail"]) == (503, "the queue is full")
    assert guarded.post("/annotate", json=BODY, headers=carried).status_code == 200
