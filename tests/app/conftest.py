"""The real API on a real queue, with a worker that holds a tiny annotator in this process."""

import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from redis import Redis
from starlette.testclient import TestClient
from torch import Tensor

from app.artifacts import Artifacts, StoreUnreachable
from app.jobs import keys, roster
from app.jobs.store import JobStore
from app.jobs.submission import Submission
from app.main import create_app
from app.registry import Registry
from app.rulebanks import RuleBanks
from app.rulepools import RulePools
from app.schemas.directions import Accuracy
from app.schemas.rulebanks import PolicyReading
from app.service import Service
from app.settings import Settings
from cli import embedded
from tests.conftest import DEPTH, NO_BASE, RULES, random_bank
from workers import tasks
from workers.annotate import PairAnnotator
from workers.batcher import Batcher
from workers.directions import publishing, reporting
from workers.directions.direction import SafetyDirection, known, new_direction
from workers.engine.annotator import Annotator
from workers.engine.forward import read
from workers.engine.memory import Budget
from workers.engine.packing import Group
from workers.engine.sites import Site
from workers.engine.variant import Variant
from workers.lanes import Lanes
from workers.main import Presence
from workers.metrics import WorkerMetrics
from workers.probe import probe
from workers.registry import Holdings
from workers.rules.bank import RuleBank, to_files
from workers.training import Trainer

Connect = Callable[..., TestClient]

SLOPE = 2.0
LEVEL_EDGES = (-0.5, 0.0, 0.5)
READING = PolicyReading(
    policy="robust",
    k=2,
    slope=3.0,
    level_edges=list(LEVEL_EDGES),
    accuracy=Accuracy(value=0.7, low=0.6, high=0.8, pairs=40, prompts=40),
    calibration_error=0.02,
    data="mine",
)


def direction(
    annotator: Annotator, name: str, seed: int, sites: Sequence[Site] = (), /, **measured: object
) -> SafetyDirection:
    """A random direction that reads two poolings of one layer, unless `sites` say otherwise."""
    places = tuple(sites) or (Site(DEPTH // 2, "mean"), Site(DEPTH // 2, "end_of_turn"))
    vectors = torch.randn(len(places), annotator.width, generator=torch.Generator().manual_seed(seed))
    model = (annotator.name, annotator.revision, annotator.template.digest)
    return known(new_direction(name, places, vectors, model=model, recipe="test", settings={}), **measured)


def publish(registry: Registry, made: SafetyDirection) -> SafetyDirection:
    """Put a direction into the store as a worker would, or another machine."""
    parts = publishing.parts_of(made, reporting.bare_report(made))
    registry.publish(made.id, made.card.digest, parts)
    return made


def publish_bank(artifacts: Artifacts, bank: RuleBank) -> RuleBank:
    """Put a bank of rule probes into the store."""
    RuleBanks(artifacts).publish(bank.id, bank.digest, to_files(bank))
    return bank


@dataclass(frozen=True)
class Station:
    """The worker of these tests.

    Attributes:
        pairs: what it annotates with.
        presence: its heartbeat.
        registry: the store that it shares with the API.
        artifacts: the folder behind that.
        passes: tokens of every forward pass that answered a request.
    """

    pairs: PairAnnotator
    presence: Presence
    registry: Registry
    artifacts: Path
    passes: list[int]

    def look_at_store(self) -> None:
        """What the worker does with every heartbeat."""
        self.pairs.holdings.refresh()
        self.presence.announce()


@pytest.fixture(scope="session")
def redis_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """An embedded queue of its own."""
    yield from queue_in(tmp_path_factory.mktemp("queue"))


@pytest.fixture(scope="session")
def station(redis_url: str, annotator: Annotator, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Station]:
    """A worker as `workers.main` builds it, but for its process; `kind` is its default, `raw` is not calibrated."""
    artifacts, passes = tmp_path_factory.mktemp("artifacts"), list[int]()
    registry = Registry(Artifacts(str(artifacts)))
    publish(registry, direction(annotator, "kind", 1, slope=SLOPE, level_edges=list(LEVEL_EDGES), unreliable=False))
    publish(registry, direction(annotator, "raw", 2))
    registry.set_default(annotator.revision, "kind")
    RulePools(registry.artifacts).add("tiny-rules", RULES)
    publish_bank(registry.artifacts, random_bank(annotator, readings=[READING]))

    def counted(groups: Sequence[Group], sites: Sequence[Site], variant: Variant | None = None) -> Tensor:
        passes.append(sum(group.size for group in groups))
        return read(variant.annotator if variant else annotator, groups, sites)

    probe(annotator)
    holdings = Holdings.of(registry.artifacts, annotator)
    holdings.refresh()
    metrics, stop, redis = WorkerMetrics(), threading.Event(), Redis.from_url(redis_url)
    batcher = Batcher(counted, Budget(128), metrics)
    presence = Presence(redis, "test", annotator, holdings, metrics_port=0)
    trainer = Trainer(annotator, holdings, presence.announce, stop, tmp_path_factory.mktemp("cache"), NO_BASE)
    pairs = PairAnnotator(annotator, holdings, batcher, metrics)
    tasks.serve(tasks.Duty("test", JobStore(redis), registry.artifacts, pairs, trainer))
    made = Station(pairs, presence, registry, artifacts, passes)
    lanes = Lanes(redis_url, "test", {keys.ANNOTATE: 2, keys.BULK: 2, keys.TRAIN: 1})
    beat = threading.Thread(target=_beat, args=(made, stop), daemon=True)
    threads = [threading.Thread(target=batcher.run, daemon=True), beat]
    made.look_at_store()
    for thread in threads:
        thread.start()
    lanes.start()
    yield made
    stop.set()
    assert lanes.stop(10)
    batcher.close()
    for thread in threads:
        thread.join()
    redis.close()


def _beat(station: Station, stop: threading.Event) -> None:
    while not stop.wait(roster.HEARTBEAT_SECONDS):
        with suppress(StoreUnreachable):  # of a test whose store is away, for the worker as well
            station.look_at_store()


@pytest.fixture(scope="session")
def worker(station: Station) -> PairAnnotator:
    """What the worker annotates with."""
    return station.pairs


@pytest.fixture
def store_restored(station: Station, annotator: Annotator) -> Iterator[None]:
    """Afterwards the store holds the directions that it held before, and nothing else."""
    held = {made.id: made for made in station.pairs.holdings.directions.all().values()}
    yield
    for name, digest in station.registry.current().items():
        if name not in held or held[name].card.digest != digest:
            station.registry.delete(name)
    for name in held.keys() - station.registry.current().keys():
        publish(station.registry, held[name])
    station.registry.set_default(annotator.revision, "kind")
    station.look_at_store()


@pytest.fixture
def connect(station: Station, redis_url: str) -> Iterator[Connect]:
    """Start an API beside the worker, with settings of the test's own."""
    clients: list[TestClient] = []
    shared = {"redis_url": redis_url, "artifacts": str(station.artifacts)}

    def start(**settings: Any) -> TestClient:
        config = Settings().model_copy(update=shared | settings)
        client = TestClient(create_app(config), raise_server_exceptions=False)
        clients.append(client)
        return client.__enter__()

    yield start
    for client in clients:
        client.__exit__(None, None, None)


@pytest.fixture
def client(connect: Connect) -> TestClient:
    """An API with a worker behind it."""
    return connect()


@pytest.fixture
def empty_queue(tmp_path: Path) -> Iterator[str]:
    """A queue that no worker serves."""
    yield from queue_in(tmp_path)


def _listens(path: Path) -> bool:
    """Whether a server accepts connections; its socket is there a moment earlier."""
    with socket.socket(socket.AF_UNIX) as probe:
        return probe.connect_ex(str(path)) == 0


def queue_in(folder: Path) -> Iterator[str]:
    """A queue of its own that begins empty; its server ends with the iterator."""
    server = subprocess.Popen(embedded.command(folder), stdout=subprocess.DEVNULL)
    while not _listens(embedded.socket_path(folder)):
        assert server.poll() is None
        time.sleep(0.01)
    yield embedded.url(folder)
    server.terminate()
    server.wait()


@pytest.fixture
def submitted(monkeypatch: pytest.MonkeyPatch) -> list[Submission]:
    """What goes into the queue from now on."""
    found: list[Submission] = []
    inner = Service.submit

    def submit(service: Service, work: Submission, job_id: str) -> None:
        found.append(work)
        inner(service, work, job_id)

    monkeypatch.setattr(Service, "submit", submit)
    return found
