"""What becomes of the chunks of a worker that died."""

import pytest

from app.jobs import custody, keys, roster
from app.jobs.hand import Hand
from app.jobs.store import JobStore
from app.jobs.suspicion import Suspicion
from tests.app.jobs.conftest import PLENTY, Hire, answer, claimed, die, submission


@pytest.fixture
def doomed(store: JobStore, hire: Hire) -> Hand:
    """A lane of a live worker that has the only chunk of a job in hand."""
    store.submit(submission(), limit=PLENTY)
    lane = hire("doomed")
    claimed(lane)
    return lane


def deaths(store: JobStore, hire: Hire, count: int, *marked: range) -> None:
    """So many workers die with the next chunk in hand, each on these rows."""
    for number in range(count):
        lane = hire(f"victim {number}")
        claim = claimed(lane)
        for rows in marked:
            lane.mark(claim, rows)
        die(lane)
        custody.inherit(store.redis)


def test_chunks_of_a_live_worker_are_left_alone(store: JobStore, hire: Hire, doomed: Hand) -> None:
    assert custody.inherit(store.redis) == 0
    assert hire("heir").claim(keys.ANNOTATE) is None


def test_a_dead_workers_chunk_is_given_back_once(store: JobStore, hire: Hire, doomed: Hand) -> None:
    die(doomed)
    assert custody.inherit(store.redis) == 1
    assert custody.inherit(store.redis) == 0
    assert claimed(hire("heir")).suspicion == Suspicion(deaths=1)
    assert hire("other").claim(keys.ANNOTATE) is None


def test_of_two_heirs_that_look_at_the_same_moment_one_gives_back(store: JobStore, doomed: Hand) -> None:
    job_id = claimed(doomed).job_id
    die(doomed)
    assert custody._give_back(doomed, f"{job_id}:0:")
    assert not custody._give_back(doomed, f"{job_id}:0:")
    assert store.redis.llen(keys.returned(job_id)) == 1


def test_all_lanes_of_a_dead_worker_are_relieved_and_it_is_forgotten(store: JobStore, hire: Hire) -> None:
    store.submit(submission(3), limit=PLENTY)
    for lane in [hire("doomed", f"lane {n}") for n in range(3)]:
        claimed(lane)
    store.redis.delete(keys.worker("doomed"))
    assert custody.inherit(store.redis) == 3
    assert store.redis.smembers(keys.WORKERS) == set()
    assert not store.redis.exists(keys.in_hand("doomed"))


def test_what_a_dead_worker_had_answered_is_not_given_back(store: JobStore, hire: Hire) -> None:
    store.submit(submission(), limit=PLENTY)
    lane = hire("done")
    answer(lane, claimed(lane))
    die(lane)
    assert custody.inherit(store.redis) == 0


def test_a_worker_that_only_seemed_dead_may_answer_still(store: JobStore, hire: Hire) -> None:
    job_id = store.submit(submission(), limit=PLENTY)
    sleeper = hire("sleeper")
    claim = claimed(sleeper)
    die(sleeper)
    custody.inherit(store.redis)
    heir = hire("heir")
    again = claimed(heir)
    assert answer(sleeper, claim, b"late but first")
    assert not answer(heir, again, b"second")
    assert not sleeper.give_back()
    assert store.answers(job_id) == [(b"work 0", b"late but first")]


def test_a_worker_that_leaves_with_a_chunk_in_hand_is_relieved_of_it(store: JobStore, doomed: Hand) -> None:
    roster.leave(store.redis, "doomed")
    assert custody.inherit(store.redis) == 1
    assert store.redis.smembers(keys.WORKERS) == set()


def test_a_worker_that_leaves_with_empty_hands_is_forgotten(store: JobStore, hire: Hire) -> None:
    hire("tidy")
    roster.leave(store.redis, "tidy")
    assert list(store.redis.scan_iter(keys.PREFIX + "worker*")) == []


def test_the_rows_that_were_marked_are_the_suspects(store: JobStore, hire: Hire) -> None:
    store.submit(submission(), limit=PLENTY)
    deaths(store, hire, 1)
    deaths(store, hire, 1, range(0, 4), range(4, 8))
    suspicion = claimed(hire("heir")).suspicion
    assert suspicion is not None
    assert (suspicion.deaths, suspicion.low, suspicion.high, suspicion.guilty) == (2, 4, 8, ())


def test_a_job_of_many_rows_outlives_any_number_of_deaths(store: JobStore, hire: Hire) -> None:
    job_id = store.submit(submission(), limit=PLENTY)
    deaths(store, hire, 1)
    deaths(store, hire, 6, range(2, 3))
    suspicion = claimed(hire("heir")).suspicion
    assert suspicion is not None and 2 in suspicion.guilty
    job = store.job(job_id)
    assert job is not None and job.status == "in_progress"


@pytest.mark.parametrize(("kind", "queue"), [("score", keys.ANNOTATE), ("direction", keys.TRAIN)])
def test_a_chunk_that_cannot_be_divided_fails_its_job_after_three_deaths(
    store: JobStore, hire: Hire, kind: str, queue: str
) -> None:
    job_id = store.submit(submission(kind=kind, queue=queue), limit=PLENTY)
    for number in range(3):
        assert store.job(job_id).status == "in_progress"  # type: ignore[union-attr]
        lane = hire(f"victim {number}")
        lane.mark(claimed(lane, queue), range(0, 1))
        die(lane)
        custody.inherit(store.redis)
    job = store.job(job_id)
    assert job is not None and job.status == "failed"
    assert job.error is not None and "3 deaths" in job.error
    assert not list(store.redis.scan_iter("*in-hand*"))


def test_a_chunk_that_is_fatal_before_its_first_row_fails_its_job(store: JobStore, hire: Hire) -> None:
    job_id = store.submit(submission(), limit=PLENTY)
    deaths(store, hire, 2)
    assert store.job(job_id).status == "in_progress"  # type: ignore[union-attr]
    deaths(store, hire, 1)
    assert store.job(job_id).status == "failed"  # type: ignore[union-attr]


def test_a_chunk_that_waited_for_its_turn_is_not_blamed(store: JobStore, hire: Hire) -> None:
    job_id = store.submit(submission(kind="score"), limit=PLENTY)
    deaths(store, hire, 1)
    deaths(store, hire, 5, range(0))
    assert store.job(job_id).status == "in_progress"  # type: ignore[union-attr]
    assert claimed(hire("heir")).suspicion == Suspicion(deaths=1)


def test_a_dead_workers_chunk_of_a_job_that_is_over_is_nobodys(store: JobStore, hire: Hire) -> None:
    job_id = store.submit(submission(), limit=PLENTY)
    claimed(lane := hire("doomed"))
    store.cancel(job_id)
    die(lane)
    assert custody.inherit(store.redis) == 0
    assert hire("heir").claim(keys.ANNOTATE) is None
    assert not store.redis.exists(keys.suspicions(job_id))


def test_tasks_that_were_lost_are_queued_again_where_work_waits(store: JobStore, hire: Hire) -> None:
    store.submit(submission(2), limit=PLENTY)
    store.redis.delete(f"rq:queue:{keys.ANNOTATE}")
    custody.wake_idle(store.redis)
    assert store.redis.llen(f"rq:queue:{keys.ANNOTATE}") == 1
    assert store.redis.llen(f"rq:queue:{keys.BULK}") == 0


def test_where_nothing_waits_nobody_is_woken(store: JobStore, hand: Hand) -> None:
    store.submit(submission(), limit=PLENTY)
    claimed(hand)
    store.redis.delete(f"rq:queue:{keys.ANNOTATE}")
    custody.wake_idle(store.redis)
    assert store.redis.llen(f"rq:queue:{keys.ANNOTATE}") == 0
