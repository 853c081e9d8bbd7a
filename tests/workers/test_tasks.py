"""What the queue may call: chunks to annotate and directions to fit, whatever becomes of them."""

import logging
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from redis import Redis
from redis.exceptions import ConnectionError as QueueAway

from app.jobs import custody, keys, roster
from app.jobs.roster import WorkerState
from app.jobs.store import JobStore
from app.schemas.chunk import Chunk, ChunkAnswer, DirectionRef
from app.schemas.fit import FitAnswer, FitRequest
from app.schemas.jobs import Job
from app.schemas.pairs import Pair
from cli import embedded
from tests.conftest import random_direction, ref, serving
from workers import tasks, training
from workers.annotate import PairAnnotator
from workers.directions.errors import UnfitData
from workers.directions.fit import Fitted
from workers.directions.reporting import bare_report
from workers.engine.annotator import Annotator
from workers.lanes import Lanes
from workers.tasks import Duty
from workers.training import Trainer

NAME = "this-worker"
FIT = FitRequest.model_validate(
    {"id": "new", "sources": [{"recipe": "pairs", "pairs": [{"prompt": "a", "chosen": "b", "rejected": "c"}]}]}
)
Progress = Callable[[int, int], None]


@pytest.fixture(scope="module")
def queue_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("queue")
    server = subprocess.Popen(embedded.command(folder), stdout=subprocess.DEVNULL)
    while not embedded.socket_path(folder).exists():
        assert server.poll() is None
        time.sleep(0.01)
    yield embedded.url(folder)
    server.terminate()
    server.wait()


@pytest.fixture
def jobs(queue_url: str) -> Iterator[JobStore]:
    with Redis.from_url(queue_url) as redis:
        redis.flushdb()
        yield JobStore(redis)


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
    trainer = Trainer(pairs.annotator, pairs.directions, lambda: None, threading.Event(), tmp_path / "cache")
    duty = Duty(NAME, jobs, pairs, trainer)
    tasks.serve(duty)
    fitting(monkeypatch)
    yield duty
    tasks._duties.clear()


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

    monkeypatch.setattr(training, "fit", fit)
    return steps


def submitted(jobs: JobStore) -> str:
    """A fit whose task a lane has taken from the queue."""
    job_id = jobs.submit("direction", [FIT], rows=1, keep_seconds=60)
    jobs.redis.delete(f"rq:queue:{keys.TRAIN}")
    return job_id


def state_of(jobs: JobStore, job_id: str) -> Job:
    job = jobs.job(job_id)
    assert job is not None
    return job


def in_hand(jobs: JobStore) -> object:
    return jobs.redis.smembers(keys.in_hand(NAME))


def chunk(direction: DirectionRef) -> Chunk:
    pair = Pair(id="p", prompt="hi", chosen="hello", rejected="go away")
    return Chunk(directions=[direction], truncate=False, items=[pair])


def test_a_fit_ends_with_the_name_of_what_it_made(duty: Duty, jobs: JobStore) -> None:
    job_id = submitted(jobs)
    tasks.fit_direction(job_id, 0)
    job = state_of(jobs, job_id)
    assert (job.status, job.request_counts.completed, job.request_counts.total) == ("completed", 10, 10)
    answer = FitAnswer.model_validate_json(jobs.answers(job_id)[0])
    assert duty.trainer.directions.registry.current()["new"] == answer.digest
    assert in_hand(jobs) == set()


def test_a_fit_interrupted_by_the_workers_end_is_queued_again_for_another_worker(
    duty: Duty, jobs: JobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def end_the_worker(step: int) -> None:
        if step == 3:
            duty.trainer.stop.set()

    steps = fitting(monkeypatch, end_the_worker)
    job_id = submitted(jobs)
    tasks.fit_direction(job_id, 0)
    assert steps == [1, 2, 3]
    assert state_of(jobs, job_id).status == "in_progress"
    assert jobs.waiting() == {keys.ANNOTATE: 0, keys.TRAIN: 1}
    assert in_hand(jobs) == set()
    fitting(monkeypatch)
    duty.trainer.stop.clear()  # as another worker would have it
    tasks.fit_direction(job_id, 0)
    assert state_of(jobs, job_id).status == "completed"


def test_data_that_gives_no_direction_fails_the_job_with_the_reason(
    duty: Duty, jobs: JobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_step: int) -> None:
        raise UnfitData("3 rows are too few")

    fitting(monkeypatch, refuse)
    job_id = submitted(jobs)
    tasks.fit_direction(job_id, 0)
    job = state_of(jobs, job_id)
    assert (job.status, job.error) == ("failed", "3 rows are too few")
    assert jobs.work(job_id, 0) is None
    assert in_hand(jobs) == set()


def test_an_unforeseen_error_fails_the_job_and_nothing_of_its_text_is_told(
    duty: Duty, jobs: JobStore, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(_step: int) -> None:
        raise KeyError("secret")

    fitting(monkeypatch, fail)
    job_id = submitted(jobs)
    tasks.fit_direction(job_id, 0)
    assert state_of(jobs, job_id).error == "the worker failed (KeyError); its log says where"
    assert "test_tasks.py" in caplog.text
    assert "secret" not in caplog.text


def test_a_fit_whose_job_is_over_stops_and_stores_nothing(
    duty: Duty, jobs: JobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    job_id = submitted(jobs)
    steps = fitting(monkeypatch, lambda step: step == 4 and jobs.fail(job_id, "expired"))
    tasks.fit_direction(job_id, 0)
    assert steps == [1, 2, 3, 4]
    assert "new" not in duty.trainer.directions.registry.current()
    tasks.fit_direction(job_id, 0)  # what was queued once more finds nothing to do
    assert (len(steps), state_of(jobs, job_id).error) == (4, "expired")


def test_a_queue_that_is_away_for_a_moment_costs_a_fit_none_of_its_steps(
    duty: Duty, jobs: JobStore, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    failing = {"progress": 3, "answer": 2}

    def unsteady(name: str) -> None:
        method = getattr(JobStore, name)

        def call(*arguments: object, **options: object) -> object:
            if failing[name]:
                failing[name] -= 1
                raise QueueAway("gone")
            return method(*arguments, **options)

        monkeypatch.setattr(JobStore, name, call)

    job_id = submitted(jobs)
    steps = fitting(monkeypatch)
    unsteady("progress")
    unsteady("answer")
    tasks.fit_direction(job_id, 0)
    assert steps == list(range(1, 11))
    assert state_of(jobs, job_id).status == "completed"
    assert caplog.messages == ["waiting: gone"] * 5


def test_a_dead_workers_fit_is_queued_for_those_who_fit(duty: Duty, jobs: JobStore) -> None:
    job_id = submitted(jobs)
    state = WorkerState(
        name="doomed", model="m", model_revision="r", device="cpu", dtype="d", metrics_port=0, directions=[], probes={}
    )
    roster.announce(jobs.redis, state)
    custody.take(jobs.redis, "doomed", job_id, 0)
    assert custody.inherit(jobs.redis, NAME) == 0
    assert jobs.waiting() == {keys.ANNOTATE: 0, keys.TRAIN: 0}
    jobs.redis.delete(keys.worker("doomed"))  # what the end of the heartbeat does
    assert custody.inherit(jobs.redis, NAME) == 1
    assert jobs.waiting() == {keys.ANNOTATE: 0, keys.TRAIN: 1}
    tasks.fit_direction(job_id, 0)
    assert state_of(jobs, job_id).status == "completed"


def test_a_chunk_is_annotated_once(duty: Duty, jobs: JobStore) -> None:
    held = ref(duty.pairs.directions.all()["held"])
    job_id = jobs.submit("annotate", [chunk(held)], rows=1, keep_seconds=60)
    for _ in range(2):
        tasks.annotate_chunk(job_id, 0)
    job = state_of(jobs, job_id)
    assert (job.status, job.request_counts.completed, job.request_counts.failed) == ("completed", 1, 0)
    (answer,) = jobs.answers(job_id)
    assert ChunkAnswer.model_validate_json(answer).provenance.direction == "held"


def test_a_direction_deleted_under_a_job_fails_it_and_says_so(duty: Duty, jobs: JobStore) -> None:
    gone = DirectionRef(id="gone", digest="sha256:" + "0" * 64)
    job_id = jobs.submit("annotate", [chunk(gone)], rows=1, keep_seconds=60)
    tasks.annotate_chunk(job_id, 0)
    assert state_of(jobs, job_id).error == "direction gone was deleted while the job used it"


def test_lanes_of_every_queue_work_beside_each_other(
    duty: Duty, jobs: JobStore, queue_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    annotated = threading.Event()
    fitting(monkeypatch, lambda _step: annotated.wait(10))  # over only once a chunk has been annotated meanwhile
    held = ref(duty.pairs.directions.all()["held"])
    lanes = Lanes(queue_url, NAME, {keys.ANNOTATE: 2, keys.TRAIN: 1})
    names = [thread.name.removeprefix(NAME) for thread in lanes._threads]
    assert names == [".annotate.0", ".annotate.1", ".train.0"]
    with jobs.redis.pubsub() as channel:  # type: ignore[no-untyped-call]
        channel.subscribe(keys.DONE_CHANNEL)
        fit_id = jobs.submit("direction", [FIT], rows=1, keep_seconds=60)
        lanes.start()
        chunk_id = jobs.submit("annotate", [chunk(held)], rows=1, keep_seconds=60)
        over: list[str] = []
        while len(over) < 2:
            message = channel.get_message(timeout=10)
            assert message is not None
            if message["type"] == "message":
                over.append(message["data"].decode())
                annotated.set()
    assert lanes.stop(10)
    assert over == [chunk_id, fit_id]
    assert state_of(jobs, fit_id).status == "completed"
