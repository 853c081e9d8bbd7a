"""How much waits, how fast it is worked through, and when a job will be done."""

import pytest

from app.jobs import keys, load
from app.jobs.store import JobStore
from tests.app.jobs.conftest import PLENTY, Hire, answer, claimed, submission


class Clock:
    """The time of the service, which a test lets pass."""

    def __init__(self) -> None:
        self.now = 1_000_000 * load.PERIOD_SECONDS + 0.0

    def time(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(load, "time", clock)
    return clock


def test_what_nobody_works_on_has_no_pace_and_no_end(store: JobStore) -> None:
    job = store.job(store.submit(submission(), limit=PLENTY))
    assert load.pace(store.redis, keys.ANNOTATE) == 0
    assert job is not None and (job.throughput, job.eta_seconds) == (None, None)


def test_the_pace_is_that_of_the_last_periods(store: JobStore, hire: Hire, clock: Clock) -> None:
    store.submit(submission(20), limit=PLENTY)
    for number in range(6):
        lane = hire(lane=str(number))
        answer(lane, claimed(lane))
        clock.now += load.PERIOD_SECONDS
    assert load.pace(store.redis, keys.ANNOTATE) == pytest.approx(10 / load.PERIOD_SECONDS)
    clock.now += 3 * load.PERIOD_SECONDS
    assert load.pace(store.redis, keys.ANNOTATE) == 0


def test_a_job_says_how_fast_it_went_and_when_it_ends(store: JobStore, hire: Hire, clock: Clock) -> None:
    job_id = store.submit(submission(4), limit=PLENTY)
    answer(lane := hire(), claimed(lane))
    job = store.job(job_id)
    assert job is not None and job.throughput is not None and job.eta_seconds is not None
    assert job.throughput > 0
    assert job.eta_seconds == pytest.approx(30 / (10 / (2 * load.PERIOD_SECONDS)))
    store.cancel(job_id)
    job = store.job(job_id)
    assert job is not None and job.eta_seconds is None


def test_jobs_that_take_turns_end_later_than_each_alone(store: JobStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(load, "pace", lambda _redis, _queue: 10.0)
    jobs = [store.submit(submission(tokens=tokens), limit=PLENTY) for tokens in (100, 1000)]
    assert [job.eta_seconds for job in map(store.job, jobs) if job] == [20.0, 110.0]


@pytest.mark.parametrize(("tokens", "seconds"), [(1, 1.0), (100, 10.0), (10_000, 60.0)])
def test_nobody_is_asked_to_come_back_at_once_or_in_an_hour(
    store: JobStore, monkeypatch: pytest.MonkeyPatch, tokens: int, seconds: float
) -> None:
    monkeypatch.setattr(load, "pace", lambda _redis, _queue: 10.0)
    assert load.seconds_until(store.redis, keys.ANNOTATE, tokens) == seconds


def test_the_notes_of_the_pace_expire(store: JobStore, hire: Hire) -> None:
    store.submit(submission(), limit=PLENTY)
    answer(lane := hire(), claimed(lane))
    (name,) = store.redis.scan_iter(keys.PREFIX + "pace:*")
    assert 0 < store.redis.ttl(name) <= 120


def test_what_waits_is_told_by_queue_with_the_age_of_the_oldest_that_nobody_has_begun(
    store: JobStore, hire: Hire, clock: Clock
) -> None:
    ids = [store.submit(submission(2, queue=keys.BULK), limit=PLENTY) for _ in range(3)]
    for age, job_id in zip((70, 50, 30), ids, strict=True):
        store.redis.hset(keys.job(job_id), "created_at", clock.now - age)
    assert load.queues(store.redis)[keys.BULK] == load.Waiting(tokens=60, jobs=3, oldest=70)
    claimed(hire(), keys.BULK)
    assert load.queues(store.redis)[keys.BULK] == load.Waiting(tokens=60, jobs=3, oldest=50)
    assert load.queues(store.redis)[keys.ANNOTATE] == load.Waiting(tokens=0, jobs=0, oldest=0)


def test_jobs_that_have_ended_are_counted_by_kind_and_status_also_when_they_are_gone(
    store: JobStore, hire: Hire
) -> None:
    assert set(load.ended(store.redis).values()) == {0}
    done, cancelled = (store.submit(submission(), limit=PLENTY) for _ in range(2))
    answer(lane := hire(), claimed(lane))
    store.cancel(cancelled)
    store.fail(store.submit(submission(kind="training"), limit=PLENTY), "for no reason")
    store.drop(done)
    counted = {ends for ends, count in load.ended(store.redis).items() if count == 1}
    assert counted == {("annotate", "completed"), ("annotate", "cancelled"), ("training", "failed")}
