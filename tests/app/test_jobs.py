"""Jobs over HTTP and in Redis."""

import json
from typing import ClassVar

import pytest
from pydantic import BaseModel
from redis import Redis
from redis.exceptions import ConnectionError
from starlette.testclient import TestClient

from app.jobs import keys
from app.jobs.collect import annotations, chunk_answers
from app.jobs.cut import cut
from app.jobs.store import JobStore
from app.schemas.annotate import AnnotateRequest
from app.schemas.chunk import Chunk, ChunkAnswer, DirectionRef
from app.schemas.fit import FitRequest
from tests.app.conftest import Connect, Station
from workers import tasks
from workers.annotate import PairAnnotator

NAMED = DirectionRef(id="kind", digest="sha256:0")
PAIR = {"prompt": "Hello?", "chosen": "Hello.", "rejected": "Go away."}


def request(count: int, **options: object) -> AnnotateRequest:
    return AnnotateRequest.model_validate({"pairs": [PAIR] * count} | options)


def chunks_of(worker: PairAnnotator, count: int) -> list[Chunk]:
    """A chunk a pair, for the worker's default direction."""
    return cut(request(count), [ref(worker)], chunk_tokens=70)[0]


def ref(worker: PairAnnotator) -> DirectionRef:
    return DirectionRef(id="kind", digest=worker.directions.all()["kind"].card.digest)


def submit(store: JobStore, worker: PairAnnotator, count: int, keep_seconds: int = 60) -> str:
    return store.submit("annotate", chunks_of(worker, count), rows=count, keep_seconds=keep_seconds)


@pytest.fixture
def store(empty_queue: str) -> JobStore:
    return JobStore(Redis.from_url(empty_queue))


@pytest.fixture
def answers(worker: PairAnnotator) -> list[ChunkAnswer]:
    chunks = chunks_of(worker, 3)
    return [worker.annotate(chunk) for chunk in chunks]


def test_chunks_are_bounded_and_together_hold_every_pair_in_order() -> None:
    chunks, tokens = cut(request(10), [NAMED], chunk_tokens=100)
    assert [item.id for chunk in chunks for item in chunk.items] == [str(i) for i in range(10)]
    assert len(chunks) == 5
    assert tokens == 10 * 37
    assert all(chunk.directions == [NAMED] for chunk in chunks)


def test_a_pair_larger_than_a_chunk_is_a_chunk() -> None:
    chunks, _tokens = cut(request(2), [NAMED], chunk_tokens=1)
    assert [len(chunk.items) for chunk in chunks] == [1, 1]


def test_a_job_is_complete_when_its_last_chunk_is_answered(
    store: JobStore, worker: PairAnnotator, answers: list[ChunkAnswer]
) -> None:
    job_id = submit(store, worker, 3)
    assert store.waiting() == {keys.ANNOTATE: 3, keys.TRAIN: 0}
    for number, answer in reversed(list(enumerate(answers))):
        assert store.job(job_id).status == "in_progress"  # type: ignore[union-attr]
        assert store.answer(job_id, number, answer, done=1)
    job = store.job(job_id)
    assert job is not None and job.status == "completed" and job.completed_at is not None
    assert [entry.id for entry in annotations(chunk_answers(store, job_id)).annotations] == ["0", "1", "2"]


def test_a_chunk_is_answered_once_however_often_it_is_tried(
    store: JobStore, worker: PairAnnotator, answers: list[ChunkAnswer]
) -> None:
    job_id = submit(store, worker, 3)
    assert store.answer(job_id, 0, answers[0], done=1)
    assert not store.answer(job_id, 0, answers[1], done=1)
    assert store.work(job_id, 0) is None
    assert store.job(job_id).request_counts.completed == 1  # type: ignore[union-attr]
    assert chunk_answers(store, job_id)[0].entries[0].id == "0"


def test_a_failed_job_keeps_its_reason_and_takes_no_answers(
    store: JobStore, worker: PairAnnotator, answers: list[ChunkAnswer]
) -> None:
    job_id = submit(store, worker, 3)
    assert store.fail(job_id, "no such direction")
    assert not store.fail(job_id, "again")
    assert not store.answer(job_id, 0, answers[0], done=1)
    job = store.job(job_id)
    assert job is not None and (job.status, job.error) == ("failed", "no such direction")


def test_everything_of_a_job_expires(store: JobStore, worker: PairAnnotator, answers: list[ChunkAnswer]) -> None:
    job_id = submit(store, worker, 2)
    store.answer(job_id, 0, answers[0], done=1)
    for name in (keys.job(job_id), keys.chunks(job_id), keys.answers(job_id)):
        assert store.redis.ttl(name) > 0


def test_results_are_one_row_a_pair_each_with_its_provenance(client: TestClient) -> None:
    body = {"pairs": [PAIR] * 3}
    location = client.post("/annotate", json=body, headers={"Prefer": "respond-async"}).headers["Location"]
    client.get(location, params={"wait": 20})
    answer = client.get(f"{location}/results")
    assert answer.headers["content-type"] == "application/x-ndjson"
    rows = [json.loads(line) for line in answer.text.splitlines()]
    assert [row["annotation"]["id"] for row in rows] == ["0", "1", "2"]
    assert all(row["provenance"]["direction"] == "kind" for row in rows)


def test_results_of_a_job_in_progress_are_409(
    connect: Connect, store: JobStore, worker: PairAnnotator, empty_queue: str
) -> None:
    job_id = submit(store, worker, 1)
    client = connect(redis_url=empty_queue)
    waited = client.get(f"/jobs/{job_id}", params={"wait": 0.1})
    assert waited.json()["status"] == "in_progress"
    assert waited.headers["Retry-After"]
    assert client.get(f"/jobs/{job_id}/results").status_code == 409


@pytest.mark.parametrize("path", ["/jobs/nothing", "/jobs/nothing/results"])
def test_an_unknown_job_is_404(client: TestClient, path: str) -> None:
    assert client.get(path).status_code == 404


@pytest.mark.parametrize("suffix", ["", "/results"])
def test_an_expired_job_is_410(
    connect: Connect, store: JobStore, worker: PairAnnotator, empty_queue: str, suffix: str
) -> None:
    job_id = submit(store, worker, 1, keep_seconds=1)
    store.redis.hset(keys.job(job_id), "expires_at", "1")
    assert connect(redis_url=empty_queue).get(f"/jobs/{job_id}{suffix}").status_code == 410


def test_fits_wait_in_a_queue_of_their_own_and_say_how_far_they_are(store: JobStore) -> None:
    fit = FitRequest.model_validate({"id": "mine", "sources": [{"recipe": "pairs", "pairs": "balance"}]})
    job_id = store.submit("direction", [fit], rows=0, keep_seconds=60)
    assert store.waiting() == {keys.ANNOTATE: 0, keys.TRAIN: 1}
    assert store.progress(job_id, 3, 7)
    job = store.job(job_id)
    assert job is not None and (job.request_counts.completed, job.request_counts.total) == (3, 7)
    store.fail(job_id, "nobody wants it")
    assert not store.progress(job_id, 4, 7)


def test_a_job_whose_worker_fails_unexpectedly_says_so_without_any_text(
    station: Station, store: JobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(chunk: Chunk) -> ChunkAnswer:
        raise RuntimeError(f"cannot read {chunk.items[0].prompt}")

    pairs = type("Broken", (), {"annotate": staticmethod(broken)})()
    monkeypatch.setattr(tasks, "_duties", [tasks.Duty("alone", store, pairs, tasks._duties[0].trainer)])
    job_id = submit(store, station.pairs, 1)
    tasks.annotate_chunk(job_id, 0)
    job = store.job(job_id)
    assert job is not None and job.error is not None
    assert "RuntimeError" in job.error and "Hello?" not in job.error


def test_a_task_whose_chunk_is_answered_does_nothing(worker: PairAnnotator) -> None:
    tasks.annotate_chunk("no-such-job", 0)


class Flaky(JobStore):
    """A store whose connection is lost at the first answer."""

    losses: ClassVar[list[str]] = []

    def answer(self, job_id: str, number: int, answer: BaseModel, *, done: int, failed: int = 0) -> bool:
        if not self.losses:
            self.losses.append(job_id)
            raise ConnectionError("gone")
        return super().answer(job_id, number, answer, done=done, failed=failed)


def test_an_answer_that_meets_a_lost_connection_is_given_once_it_is_back(
    store: JobStore, worker: PairAnnotator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tasks, "_duties", [tasks.Duty("alone", Flaky(store.redis), worker, tasks._duties[0].trainer)])
    monkeypatch.setattr(tasks, "_RETRY_SECONDS", 0)
    job_id = submit(store, worker, 1)
    tasks.annotate_chunk(job_id, 0)
    assert Flaky.losses == [job_id]
    assert store.job(job_id).status == "completed"  # type: ignore[union-attr]
    assert not store.redis.exists(keys.in_hand("alone"))
