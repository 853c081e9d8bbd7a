"""A queue for tests of workers, and a process that serves its tasks."""

import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from redis import Redis

from app.artifacts import Artifacts
from app.jobs.store import JobStore
from app.schemas.fit import FitRequest
from tests.app.conftest import queue_in
from tests.conftest import NO_BASE, random_direction, serving
from workers import tasks, training
from workers.annotate import PairAnnotator
from workers.directions.fit import Fitted
from workers.directions.reporting import bare_report
from workers.engine.annotator import Annotator
from workers.orders import directions
from workers.tasks import Duty
from workers.training import Trainer

NAME = "this-worker"
Progress = Callable[[int, int], None]


@pytest.fixture(scope="session")
def queue_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A queue that no other worker serves."""
    yield from queue_in(tmp_path_factory.mktemp("queue"))


@pytest.fixture
def redis(queue_url: str) -> Iterator[Redis]:
    """That queue, empty."""
    with Redis.from_url(queue_url) as redis:
        redis.flushdb()
        yield redis


@pytest.fixture
def jobs(redis: Redis) -> JobStore:
    return JobStore(redis)


@pytest.fixture
def pairs(annotator: Annotator, tmp_path: Path) -> Iterator[PairAnnotator]:
    with serving(annotator, tmp_path / "store", random_direction(annotator, "held", slope=1.0)) as pairs:
        yield pairs


@pytest.fixture
def duty(jobs: JobStore, pairs: PairAnnotator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Duty]:
    """This process serves tasks; a fit takes ten steps and makes a random direction."""
    monkeypatch.setattr(training, "_yield_to_annotation", lambda: None)
    monkeypatch.setattr(training, "_PROGRESS_SECONDS", 0)
    monkeypatch.setattr(tasks, "_RETRY_SECONDS", 0)
    trainer = Trainer(pairs.annotator, pairs.holdings, lambda: None, threading.Event(), tmp_path / "cache", NO_BASE)
    duty = Duty(NAME, jobs, Artifacts(str(tmp_path / "artifacts")), pairs, trainer)
    before = list(tasks._duties)
    tasks.serve(duty)
    fitting(monkeypatch)
    yield duty
    tasks._duties[:] = before


def fitting(monkeypatch: pytest.MonkeyPatch, at_step: Callable[[int], object] = lambda _step: None) -> list[int]:
    """Let a fit take ten steps, before each of which something happens; returns the steps as they are taken."""
    steps: list[int] = []

    def fit(annotator: Annotator, request: FitRequest, *, progress: Progress, **_given: object) -> Fitted:
        for step in range(1, 11):
            at_step(step)
            steps.append(step)
            progress(step, 10)
        direction = random_direction(annotator, request.id, 3)
        return Fitted(direction, bare_report(direction))

    monkeypatch.setattr(directions, "fit", fit)
    return steps
