"""What becomes of the chunks of a worker that died."""

import pytest
from redis import Redis

from app.jobs import custody, keys, roster
from app.jobs.store import JobStore
from app.schemas.fit import FitRequest
from tests.app.test_health import state
from tests.app.test_jobs import chunks_of
from workers.annotate import PairAnnotator


@pytest.fixture
def store(empty_queue: str) -> JobStore:
    return JobStore(Redis.from_url(empty_queue))


def submit_and_take(store: JobStore, worker: PairAnnotator, name: str) -> str:
    """A job whose only chunk is in the hands of a live worker."""
    job_id = store.submit("annotate", chunks_of(worker, 1), rows=1, keep_seconds=60)
    roster.announce(store.redis, state(worker, name=name))
    store.redis.delete(f"rq:queue:{keys.ANNOTATE}")
    custody.take(store.redis, name, job_id, 0)
    return job_id


def test_chunks_of_a_live_worker_are_left_alone(store: JobStore, worker: PairAnnotator) -> None:
    submit_and_take(store, worker, "busy")
    assert custody.inherit(store.redis, "heir") == 0
    assert store.waiting()[keys.ANNOTATE] == 0


def test_chunks_of_a_dead_worker_are_queued_again_once(store: JobStore, worker: PairAnnotator) -> None:
    job_id = submit_and_take(store, worker, "doomed")
    store.redis.delete(keys.worker("doomed"))  # what the end of the heartbeat does
    assert custody.inherit(store.redis, "heir") == 1
    assert custody.inherit(store.redis, "heir") == 0
    assert store.waiting()[keys.ANNOTATE] == 1
    assert store.work(job_id, 0) is not None


def test_a_fit_of_a_dead_worker_goes_to_those_who_fit(store: JobStore, worker: PairAnnotator) -> None:
    request = FitRequest.model_validate({"id": "mine", "sources": [{"recipe": "pairs", "pairs": "balance"}]})
    job_id = store.submit("direction", [request], rows=0, keep_seconds=60)
    roster.announce(store.redis, state(worker, name="doomed"))
    store.redis.delete(f"rq:queue:{keys.TRAIN}", keys.worker("doomed"))
    custody.take(store.redis, "doomed", job_id, 0)
    assert custody.inherit(store.redis, "heir") == 1
    assert store.waiting() == {keys.ANNOTATE: 0, keys.TRAIN: 1}


def test_what_was_put_down_is_not_inherited(store: JobStore, worker: PairAnnotator) -> None:
    job_id = submit_and_take(store, worker, "done")
    custody.put_down(store.redis, "done", job_id, 0)
    store.redis.delete(keys.worker("done"))
    assert custody.inherit(store.redis, "heir") == 0


def test_a_chunk_that_three_workers_died_of_fails_its_job(store: JobStore, worker: PairAnnotator) -> None:
    job_id = submit_and_take(store, worker, "w0")
    for number in range(3):
        name = f"w{number}"
        roster.announce(store.redis, state(worker, name=name))
        custody.take(store.redis, name, job_id, 0)
        store.redis.delete(keys.worker(name))
        custody.inherit(store.redis, "heir")
    job = store.job(job_id)
    assert job is not None and job.status == "failed"
    assert job.error is not None and "deaths" in job.error
