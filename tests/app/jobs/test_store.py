"""What becomes of jobs in Redis, from submission to expiry."""

import pytest
from redis import Redis

from app.jobs import keys, load
from app.jobs.hand import Hand
from app.jobs.paging import PageMissing
from app.jobs.store import JobStore
from app.jobs.submission import QueueFull
from tests.app.jobs.conftest import PLENTY, answer, claimed, submission


def tasks(redis: Redis, queue: str = keys.ANNOTATE) -> int:
    return int(redis.llen(f"rq:queue:{queue}"))


def test_a_submission_that_is_repeated_changes_nothing(store: JobStore, hand: Hand) -> None:
    for _ in range(2):  # a client repeats a call whose reply was lost
        assert store.submit(submission(2), limit=PLENTY, job_id="mine") == "mine"
    assert load.waiting(store.redis)[keys.ANNOTATE] == 20
    for _ in range(2):
        answer(hand, claimed(hand))
    assert hand.claim(keys.ANNOTATE) is None
    store.submit(submission(2), limit=PLENTY, job_id="mine")
    job = store.job("mine")
    assert job is not None and job.status == "completed"
    assert hand.claim(keys.ANNOTATE) is None


def test_a_task_a_chunk_is_queued_and_no_more_than_is_reasonable(store: JobStore) -> None:
    store.submit(submission(2), limit=PLENTY)
    assert tasks(store.redis) == 2
    store.submit(submission(1000), limit=PLENTY)
    assert tasks(store.redis) == 32


def test_an_empty_queue_takes_a_job_of_any_size_and_a_full_one_none(store: JobStore, hand: Hand) -> None:
    store.submit(submission(tokens=500), limit=100)
    with pytest.raises(QueueFull):
        store.submit(submission(tokens=1), limit=100)
    assert len(store.listed("", None, 10)) == 1
    hand.answer(claimed(hand), b"", done=1, tokens=500)
    store.submit(submission(tokens=60), limit=100)
    store.submit(submission(tokens=40), limit=100)
    with pytest.raises(QueueFull):
        store.submit(submission(tokens=1), limit=100)


def test_queues_are_full_each_for_itself(store: JobStore) -> None:
    store.submit(submission(tokens=100), limit=100)
    store.submit(submission(tokens=100, queue=keys.BULK), limit=100)
    assert load.waiting(store.redis) == {keys.ANNOTATE: 100, keys.BULK: 100, keys.TRAIN: 0}


def test_a_full_queue_says_when_to_come_back_by_its_pace(store: JobStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(load, "pace", lambda _redis, _queue: 10.0)
    store.submit(submission(tokens=100), limit=100)
    for tokens, seconds in ((50, 5.0), (1, 1.0), (90, 9.0), (10_000, 10.0)):
        with pytest.raises(QueueFull) as caught:
            store.submit(submission(tokens=tokens), limit=100)
        assert caught.value.seconds == seconds  # a job that never fits waits until the queue is empty


def test_a_full_queue_that_stands_still_names_a_time_too(store: JobStore) -> None:
    store.submit(submission(tokens=100), limit=100)
    with pytest.raises(QueueFull) as caught:
        store.submit(submission(), limit=100)
    assert caught.value.seconds == 10


@pytest.mark.parametrize("end", ["cancel", "fail"])
def test_the_end_of_a_job_makes_room_for_others(store: JobStore, hand: Hand, end: str) -> None:
    job_id = store.submit(submission(3), limit=PLENTY)
    answer(hand, claimed(hand))
    assert store.cancel(job_id) if end == "cancel" else store.fail(job_id, "why")
    assert load.waiting(store.redis)[keys.ANNOTATE] == 0


def test_a_job_ends_once(store: JobStore) -> None:
    job_id = store.submit(submission(), limit=PLENTY)
    assert store.fail(job_id, "no such direction")
    assert not store.fail(job_id, "again")
    assert not store.cancel(job_id)
    job = store.job(job_id)
    assert job is not None and (job.status, job.error) == ("failed", "no such direction")


def test_everything_of_a_job_that_is_over_expires(store: JobStore, hand: Hand) -> None:
    job_id = store.submit(submission(3), limit=PLENTY)
    answer(hand, claimed(hand))
    claimed(hand)
    hand.give_back()
    store.cancel(job_id)
    left = [name.decode() for name in store.redis.scan_iter(keys.job(job_id) + "*")]
    assert sorted(left) == sorted([keys.job(job_id), keys.chunks(job_id), keys.answers(job_id), keys.done(job_id)])
    assert all(store.redis.ttl(name) > 0 for name in left)
    assert store.redis.ttl(keys.job(job_id)) > store.redis.ttl(keys.answers(job_id))


def test_a_job_that_is_dropped_leaves_nothing_behind(store: JobStore, hand: Hand) -> None:
    job_id = store.submit(submission(owner="me"), limit=PLENTY)
    answer(hand, claimed(hand))
    store.drop(job_id)
    assert not list(store.redis.scan_iter(keys.job(job_id) + "*"))
    assert store.listed("me", None, 10) == []


def test_a_job_that_is_forgotten_has_expired_and_holds_no_text(store: JobStore, hand: Hand) -> None:
    job_id = store.submit(submission(owner="me"), limit=PLENTY)
    answer(hand, claimed(hand))
    store.forget(job_id)
    job = store.job(job_id)
    assert job is not None and job.expires_at is not None and job.completed_at is not None
    assert job.expires_at - job.completed_at < 60
    assert [name.decode() for name in store.redis.scan_iter(keys.job(job_id) + "*")] == [keys.job(job_id)]
    assert store.listed("me", None, 10) == []


def test_jobs_are_listed_newest_first_page_by_page_to_their_owner(store: JobStore) -> None:
    ids = [store.submit(submission(owner="me"), limit=PLENTY) for _ in range(5)]
    store.submit(submission(owner="you"), limit=PLENTY)
    newest = [job.id for job in store.listed("me", None, 2)]
    assert newest == [ids[4], ids[3]]
    assert [job.id for job in store.listed("me", newest[-1], 2)] == [ids[2], ids[1]]
    assert [job.id for job in store.listed("me", ids[1], 2)] == [ids[0]]
    with pytest.raises(PageMissing):
        store.listed("me", "unknown", 2)


def test_jobs_that_have_expired_leave_no_gap_in_the_list(store: JobStore) -> None:
    ids = [store.submit(submission(), limit=PLENTY) for _ in range(5)]
    store.redis.delete(keys.job(ids[2]))
    store.redis.hset(keys.job(ids[3]), "expires_at", "1")
    assert [job.id for job in store.listed("", None, 3)] == [ids[4], ids[1], ids[0]]


def test_the_list_of_jobs_grows_no_longer_than_they_live(store: JobStore) -> None:
    for _ in range(6):
        store.redis.delete(keys.job(store.submit(submission(), limit=PLENTY)))
    assert store.redis.zcard(keys.jobs_of("")) == 1


def test_chunks_are_finished_up_to_the_first_gap(store: JobStore, hand: Hand) -> None:
    job_id = store.submit(submission(10), limit=PLENTY)
    claim = claimed(hand)
    assert store.finished_chunks(job_id) == 0
    for number, finished in ((1, 0), (0, 2), (3, 2), (2, 4)):
        hand.answer(type(claim)(**{**vars(claim), "number": number}), b"x", done=1)
        assert store.finished_chunks(job_id) == finished
        assert not store.wanted(job_id, number)
    assert store.wanted(job_id, 9)


def test_no_answer_is_wanted_for_a_job_that_is_over(store: JobStore) -> None:
    job_id = store.submit(submission(), limit=PLENTY)
    assert store.wanted(job_id, 0)
    store.cancel(job_id)
    assert not store.wanted(job_id, 0)
    assert not store.wanted("nothing", 0)


def test_progress_is_told_until_the_job_is_over(store: JobStore) -> None:
    job_id = store.submit(submission(kind="direction", queue=keys.TRAIN, total=0), limit=PLENTY)
    assert store.progress(job_id, "read", 3, 7)
    job = store.job(job_id)
    assert job is not None and (job.request_counts.completed, job.request_counts.total) == (3, 7)
    assert (job.stage, job.loss) == ("read", None)
    assert job.throughput is not None
    store.cancel(job_id)
    assert not store.progress(job_id, "read", 4, 7)


def test_a_stage_has_a_loss_of_its_own_or_none_and_steps_that_are_no_rows(store: JobStore) -> None:
    job_id = store.submit(submission(kind="training", queue=keys.TRAIN), limit=PLENTY)
    before = store.job(job_id)
    assert before is not None and (before.stage, before.loss) == (None, None)
    store.progress(job_id, "instruct", 3, 7, 1.25)
    job = store.job(job_id)
    assert job is not None and (job.stage, job.loss, job.throughput) == ("instruct", 1.25, None)
    store.progress(job_id, "collect", 1, 40)
    job = store.job(job_id)
    assert job is not None and (job.stage, job.loss) == ("collect", None)


def test_a_job_that_answers_of_a_file_keeps_that_as_long_as_itself(store: JobStore) -> None:
    store.redis.zadd(keys.EXPIRING, {"file:f": 1.0})
    job_id = store.submit(submission(rows="files/f", file="f"), limit=PLENTY)
    store.cancel(job_id)
    job = store.job(job_id)
    assert job is not None
    expiring = {name: store.redis.zscore(keys.EXPIRING, name) for name in ("file:f", f"job:{job_id}")}
    assert expiring == {name: pytest.approx(job.expires_at) for name in expiring}


def test_a_file_that_was_deleted_is_not_expected_again(store: JobStore) -> None:
    store.cancel(store.submit(submission(rows="files/f", file="f"), limit=PLENTY))
    assert store.redis.zscore(keys.EXPIRING, "file:f") is None
