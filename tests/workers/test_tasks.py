"""What the queue may call: chunks to annotate and directions to fit, whatever becomes of them."""

import logging
import os
import threading
from typing import Any

import pytest
import torch
from redis.exceptions import ConnectionError as QueueAway

from app.jobs import custody, keys, load, roster
from app.jobs.hand import Hand
from app.jobs.roster import WorkerState
from app.jobs.store import JobStore
from app.schemas.chunk import Chunk, ChunkAnswer
from app.schemas.fit import FitAnswer, FitRequest
from app.schemas.jobs import Job
from app.schemas.names import Ref
from app.schemas.pairs import Pair
from tests.app.jobs.conftest import PLENTY, submission
from tests.conftest import ref
from tests.workers.conftest import NAME, fitting
from workers import tasks
from workers.annotate import PairAnnotator
from workers.directions.errors import UnfitData
from workers.engine.errors import DeviceLost
from workers.lanes import Lanes
from workers.tasks import Duty

FIT = FitRequest.model_validate(
    {"id": "new", "sources": [{"recipe": "pairs", "pairs": [{"prompt": "a", "chosen": "b", "rejected": "c"}]}]}
)


def submitted(jobs: JobStore) -> str:
    """A fit whose task a lane has taken from the queue."""
    work = [FIT.model_dump_json().encode()]
    fields: dict[str, Any] = {"kind": "direction", "queue": keys.TRAIN, "work": work, "tokens": 100}
    job_id = jobs.submit(submission(**fields), limit=PLENTY)
    jobs.redis.delete(f"rq:queue:{keys.TRAIN}")
    return job_id


def annotating(jobs: JobStore, direction: Ref) -> str:
    """A job of one pair."""
    return jobs.submit(submission(work=[chunk(direction).model_dump_json().encode()]), limit=PLENTY)


def tasks_of(jobs: JobStore, queue: str) -> int:
    return int(jobs.redis.llen(f"rq:queue:{queue}"))


def state_of(jobs: JobStore, job_id: str) -> Job:
    job = jobs.job(job_id)
    assert job is not None
    return job


def in_hand(jobs: JobStore) -> object:
    return jobs.redis.hgetall(keys.in_hand(NAME))


def chunk(direction: Ref) -> Chunk:
    pair = Pair(id="p", prompt="hi", chosen="hello", rejected="go away")
    return Chunk(directions=[direction], truncate=False, items=[pair], lines=[1], tokens=10)


def test_a_task_works_on_chunk_after_chunk_until_none_is_left(duty: Duty, jobs: JobStore) -> None:
    held = ref(duty.pairs.holdings.directions.all()["held"])
    ids = [annotating(jobs, held) for _ in range(3)]
    tasks.annotate_next(keys.ANNOTATE)
    assert [state_of(jobs, job_id).status for job_id in ids] == ["completed"] * 3


def test_an_answer_takes_a_chunk_out_of_the_hand_and_needs_no_second_word(
    duty: Duty, jobs: JobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_down: list[Hand] = []
    monkeypatch.setattr(Hand, "put_down", put_down.append)
    annotating(jobs, ref(duty.pairs.holdings.directions.all()["held"]))
    tasks.annotate_next(keys.ANNOTATE)
    assert in_hand(jobs) == {}
    assert put_down == []


def test_a_chunk_that_fails_is_put_down(duty: Duty, jobs: JobStore) -> None:
    job_id = annotating(jobs, Ref(id="nowhere", digest="sha256:" + 64 * "0"))
    tasks.annotate_next(keys.ANNOTATE)
    assert state_of(jobs, job_id).status == "failed"
    assert in_hand(jobs) == {}


def test_a_task_that_has_worked_for_long_leaves_the_rest_to_another(
    duty: Duty, jobs: JobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tasks, "_TASK_SECONDS", 0)
    held = ref(duty.pairs.holdings.directions.all()["held"])
    ids = [annotating(jobs, held) for _ in range(2)]
    jobs.redis.delete(f"rq:queue:{keys.ANNOTATE}")
    tasks.annotate_next(keys.ANNOTATE)
    assert [state_of(jobs, job_id).status for job_id in ids] == ["completed", "in_progress"]
    assert tasks_of(jobs, keys.ANNOTATE) == 1


def test_a_fit_ends_with_the_name_of_what_it_made(duty: Duty, jobs: JobStore) -> None:
    job_id = submitted(jobs)
    tasks.fit_next(keys.TRAIN)
    job = state_of(jobs, job_id)
    assert (job.status, job.request_counts.completed, job.request_counts.total) == ("completed", 10, 10)
    ((_, answered),) = jobs.answers(job_id)
    answer = FitAnswer.model_validate_json(answered)
    assert duty.trainer.holdings.directions.registry.current()["new"] == answer.digest
    assert in_hand(jobs) == {}


def test_a_fit_interrupted_by_the_workers_end_is_queued_again_for_another_worker(
    duty: Duty, jobs: JobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def end_the_worker(step: int) -> None:
        if step == 3:
            duty.trainer.stop.set()

    steps = fitting(monkeypatch, end_the_worker)
    job_id = submitted(jobs)
    tasks.fit_next(keys.TRAIN)
    assert steps == [1, 2, 3]
    assert state_of(jobs, job_id).status == "in_progress"
    assert load.waiting(jobs.redis)[keys.TRAIN] == 100
    assert tasks_of(jobs, keys.TRAIN) > 0
    assert in_hand(jobs) == {}
    fitting(monkeypatch)
    duty.trainer.stop.clear()  # as another worker would have it
    tasks.fit_next(keys.TRAIN)
    assert state_of(jobs, job_id).status == "completed"


def test_data_that_gives_no_direction_fails_the_job_with_the_reason(
    duty: Duty, jobs: JobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_step: int) -> None:
        raise UnfitData("3 rows are too few")

    fitting(monkeypatch, refuse)
    job_id = submitted(jobs)
    tasks.fit_next(keys.TRAIN)
    job = state_of(jobs, job_id)
    assert (job.status, job.error) == ("failed", "3 rows are too few")
    assert not jobs.redis.exists(keys.chunks(job_id))
    assert in_hand(jobs) == {}


def test_an_unforeseen_error_fails_the_job_and_nothing_of_its_text_is_told(
    duty: Duty, jobs: JobStore, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(_step: int) -> None:
        raise KeyError("secret")

    fitting(monkeypatch, fail)
    job_id = submitted(jobs)
    tasks.fit_next(keys.TRAIN)
    assert state_of(jobs, job_id).error == "the worker failed (KeyError); its log says where"
    assert "test_tasks.py" in caplog.text
    assert "secret" not in caplog.text


def test_a_fit_that_memory_does_not_suffice_for_fails_and_says_so(
    duty: Duty, jobs: JobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def allocate(_step: int) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    fitting(monkeypatch, allocate)
    job_id = submitted(jobs)
    tasks.fit_next(keys.TRAIN)
    job = state_of(jobs, job_id)
    assert (job.status, job.error) == ("failed", "the memory of the annotator's device is too small for it")


class Ended(BaseException):
    """The process has ended."""


@pytest.fixture
def ends(monkeypatch: pytest.MonkeyPatch) -> None:
    def end(status: int) -> None:
        raise Ended(status)

    monkeypatch.setattr(os, "_exit", end)


@pytest.mark.usefixtures("ends")
def test_a_device_lost_in_a_fit_ends_the_process_and_the_fit_is_in_the_hand_of_a_dead_worker(
    duty: Duty, jobs: JobStore, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fault(_step: int) -> None:
        raise torch.AcceleratorError("CUDA error: device-side assert triggered\nCompile with …")

    fitting(monkeypatch, fault)
    job_id = submitted(jobs)
    with pytest.raises(Ended, match="1"):
        tasks.fit_next(keys.TRAIN)
    assert state_of(jobs, job_id).status == "in_progress"
    assert in_hand(jobs) != {}
    told = "the device failed, and this process ends: AcceleratorError: CUDA error: device-side assert triggered"
    assert caplog.messages == [told]


@pytest.mark.usefixtures("ends")
def test_a_device_lost_while_a_pair_is_asked_about_is_not_the_pairs_fault(
    duty: Duty, jobs: JobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fault(*_arguments: object) -> None:
        raise DeviceLost("RuntimeError: CUDA error: CUBLAS_STATUS_EXECUTION_FAILED")

    monkeypatch.setattr(PairAnnotator, "annotate", fault)
    job_id = annotating(jobs, ref(duty.pairs.holdings.directions.all()["held"]))
    with pytest.raises(Ended, match="1"):
        tasks.annotate_next(keys.ANNOTATE)
    assert state_of(jobs, job_id).status == "in_progress"
    assert jobs.answers(job_id) == []


def test_a_fit_whose_job_is_over_stops_and_stores_nothing(
    duty: Duty, jobs: JobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    job_id = submitted(jobs)
    steps = fitting(monkeypatch, lambda step: step == 4 and jobs.fail(job_id, "expired"))
    tasks.fit_next(keys.TRAIN)
    assert steps == [1, 2, 3, 4]
    assert "new" not in duty.trainer.holdings.directions.registry.current()
    tasks.fit_next(keys.TRAIN)  # what was queued once more finds nothing to do
    assert (len(steps), state_of(jobs, job_id).error) == (4, "expired")


def test_a_queue_that_is_away_for_a_moment_costs_a_fit_none_of_its_steps(
    duty: Duty, jobs: JobStore, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    failing = {"progress": 3, "answer": 2}

    def unsteady(owner: type, name: str) -> None:
        method = getattr(owner, name)

        def call(*arguments: object, **options: object) -> object:
            if failing[name]:
                failing[name] -= 1
                raise QueueAway("gone")
            return method(*arguments, **options)

        monkeypatch.setattr(owner, name, call)

    job_id = submitted(jobs)
    steps = fitting(monkeypatch)
    unsteady(JobStore, "progress")
    unsteady(Hand, "answer")
    tasks.fit_next(keys.TRAIN)
    assert steps == list(range(1, 11))
    assert state_of(jobs, job_id).status == "completed"
    assert caplog.messages == ["waiting: gone"] * 5


def test_a_dead_workers_fit_is_queued_for_those_who_fit(duty: Duty, jobs: JobStore) -> None:
    job_id = submitted(jobs)
    state = WorkerState(
        name="doomed", model="m", model_revision="r", device="cpu", dtype="d", metrics_port=0, directions=[], probes={}
    )
    roster.announce(jobs.redis, state)
    assert Hand(jobs, "doomed", "lane").claim(keys.TRAIN) is not None
    assert custody.inherit(jobs.redis) == 0
    jobs.redis.delete(keys.worker("doomed"))  # what the end of the heartbeat does
    assert custody.inherit(jobs.redis) == 1
    assert (tasks_of(jobs, keys.ANNOTATE), tasks_of(jobs, keys.TRAIN)) == (0, 1)
    tasks.fit_next(keys.TRAIN)
    assert state_of(jobs, job_id).status == "completed"


def test_a_chunk_is_annotated_once(duty: Duty, jobs: JobStore) -> None:
    held = ref(duty.pairs.holdings.directions.all()["held"])
    job_id = annotating(jobs, held)
    for _ in range(2):
        tasks.annotate_next(keys.ANNOTATE)
    job = state_of(jobs, job_id)
    assert (job.status, job.request_counts.completed, job.request_counts.failed) == ("completed", 1, 0)
    ((_, answered),) = jobs.answers(job_id)
    assert ChunkAnswer.model_validate_json(answered).provenance.direction == "held"


def test_a_direction_deleted_under_a_job_fails_it_and_says_so(duty: Duty, jobs: JobStore) -> None:
    gone = Ref(id="gone", digest="sha256:" + "0" * 64)
    job_id = annotating(jobs, gone)
    tasks.annotate_next(keys.ANNOTATE)
    assert state_of(jobs, job_id).error == "direction gone was deleted while the job used it"


def test_lanes_of_every_queue_work_beside_each_other(
    duty: Duty, jobs: JobStore, queue_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    annotated = threading.Event()
    fitting(monkeypatch, lambda _step: annotated.wait(10))  # over only once a chunk has been annotated meanwhile
    held = ref(duty.pairs.holdings.directions.all()["held"])
    lanes = Lanes(queue_url, NAME, {keys.ANNOTATE: 2, keys.TRAIN: 1})
    names = [thread.name.removeprefix(NAME) for thread in lanes._threads]
    assert names == [".annotate.0", ".annotate.1", ".train.0"]
    with jobs.redis.pubsub() as channel:  # type: ignore[no-untyped-call]
        channel.subscribe(keys.DONE_CHANNEL)
        fit_id = submitted(jobs)
        jobs.wake(keys.TRAIN, 1)
        lanes.start()
        chunk_id = annotating(jobs, held)
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


def test_a_fit_that_was_given_back_for_its_worker_does_not_fail_when_that_ends(
    duty: Duty, jobs: JobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def taken_for_dead(step: int) -> None:
        if step == 2:
            jobs.redis.sadd(keys.WORKERS, NAME)
            assert custody.inherit(jobs.redis) == 1
            duty.trainer.stop.set()

    fitting(monkeypatch, taken_for_dead)
    job_id = submitted(jobs)
    tasks.fit_next(keys.TRAIN)
    assert state_of(jobs, job_id).status == "in_progress"
    assert jobs.redis.llen(keys.returned(job_id)) == 1
