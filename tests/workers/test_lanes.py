"""Lanes take task after task from RQ's queues, whatever becomes of one, and leave no records of them."""

import logging
import queue
from collections.abc import Iterator
from typing import cast

import pytest
from redis import Redis
from rq import Queue, Worker
from rq.serializers import JSONSerializer

from workers.lanes import Lanes

_TASKS = "workers-test"
_done: "queue.Queue[tuple[str, list[bytes]]]" = queue.Queue()
_looked: list[Redis] = []


def note(what: str) -> None:
    """A task: says that it was done, and what RQ kept of any task meanwhile."""
    (redis,) = _looked
    if what == "fail":
        raise ValueError("a secret of the pair")
    _done.put((what, records(redis)))


def records(redis: Redis) -> list[bytes]:
    """Keys of what RQ keeps of tasks: jobs, executions, registries, what is between queue and worker."""
    kept = [b"rq:job:", b"rq:execution", b"rq:wip:", b"rq:finished:", b"rq:failed:", f"rq:queue:{_TASKS}".encode()]
    found = cast(list[bytes], redis.keys("rq:*"))
    return [key for key in found if key.startswith(tuple(kept))]


@pytest.fixture
def tasks(redis: Redis, queue_url: str) -> Iterator[Queue]:
    """A queue that one lane serves."""
    _looked[:] = [redis]
    lanes = Lanes(queue_url, "test", {_TASKS: 1})
    lanes.start()
    yield Queue(_TASKS, connection=redis, serializer=JSONSerializer)
    assert lanes.stop(10)


def put(tasks: Queue, *names: str) -> None:
    tasks.enqueue_many([Queue.prepare_data("tests.workers.test_lanes.note", (name,)) for name in names])


def test_a_task_leaves_nothing_in_rq_not_even_while_it_is_done(tasks: Queue) -> None:
    put(tasks, "a")
    assert _done.get(timeout=10) == ("a", [])


def test_a_task_that_fails_costs_the_next_nothing_and_its_words_are_not_logged(
    tasks: Queue, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.ERROR):
        put(tasks, "fail", "b")
        assert _done.get(timeout=10)[0] == "b"
    assert f"a task of {_TASKS} failed: ValueError" in caplog.text
    assert "secret" not in caplog.text


def test_a_task_that_rq_has_lost_costs_the_next_nothing(tasks: Queue) -> None:
    tasks.push_job_id("lost")
    put(tasks, "c")
    assert _done.get(timeout=10)[0] == "c"


def test_rqs_monitoring_hears_of_a_lane_now_and_then_and_not_with_every_task(tasks: Queue, redis: Redis) -> None:
    put(tasks, "d")
    assert _done.get(timeout=10)[0] == "d"
    (lane,) = Worker.all(queue=tasks)
    first = redis.hget(lane.key, "last_heartbeat")
    put(tasks, "e", "f")
    assert [_done.get(timeout=10)[0] for _ in range(2)] == ["e", "f"]
    assert first is not None
    assert redis.hget(lane.key, "last_heartbeat") == first
    assert redis.ttl(lane.key) > 60
