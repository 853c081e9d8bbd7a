"""Jobs on a real queue that no worker serves: a test claims and answers chunks itself."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from redis import Redis

from app.artifacts import Artifacts
from app.jobs import keys, roster
from app.jobs.hand import Claim, Hand
from app.jobs.roster import WorkerState
from app.jobs.store import JobStore
from app.jobs.submission import Submission
from tests.app.conftest import queue_in

PLENTY = 1_000_000
Hire = Callable[..., Hand]


def submission(chunks: int = 1, **fields: Any) -> Submission:
    """A job that annotates, of chunks that hold one row of ten tokens each."""
    plain = Submission(
        kind="annotate",
        queue=keys.ANNOTATE,
        work=[b"work %d" % number for number in range(chunks)],
        chunks=chunks,
        total=chunks,
        tokens=10 * chunks,
        keep_seconds=60,
    )
    return replace(plain, **fields)


def claimed(hand: Hand, queue: str = keys.ANNOTATE) -> Claim:
    """What a lane gets that claims; fails if that is nothing."""
    claim = hand.claim(queue)
    assert claim is not None
    return claim


def answer(hand: Hand, claim: Claim, text: bytes = b"done") -> bool:
    """Answer one row of ten tokens."""
    return hand.answer(claim, text, done=1, tokens=10)


def die(hand: Hand) -> None:
    """What the end of a heartbeat does."""
    hand.jobs.redis.delete(keys.worker(hand.worker))


@pytest.fixture(scope="session")
def idle_queue(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A queue that no worker serves, for all tests of this folder."""
    yield from queue_in(tmp_path_factory.mktemp("idle"))


@pytest.fixture
def redis(idle_queue: str) -> Iterator[Redis]:
    """That queue, empty."""
    with Redis.from_url(idle_queue) as redis:
        redis.flushdb()
        yield redis


@pytest.fixture
def store(redis: Redis) -> JobStore:
    return JobStore(redis)


@pytest.fixture
def artifacts(tmp_path: Path) -> Artifacts:
    return Artifacts(str(tmp_path / "artifacts"))


@pytest.fixture
def hire(store: JobStore) -> Hire:
    """A lane of a worker that has a heartbeat."""

    def make(worker: str = "w", lane: str = "lane") -> Hand:
        roster.announce(
            store.redis,
            WorkerState(
                name=worker,
                model="m",
                model_revision="r",
                device="cpu",
                dtype="d",
                metrics_port=0,
                directions=[],
                probes={},
            ),
        )
        return Hand(store, worker, lane)

    return make


@pytest.fixture
def hand(hire: Hire) -> Hand:
    return hire()
