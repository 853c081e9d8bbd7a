"""What the routes share: how much may wait."""

from redis import Redis

from app.jobs import keys, load
from app.metrics import Metrics
from app.service import Service
from app.settings import Settings


def test_small_requests_may_wait_as_long_as_they_are_answered_soon(empty_queue: str) -> None:
    config = Settings().model_copy(update={"queue_tokens": 500, "queue_seconds": 10.0})
    with Redis.from_url(empty_queue) as redis:
        service = Service(config, redis, Metrics())
        assert service.most_waiting(keys.ANNOTATE) == 500
        redis.set(keys.pace(keys.ANNOTATE, load.period()), 4500)
        assert 1000 <= service.most_waiting(keys.ANNOTATE) <= 1500
        assert service.most_waiting(keys.BULK) == config.bulk_queue_tokens
