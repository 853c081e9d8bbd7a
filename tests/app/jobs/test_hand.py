"""Claiming chunks, and answering each of them once."""

import pytest

from app.jobs import keys, load
from app.jobs.hand import Hand
from app.jobs.store import JobStore
from app.schemas.jobs import Job
from tests.app.jobs.conftest import PLENTY, Hire, answer, claimed, submission


def job_of(store: JobStore, job_id: str) -> Job:
    job = store.job(job_id)
    assert job is not None
    return job


def test_an_empty_queue_has_nothing_to_claim(hand: Hand) -> None:
    assert hand.claim(keys.ANNOTATE) is None


def test_a_claim_says_what_to_do(store: JobStore, hand: Hand) -> None:
    job_id = store.submit(submission(kind="score", options="{}", rows="files/x"), limit=PLENTY)
    claim = claimed(hand)
    assert (claim.job_id, claim.number, claim.kind, claim.payload) == (job_id, 0, "score", b"work 0")
    assert (claim.options, claim.rows, claim.suspicion) == ("{}", "files/x", None)


def test_chunks_are_claimed_in_order_and_each_once(store: JobStore, hire: Hire) -> None:
    store.submit(submission(3), limit=PLENTY)
    lanes = [hire(lane=f"lane {n}") for n in range(4)]
    assert [claim and claim.number for claim in (lane.claim(keys.ANNOTATE) for lane in lanes)] == [0, 1, 2, None]


def test_a_lane_has_one_chunk_in_hand_and_gets_it_again_until_it_is_rid_of_it(store: JobStore, hand: Hand) -> None:
    store.submit(submission(2), limit=PLENTY)
    first = claimed(hand)
    assert claimed(hand) == first  # the reply to the first claim was lost
    hand.mark(first, range(3, 5))
    assert claimed(hand) == first
    answer(hand, first)
    assert claimed(hand).number == 1


def test_jobs_take_turns(store: JobStore, hire: Hire) -> None:
    long, short = (store.submit(submission(count), limit=PLENTY) for count in (4, 2))
    turns = [claimed(hire(lane=str(n))).job_id for n in range(6)]
    assert turns == [long, short, long, short, long, long]


def test_a_chunk_that_was_given_back_goes_first_and_once(store: JobStore, hire: Hire) -> None:
    store.submit(submission(3), limit=PLENTY)
    other = store.submit(submission(1), limit=PLENTY)
    clumsy = hire(lane="clumsy")
    given = claimed(clumsy)
    assert clumsy.give_back()
    assert not clumsy.give_back()  # repeated, because the reply was lost
    assert claimed(hire(lane="a")) == given
    assert claimed(hire(lane="b")).job_id == other
    assert claimed(hire(lane="c")).number == 1


def test_chunks_that_were_given_back_give_their_job_no_further_turns(store: JobStore, hire: Hire) -> None:
    long = store.submit(submission(6), limit=PLENTY)
    for lane in [hire(lane=f"first {n}") for n in range(3)]:
        claimed(lane)
    for lane in [hire(lane=f"first {n}") for n in range(3)]:
        assert lane.give_back()
    other = store.submit(submission(3), limit=PLENTY)
    turns = [claimed(hire(lane=str(n))).job_id for n in range(6)]
    assert turns == [long, other] * 3


def test_giving_back_wakes_a_lane(store: JobStore, hand: Hand) -> None:
    store.submit(submission(), limit=PLENTY)
    claimed(hand)
    store.redis.delete(f"rq:queue:{keys.ANNOTATE}")
    hand.give_back()
    assert store.redis.llen(f"rq:queue:{keys.ANNOTATE}") == 1


def test_chunks_of_a_job_that_is_over_are_claimed_no_more(store: JobStore, hand: Hand) -> None:
    over, going_on = (store.submit(submission(2), limit=PLENTY) for _ in range(2))
    store.cancel(over)
    assert claimed(hand).job_id == going_on


def test_a_chunk_that_is_put_down_is_in_hand_no_more(store: JobStore, hand: Hand) -> None:
    store.submit(submission(), limit=PLENTY)
    claimed(hand)
    hand.put_down()
    assert hand.claim(keys.ANNOTATE) is None
    assert not hand.give_back()


def test_a_job_is_complete_when_its_last_chunk_is_answered(store: JobStore, hire: Hire) -> None:
    job_id = store.submit(submission(3), limit=PLENTY)
    lanes = [hire(lane=str(n)) for n in range(3)]
    held = [(lane, claimed(lane)) for lane in lanes]
    for lane, claim in reversed(held):
        assert job_of(store, job_id).status == "in_progress"
        assert answer(lane, claim, b"answer %d" % claim.number)
    job = job_of(store, job_id)
    assert (job.status, job.request_counts.completed) == ("completed", 3)
    assert job.completed_at is not None and job.expires_at == pytest.approx(job.completed_at + 60)
    assert store.answers(job_id) == [(b"work %d" % n, b"answer %d" % n) for n in range(3)]


def test_rows_that_failed_are_counted_apart(store: JobStore, hand: Hand) -> None:
    job_id = store.submit(submission(total=5, failed=1), limit=PLENTY)
    assert hand.answer(claimed(hand), b"x", done=3, failed=1, tokens=10)
    assert job_of(store, job_id).request_counts.model_dump() == {"total": 5, "completed": 3, "failed": 2}


def test_of_two_lanes_that_answer_the_same_chunk_the_first_is_heard(store: JobStore, hire: Hire) -> None:
    job_id = store.submit(submission(2), limit=PLENTY)
    slow, fast = hire("slow"), hire("fast")
    claim = claimed(slow)
    assert slow.give_back()  # as `custody` does for a worker that only seemed dead
    assert claimed(fast).number == claim.number
    assert answer(fast, claim, b"first")
    assert not answer(slow, claim, b"second")
    assert not answer(fast, claim, b"repeated")
    assert job_of(store, job_id).request_counts.completed == 1
    assert store.answers(job_id) == [(b"work 0", b"first")]
    assert load.waiting(store.redis)[keys.ANNOTATE] == 10


def test_a_chunk_that_is_answered_while_it_waits_again_is_claimed_no_more(store: JobStore, hire: Hire) -> None:
    store.submit(submission(2), limit=PLENTY)
    slow = hire("slow")
    claim = claimed(slow)
    slow.give_back()
    assert answer(slow, claim)
    found = [hire("fast").claim(keys.ANNOTATE) for _ in range(2)]
    assert {claim.number for claim in found if claim} == {1}


def test_an_answer_lets_go_of_its_own_chunk_only(store: JobStore, hire: Hire) -> None:
    store.submit(submission(12), limit=PLENTY)
    lane = hire()
    first = claimed(lane)
    answer(lane, first)
    second = claimed(lane)
    assert not answer(lane, first)
    assert claimed(lane) == second


@pytest.mark.parametrize("end", ["cancel", "fail"])
def test_a_job_that_is_over_takes_no_answers(store: JobStore, hire: Hire, end: str) -> None:
    job_id = store.submit(submission(3), limit=PLENTY)
    done, late = hire(lane="done"), hire(lane="late")
    answer(done, claimed(done))
    claim = claimed(late)
    assert store.cancel(job_id) if end == "cancel" else store.fail(job_id, "for a reason")
    assert not answer(late, claim)
    assert not late.give_back()
    assert not store.redis.exists(keys.in_hand("w"))
    assert job_of(store, job_id).request_counts.completed == 1
    assert [kept for _, kept in store.answers(job_id)] == [b"done"]
    assert load.waiting(store.redis)[keys.ANNOTATE] == 0


def test_a_claim_knows_the_request_that_its_job_comes_of(store: JobStore, hire: Hire) -> None:
    store.submit(submission(2, request="7f"), limit=PLENTY)
    assert [claimed(hire(lane=lane)).request for lane in "ab"] == ["7f", "7f"]


def test_the_first_chunk_says_how_long_its_job_has_waited(store: JobStore, hire: Hire) -> None:
    job_id = store.submit(submission(2), limit=PLENTY)
    store.redis.hincrbyfloat(keys.job(job_id), "created_at", -60)
    first, second = (claimed(hire(lane=lane)).waited for lane in "ab")
    assert first is not None
    assert 60 <= first < 120
    assert second is None
