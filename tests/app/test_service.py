"""What the routes share: how much may wait."""

from collections.abc import Iterator

import pytest
from redis import Redis

from app.jobs import keys, load
from app.jobs.hand import Hand
from app.jobs.submission import QueueFull
from app.metrics import Metrics
from app.service import Service
from app.settings import Settings
from tests.app.jobs.conftest import claimed, submission


@pytest.fixture
def service(empty_queue: str) -> Iterator[Service]:
    config = Settings().model_copy(update={"queue_tokens": 500, "queue_seconds": 10.0, "bulk_queue_tokens": 9000})
    with Redis.from_url(empty_queue) as redis:
        yield Service(config, redis, Metrics())


def test_small_requests_may_wait_up_to_a_number_of_tokens(service: Service) -> None:
    service.submit(submission(tokens=500), "first")
    with pytest.raises(QueueFull):
        service.submit(submission(tokens=1), "second")


def test_more_of_them_may_wait_if_they_are_answered_soon_at_the_pace_of_late(service: Service) -> None:
    service.redis.set(keys.pace(keys.ANNOTATE, load.period()), 4500)
    service.submit(submission(tokens=500), "first")
    service.submit(submission(tokens=400), "second")
    with pytest.raises(QueueFull):
        service.submit(submission(tokens=2000), "third")


def test_files_and_large_requests_have_a_limit_of_their_own(service: Service) -> None:
    service.submit(submission(tokens=8999, queue=keys.BULK), "first")
    with pytest.raises(QueueFull):
        service.submit(submission(tokens=2, queue=keys.BULK), "second")


@pytest.fixture
def small_memory(service: Service) -> Iterator[None]:
    """A server with a job whose memory is nine tenths full."""
    service.jobs.submit(submission(), limit=10**9)
    before = service.redis.config_get("maxmemory")["maxmemory"] or 0
    service.redis.config_set("maxmemory", int(service.redis.info("memory")["used_memory"] / 0.9))
    yield
    service.redis.config_set("maxmemory", before)


@pytest.mark.usefixtures("small_memory")
def test_a_server_that_is_nearly_out_of_memory_takes_no_job_but_every_answer(service: Service) -> None:
    with pytest.raises(QueueFull):
        service.submit(submission(), "refused")
    hand = Hand(service.jobs, "worker", "lane")
    hand.answer(claimed(hand), b"answer", done=1)
    (job,) = service.jobs.listed("", None, 10)
    assert job.status == "completed"
