"""The real API on a real queue, with a worker that holds a tiny annotator in this process."""

import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from redis import Redis
from starlette.testclient import TestClient

from app.jobs import roster
from app.jobs.roster import WorkerState
from app.jobs.store import JobStore
from app.main import create_app
from app.settings import Settings
from cli import embedded
from tests.conftest import DEPTH
from workers import tasks
from workers.annotate import PairAnnotator
from workers.batcher import Batcher
from workers.directions.direction import SafetyDirection, new_direction
from workers.engine.annotator import Annotator
from workers.engine.forward import read
from workers.engine.sites import Site
from workers.lanes import Lanes
from workers.metrics import WorkerMetrics
from workers.probe import probe

Connect = Callable[..., TestClient]


@pytest.fixture(scope="session")
def redis_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """An embedded queue of its own."""
    folder = tmp_path_factory.mktemp("queue")
    server = subprocess.Popen(embedded.command(folder), stdout=subprocess.DEVNULL)
    while not embedded.socket_path(folder).exists():
        assert server.poll() is None
        time.sleep(0.01)
    yield embedded.url(folder)
    server.terminate()
    server.wait()


def direction(annotator: Annotator, name: str, seed: int, slope: float | None = 2.0) -> SafetyDirection:
    """A random direction that reads two poolings of one layer."""
    sites = (Site(DEPTH // 2, "mean"), Site(DEPTH // 2, "end_of_turn"))
    vectors = torch.randn(2, annotator.width, generator=torch.Generator().manual_seed(seed))
    model = (annotator.name, annotator.revision, annotator.template.digest)
    return new_direction(name, sites, vectors, model=model, recipe="test", settings={}, slope=slope)


@pytest.fixture(scope="session")
def worker(redis_url: str, annotator: Annotator) -> Iterator[PairAnnotator]:
    """A worker as `workers.main` builds it, but for its process."""
    directions = {d.id: d for d in (direction(annotator, "default", 1), direction(annotator, "raw", 2, slope=None))}
    batcher = Batcher(lambda groups, sites: read(annotator, groups, sites), 128, WorkerMetrics())
    pairs = PairAnnotator(annotator, directions, batcher, WorkerMetrics())
    redis = Redis.from_url(redis_url)
    tasks.serve(tasks.Duty("test", JobStore(redis), pairs))
    state = WorkerState(
        name="test",
        model=annotator.name,
        model_revision=annotator.revision,
        device="cpu",
        dtype=annotator.dtype_name,
        metrics_port=0,
        directions=[held.card for held in directions.values()],
        probes=probe(annotator, directions),
    )
    stop = threading.Event()
    lanes = Lanes(redis_url, "test", 2)
    beat = threading.Thread(target=_beat, args=(redis, state, stop), daemon=True)
    threads = [threading.Thread(target=batcher.run, daemon=True), beat]
    for thread in threads:
        thread.start()
    lanes.start()
    yield pairs
    stop.set()
    assert lanes.stop(10)
    batcher.close()
    for thread in threads:
        thread.join()
    redis.close()


def _beat(redis: Redis, state: WorkerState, stop: threading.Event) -> None:
    while not stop.is_set():
        roster.announce(redis, state)
        stop.wait(roster.HEARTBEAT_SECONDS)


@pytest.fixture
def connect(redis_url: str) -> Iterator[Connect]:
    """Start an API with settings of the test's own; `redis_url` may be replaced too."""
    clients: list[TestClient] = []

    def start(**settings: Any) -> TestClient:
        config = Settings().model_copy(update={"redis_url": redis_url} | settings)
        client = TestClient(create_app(config), raise_server_exceptions=False)
        clients.append(client)
        return client.__enter__()

    yield start
    for client in clients:
        client.__exit__(None, None, None)


@pytest.fixture
def client(connect: Connect, worker: PairAnnotator) -> TestClient:
    """An API with a worker behind it."""
    return connect()


@pytest.fixture
def empty_queue(tmp_path: Path) -> Iterator[str]:
    """A queue that no worker serves."""
    server = subprocess.Popen(embedded.command(tmp_path), stdout=subprocess.DEVNULL)
    while not embedded.socket_path(tmp_path).exists():
        time.sleep(0.01)
    yield embedded.url(tmp_path)
    server.terminate()
    server.wait()
