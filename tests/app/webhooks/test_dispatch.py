"""Telling that jobs are over: real queue, real receiver, a clock of the test's own."""

import asyncio
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from redis import Redis
from redis.asyncio import Redis as AsyncRedis
from starlette.testclient import TestClient

from app.artifacts import StoreUnreachable
from app.jobs import keys
from app.jobs.hand import Hand
from app.jobs.store import JobStore
from app.main import create_app
from app.metrics import Metrics
from app.settings import Settings
from app.webhooks import dispatch
from app.webhooks.backoff import DELAYS
from app.webhooks.dispatch import Dispatch, Outcome
from app.webhooks.outbox import LEASE_SECONDS, Outbox
from app.webhooks.sending import Sender
from tests.app.jobs.conftest import PLENTY, answer, claimed, submission
from tests.app.webhooks.conftest import Answer, Receiver, book
from tests.app.webhooks.verifying import verified

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
START = 1_700_000_000.0
PATIENCE = 10  # seconds that only a broken service takes


def finished(redis: Redis, url: str, now: float, *, failed: bool = False) -> str:
    """A job that is over and whose end is to be told, as the job store leaves it."""
    jobs = JobStore(redis)
    job_id = jobs.submit(submission(webhook=url), limit=PLENTY)
    if failed:
        jobs.fail(job_id, "for a reason")
    else:
        hand = Hand(jobs, "w", job_id)
        answer(hand, claimed(hand))
    redis.zadd(keys.WEBHOOKS_DUE, {job_id: now})
    return job_id


@dataclass
class Office:
    """A service's webhooks, one attempt at a time.

    Attributes:
        url: the queue.
        now: what its clock says.
        secrets: asks for its secrets.
        addresses: what every host resolves to.
    """

    url: str
    now: float = START
    secrets: Callable[[], str] = lambda: SECRET
    addresses: tuple[str, ...] = ("127.0.0.1",)
    allow_private: bool = True
    metrics: Metrics = field(default_factory=Metrics)

    @property
    def redis(self) -> Redis:
        return Redis.from_url(self.url)

    def dispatch(self, redis: "AsyncRedis") -> Dispatch:
        sender = Sender(self.allow_private, book(*self.addresses)[0])
        clock, chance = (lambda: self.now), (lambda: 0.0)
        jobs = JobStore(self.redis)
        return Dispatch(Outbox(redis), jobs, sender, self.secrets, self.metrics, clock, chance)

    def attempt(self) -> Outcome | None:
        """Make the delivery that is due; fails if none is."""

        async def deliver() -> Outcome | None:
            async with AsyncRedis.from_url(self.url) as redis:
                made = self.dispatch(redis)
                claim = await made.outbox.claim(self.now)
                assert claim is not None
                return await made.deliver(claim)

        return asyncio.run(deliver())

    def due(self) -> dict[str, float]:
        """Seconds until each delivery to come."""
        scores: Any = self.redis.zrange(keys.WEBHOOKS_DUE, 0, -1, withscores=True)
        return {job.decode(): score - self.now for job, score in scores}

    def counted(self, outcome: Outcome) -> float | None:
        name = "safemargin_webhook_deliveries_total"
        return self.metrics.registry.get_sample_value(name, {"outcome": outcome})


@pytest.fixture
def office(empty_queue: str) -> Office:
    return Office(empty_queue)


def test_a_job_s_end_is_told_signed_and_in_the_job_s_own_words(office: Office, receiver: Receiver) -> None:
    job_id = finished(office.redis, receiver.url(), START)
    assert office.attempt() == "delivered"
    told = receiver.received.get_nowait()
    assert verified(SECRET, told.headers, told.body, START)
    assert told.headers["webhook-id"] == f"msg_{job_id}"
    event, job = json.loads(told.body), JobStore(office.redis).job(job_id)
    assert job is not None
    assert event["type"] == "job.completed"
    assert event["timestamp"].endswith("Z")
    assert event["data"] == job.model_dump(mode="json")
    assert office.due() == {}
    assert office.counted("delivered") == 1


def test_the_type_says_how_the_job_ended(office: Office, receiver: Receiver) -> None:
    finished(office.redis, receiver.url(), START, failed=True)
    office.attempt()
    event = json.loads(receiver.received.get_nowait().body)
    assert (event["type"], event["data"]["error"]) == ("job.failed", "for a reason")


def test_attempts_have_one_id_and_a_time_and_signature_each(office: Office, receiver: Receiver) -> None:
    finished(office.redis, receiver.url(), START)
    receiver.will(Answer(500))
    assert office.attempt() == "retried"
    office.now += 5
    assert office.attempt() == "delivered"
    first, second = receiver.received.get_nowait(), receiver.received.get_nowait()
    assert first.headers["webhook-id"] == second.headers["webhook-id"]
    assert [told.headers["webhook-timestamp"] for told in (first, second)] == ["1700000000", "1700000005"]
    assert all(verified(SECRET, told.headers, told.body, office.now) for told in (first, second))
    assert first.body == second.body


@pytest.mark.parametrize("status", [301, 400, 404, 429, 500, 503])
def test_whatever_is_no_success_is_tried_again(office: Office, receiver: Receiver, status: int) -> None:
    job_id = finished(office.redis, receiver.url(), START)
    receiver.will(Answer(status, {"Location": receiver.url()}))
    assert office.attempt() == "retried"
    assert office.due() == {job_id: DELAYS[0]}


def test_who_never_listens_is_given_up_in_the_end(office: Office) -> None:
    finished(office.redis, "http://hooks.example/", START)
    office.addresses = ()
    waits = []
    while office.attempt() == "retried":
        (wait,) = office.due().values()
        waits.append(wait)
        office.now += wait
    assert waits == list(DELAYS)
    assert office.due() == {} and office.redis.hgetall(keys.WEBHOOK_ATTEMPTS) == {}
    assert (office.counted("retried"), office.counted("given_up")) == (len(DELAYS), 1)


def test_who_asks_for_patience_gets_it(office: Office, receiver: Receiver) -> None:
    job_id = finished(office.redis, receiver.url(), START)
    receiver.will(Answer(429, {"Retry-After": "120"}))
    office.attempt()
    assert office.due() == {job_id: 120}


def test_who_is_gone_is_told_no_more(office: Office, receiver: Receiver) -> None:
    finished(office.redis, receiver.url(), START)
    receiver.will(Answer(410))
    assert office.attempt() == "given_up"
    assert office.due() == {}


def test_a_host_that_moved_to_a_private_address_is_refused(office: Office, receiver: Receiver) -> None:
    finished(office.redis, receiver.url("hooks.example"), START)
    office.allow_private = False
    assert office.attempt() == "refused"
    assert receiver.received.empty() and office.due() == {}
    assert office.counted("refused") == 1


def test_a_job_that_is_gone_is_not_told_of(office: Office, receiver: Receiver) -> None:
    job_id = finished(office.redis, receiver.url(), START)
    office.redis.delete(keys.job(job_id))
    assert office.attempt() is None
    assert receiver.received.empty() and office.due() == {}


def test_without_its_secret_a_delivery_waits_and_is_not_counted_as_tried(office: Office, receiver: Receiver) -> None:
    job_id = finished(office.redis, receiver.url(), START)

    def unreachable() -> str:
        raise StoreUnreachable("the artifact store does not answer")

    office.secrets = unreachable
    with pytest.raises(StoreUnreachable):
        office.attempt()
    assert office.due() == {job_id: LEASE_SECONDS}
    assert office.redis.hgetall(keys.WEBHOOK_ATTEMPTS) == {}
    assert receiver.received.empty()


@pytest.fixture
def served(empty_queue: str, tmp_path: Path) -> Iterator[TestClient]:
    """A whole API, without workers."""
    shared = {"redis_url": empty_queue, "artifacts": str(tmp_path / "store"), "webhook_private": True}
    with TestClient(create_app(Settings().model_copy(update=shared))) as client:
        yield client


def test_the_service_tells_by_itself_with_a_secret_that_it_keeps(
    served: TestClient, empty_queue: str, tmp_path: Path, receiver: Receiver
) -> None:
    redis = Redis.from_url(empty_queue)
    ids = {finished(redis, receiver.url(), time.time()) for _ in range(5)}
    told = [receiver.received.get(timeout=PATIENCE) for _ in ids]
    secret = (tmp_path / "store" / "webhook-secret").read_text()
    assert all(verified(secret, each.headers, each.body, time.time()) for each in told)
    assert {each.headers["webhook-id"] for each in told} == {f"msg_{job_id}" for job_id in ids}


def test_several_services_tell_each_end_once(
    served: TestClient, empty_queue: str, tmp_path: Path, receiver: Receiver
) -> None:
    redis = Redis.from_url(empty_queue)
    shared = {"redis_url": empty_queue, "artifacts": str(tmp_path / "store"), "webhook_private": True}
    with TestClient(create_app(Settings().model_copy(update=shared))):
        ids = [finished(redis, receiver.url(), time.time()) for _ in range(40)]
        told = [receiver.received.get(timeout=PATIENCE).headers["webhook-id"] for _ in ids]
    assert sorted(told) == sorted(f"msg_{job_id}" for job_id in ids)
    assert receiver.received.empty()


def test_neither_a_queue_that_fails_nor_a_job_that_cannot_be_read_stops_the_others(
    office: Office, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = finished(office.redis, receiver.url(), START - 1)
    office.redis.hset(keys.job(broken), "created_at", "never")
    fine = finished(office.redis, receiver.url(), START)
    office.redis.config_set("maxmemory", "1")  # the queue refuses whatever writes
    failures = []

    def recover(*seen: object) -> None:
        failures.append(seen)
        office.redis.config_set("maxmemory", "0")

    monkeypatch.setattr(dispatch, "_LOOK_SECONDS", 0.01)
    monkeypatch.setattr(dispatch.log, "debug", recover)

    async def run() -> None:
        async with AsyncRedis.from_url(office.url) as redis:
            running = asyncio.create_task(office.dispatch(redis).run())
            while not (office.counted("delivered") and office.counted("retried")):
                await asyncio.sleep(0.01)
            running.cancel()
            await asyncio.wait([running])

    asyncio.run(asyncio.wait_for(run(), PATIENCE))
    assert len(failures) == 1
    assert receiver.received.get_nowait().headers["webhook-id"] == f"msg_{fine}"
    assert office.due() == {broken: DELAYS[0]}
