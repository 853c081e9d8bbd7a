"""Chunks in the hands of a worker: rows that kill, rows in the store, answers that come too late."""

import threading
from pathlib import Path
from typing import Any, cast

import pytest

from app.artifacts import Artifacts, StoreUnreachable
from app.datasets.rows import Row
from app.jobs import custody, keys
from app.jobs.collect import answer_path
from app.jobs.hand import Claim, Hand
from app.jobs.rows import store_rows
from app.jobs.store import JobStore
from app.schemas.annotate import FailedAnnotation
from app.schemas.chunk import Chunk, ChunkAnswer, Reading
from app.schemas.jobs import Job
from app.schemas.names import Ref
from app.schemas.pairs import Pair
from app.schemas.score import Candidates
from tests.app.jobs.conftest import PLENTY, submission
from tests.conftest import ref
from tests.workers.conftest import NAME
from workers import tasks
from workers.annotate import PairAnnotator
from workers.tasks import Duty
from workers.turns import URGENT, Manner


def state_of(jobs: JobStore, job_id: str) -> Job:
    job = jobs.job(job_id)
    assert job is not None
    return job


def in_hand(jobs: JobStore) -> object:
    return jobs.redis.hgetall(keys.in_hand(NAME))


def rows_chunk(direction: Ref, count: int) -> bytes:
    items: list[Pair | Candidates] = [
        Pair(id=str(n), prompt=f"hi {n}", chosen="hello", rejected="go away") for n in range(count)
    ]
    lines = list(range(1, count + 1))
    return Chunk(directions=[direction], truncate=False, items=items, lines=lines, tokens=10).model_dump_json().encode()


def counted(duty: Duty) -> tuple[float | None, float | None]:
    """Pairs that this worker says it has annotated and refused."""
    value = duty.pairs.metrics.registry.get_sample_value
    name = "safemargin_pairs_annotated_total"
    return value(name, {"outcome": "annotated"}), value(name, {"outcome": "refused"})


def test_what_is_answered_is_counted_and_what_comes_too_late_is_not(
    duty: Duty, jobs: JobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    chunk = rows_chunk(ref(duty.pairs.holdings.directions.all()["held"]), 3)
    jobs.submit(submission(work=[chunk], total=3), limit=PLENTY)
    tasks.annotate_next(keys.ANNOTATE)
    assert counted(duty) == (3, 0)
    job_id = jobs.submit(submission(work=[chunk], total=3), limit=PLENTY)
    annotate = PairAnnotator.annotate

    def cancelled(self: PairAnnotator, chunk: Chunk, manner: Manner = URGENT) -> ChunkAnswer:
        jobs.cancel(job_id)
        return annotate(self, chunk, manner)

    monkeypatch.setattr(PairAnnotator, "annotate", cancelled)
    tasks.annotate_next(keys.ANNOTATE)
    assert counted(duty) == (3, 0)


def test_a_row_that_kills_workers_is_reported_alone_and_its_neighbours_are_annotated(
    duty: Duty, jobs: JobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    held, fatal, deaths = ref(duty.pairs.holdings.directions.all()["held"]), "41", 0
    job_id = jobs.submit(submission(work=[rows_chunk(held, 100)], total=100), limit=PLENTY)
    annotate = PairAnnotator.annotate

    class Death(BaseException):
        """The worker is gone, and nothing after this happens."""

    def dying(self: PairAnnotator, chunk: Chunk, manner: Manner = URGENT) -> ChunkAnswer:
        if any(item.id == fatal for item in chunk.items):
            raise Death
        return annotate(self, chunk, manner)

    monkeypatch.setattr(PairAnnotator, "annotate", dying)
    jobs.redis.sadd(keys.WORKERS, NAME)
    while state_of(jobs, job_id).status == "in_progress":
        try:
            tasks.annotate_next(keys.ANNOTATE)
        except Death:
            deaths += 1
            assert custody.inherit(jobs.redis) == 1
            jobs.redis.sadd(keys.WORKERS, NAME)
    assert deaths <= 5
    counts = state_of(jobs, job_id).request_counts
    assert (counts.completed, counts.failed) == (99, 1)
    ((_, answered),) = jobs.answers(job_id)
    entries = ChunkAnswer.model_validate_json(answered).entries
    assert [entry.id for entry in entries] == [str(n) for n in range(100)]
    (failed,) = [entry for entry in entries if isinstance(entry, FailedAnnotation)]
    assert (failed.id, failed.error.code) == (fatal, "worker_died")
    assert counted(duty) == (99, 1)
    assert in_hand(jobs) == {}


def test_suspected_chunks_are_tried_one_at_a_time_and_whoever_waits_is_not_marked(
    duty: Duty, jobs: JobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    direction = ref(duty.pairs.holdings.directions.all()["held"])
    for _ in range(2):
        jobs.submit(submission(work=[rows_chunk(direction, 1)]), limit=PLENTY)
    for number in range(2):
        assert Hand(jobs, "victim", str(number)).claim(keys.ANNOTATE) is not None
    jobs.redis.sadd(keys.WORKERS, "victim")
    assert custody.inherit(jobs.redis) == 2
    seen: list[object] = []
    marks = threading.Semaphore(0)
    mark = Hand.mark

    def noted(self: Hand, claim: Claim, rows: range) -> None:
        mark(self, claim, rows)
        marks.release()

    def look(self: PairAnnotator, chunk: Chunk, manner: Manner = URGENT) -> ChunkAnswer:
        if not seen:
            for _ in range(3):  # both wait, and one of them has begun
                assert marks.acquire(timeout=10)
            held = cast(list[bytes], jobs.redis.hvals(keys.in_hand(NAME)))
            seen.append(sorted(entry.split(b":", 2)[2] for entry in held))
        return self.refused(chunk)

    monkeypatch.setattr(Hand, "mark", noted)
    monkeypatch.setattr(PairAnnotator, "annotate", look)
    lanes = [threading.Thread(target=tasks.annotate_next, args=(keys.ANNOTATE,), name=f"lane {n}") for n in range(2)]
    for lane in lanes:
        lane.start()
    for lane in lanes:
        lane.join(10)
    assert seen == [[b"0:0", b"0:1"]]
    assert in_hand(jobs) == {}


def stored_job(duty: Duty, jobs: JobStore, tmp_path: Path) -> str:
    """A job on one row in the artifact store."""
    held = ref(duty.pairs.holdings.directions.all()["held"])
    rows = [Row(line=3, pair=Pair(prompt="hi", chosen="hello", rejected="go away"))]
    made = store_rows(duty.artifacts, "files/f", rows, 100, tmp_path)
    options = Reading(directions=[held], truncate=False).model_dump_json()
    fields: dict[str, Any] = {"work": (), "rows": "files/f", "options": options, "tokens": made.tokens}
    return jobs.submit(submission(**fields), limit=PLENTY)


def test_stored_rows_are_answered_in_the_store_before_they_count(duty: Duty, jobs: JobStore, tmp_path: Path) -> None:
    job_id = stored_job(duty, jobs, tmp_path)
    tasks.annotate_next(keys.ANNOTATE)
    job = state_of(jobs, job_id)
    assert (job.status, job.request_counts.completed) == ("completed", 1)
    answer = ChunkAnswer.model_validate_json(duty.artifacts.read(answer_path(job_id, 0)))
    assert (answer.lines, answer.entries[0].id) == ([3], "3")
    assert jobs.answers(job_id) == []


def test_the_answer_that_was_counted_is_the_one_that_is_kept(
    duty: Duty, jobs: JobStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job_id = stored_job(duty, jobs, tmp_path)
    late = Hand(jobs, NAME, threading.current_thread().name)
    assert late.claim(keys.ANNOTATE) is not None
    jobs.redis.setbit(keys.done(job_id), 0, 1)  # another worker has answered meanwhile
    tasks.annotate_next(keys.ANNOTATE)
    assert duty.artifacts.files(f"jobs/{job_id}/answers") == []
    assert in_hand(jobs) == {}


def test_a_store_that_is_away_for_a_moment_costs_no_second_forward_pass(
    duty: Duty, jobs: JobStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job_id = stored_job(duty, jobs, tmp_path)
    write, annotate = Artifacts.write, PairAnnotator.annotate
    failures, passes = [StoreUnreachable("gone")] * 3, list[Chunk]()

    def unsteady(self: Artifacts, path: str, content: bytes) -> None:
        if failures:
            raise failures.pop()
        write(self, path, content)

    def counted(self: PairAnnotator, chunk: Chunk, manner: Manner = URGENT) -> ChunkAnswer:
        passes.append(chunk)
        return annotate(self, chunk, manner)

    monkeypatch.setattr(Artifacts, "write", unsteady)
    monkeypatch.setattr(PairAnnotator, "annotate", counted)
    tasks.annotate_next(keys.ANNOTATE)
    assert (state_of(jobs, job_id).status, len(passes)) == ("completed", 1)
