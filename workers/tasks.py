"""Every function that the queue may call. A task says that there may be work, the job store says which."""

import logging
import os
import threading
import time
import traceback
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import torch
from redis.exceptions import RedisError

from app.artifacts import ArtifactMissing, Artifacts, StoreUnreachable
from app.jobs import keys
from app.jobs import rows as stored
from app.jobs.collect import answer_path
from app.jobs.hand import Claim, Hand
from app.jobs.store import JobStore
from app.log import event, request_id
from app.schemas.chunk import Chunk, ChunkAnswer, Reading
from app.schemas.pairs import Pair
from app.schemas.rewarding import Query
from app.schemas.score import Candidates
from workers.alignment.errors import AlignmentError
from workers.annotate import PairAnnotator
from workers.directions.errors import DirectionError
from workers.engine.errors import DeviceLost, EngineError
from workers.holding import NotHeld
from workers.orders.order import Step
from workers.rewards.errors import RewardError
from workers.rules.errors import RuleError
from workers.training import Interrupted, Taken, Trainer
from workers.turns import Manner

log = logging.getLogger(__name__)

_RETRY_SECONDS = 1.0
_LOOK_SECONDS = 1.0
_TASK_SECONDS = 60.0
Asked = TypeVar("Asked")


@dataclass(frozen=True)
class Duty:
    """What this process serves tasks with; set once by `serve`, before any task can arrive."""

    worker: str
    jobs: JobStore
    artifacts: Artifacts
    pairs: PairAnnotator
    trainer: Trainer


_Work = Callable[[Duty, Hand, Claim], bool]
"""What is done with a chunk; says whether that took it out of the hand."""

_duties: list[Duty] = []
_quarantine = threading.Lock()


def serve(duty: Duty) -> None:
    """Serve all tasks of this process with `duty`."""
    _duties[:] = [duty]


def annotate_next(queue: str) -> None:
    """Annotate the next chunks of a queue, if there are any."""
    _next(queue, _annotate)


def fit_next(queue: str) -> None:
    """Make what the next training jobs order, and publish it; interrupted by the worker's end, it is given back."""
    _next(queue, _train)
    _sweep(_duties[0])


def _next(queue: str, work: _Work) -> None:
    """Work on chunk after chunk while there are any: RQ's task around them costs as much as a chunk of one pair."""
    duty = _duties[0]
    hand = Hand(duty.jobs, duty.worker, threading.current_thread().name)
    end = time.monotonic() + _TASK_SECONDS
    appetite = duty.pairs.batcher.appetite
    while True:
        with appetite.turn() if queue == keys.BULK else nullcontext():
            claim = _patiently(lambda: hand.claim(queue))
            if claim is None:
                return
            _work_on(duty, hand, claim, work)
        if duty.trainer.stop.is_set() or time.monotonic() > end:
            _patiently(lambda: duty.jobs.wake(queue, duty.jobs.unclaimed(queue)))
            return


def _work_on(duty: Duty, hand: Hand, claim: Claim, work: _Work) -> None:
    """Whatever becomes of it, the chunk is out of the hand afterwards."""
    gone = False
    request_id.set(claim.request)
    if claim.waited is not None:
        duty.pairs.metrics.queue_wait.labels(claim.queue).observe(claim.waited)
    try:
        gone = _patiently(lambda: work(duty, hand, claim))
    except (NotHeld, AlignmentError, DirectionError, RewardError, RuleError, EngineError, Taken) as error:
        _fail(duty, claim, str(error))
    except ArtifactMissing:
        _fail(duty, claim, "its file was deleted while the job used it")
    except torch.OutOfMemoryError:
        _fail(duty, claim, "the memory of the annotator's device is too small for it")
    except DeviceLost as error:
        # A supervisor starts a fresh process, and the chunk goes to whoever inherits what a dead worker had in hand.
        log.error("the device failed, and this process ends: %s", error)
        os._exit(1)
    except Exception as error:
        # The message of an error may quote what it could not handle, and no text of a pair goes to the log.
        log.error("chunk %s of job %s failed: %s at %s", claim.number, claim.job_id, type(error).__name__, _at(error))
        _fail(duty, claim, f"the worker failed ({type(error).__name__}); its log says where")
    if not gone:
        _patiently(hand.put_down)
    request_id.set("")


def _patiently(ask: Callable[[], Asked]) -> Asked:
    """Ask queue or store, waiting while they are away: nobody would take a chunk in hand from a live worker."""
    while True:
        try:
            return ask()
        except (RedisError, StoreUnreachable) as error:
            log.warning("waiting: %s", error)
            time.sleep(_RETRY_SECONDS)


def _fail(duty: Duty, claim: Claim, reason: str) -> None:
    _patiently(lambda: duty.jobs.fail(claim.job_id, reason))


def _annotate(duty: Duty, hand: Hand, claim: Claim) -> bool:
    started = time.monotonic()
    chunk = _chunk(duty, claim)
    if chunk is None:
        return False
    try:
        answer = _answer(duty, hand, claim, chunk, Manner(claim.queue != keys.BULK, _while_wanted(duty, claim)))
    except Interrupted:
        hand.give_back()
        return False
    done, failed = answer.counts()
    computed = time.monotonic()
    body = answer.model_dump_json().encode()
    if claim.rows is not None:
        if not _patiently(lambda: duty.jobs.wanted(claim.job_id, claim.number)):
            return False  # what was counted is what is kept, and nothing of a job whose results are deleted
        _patiently(partial(duty.artifacts.write, answer_path(claim.job_id, claim.number), body))
        body = b""
    taken = _patiently(lambda: hand.answer(claim, body, done=done, failed=failed, tokens=chunk.tokens))
    duty.pairs.metrics.store.observe(time.monotonic() - computed)
    if taken:
        duty.pairs.metrics.answered(answer, chunk.tokens)
    _log_end(claim, "chunk", started, annotated=done, refused=failed, tokens=chunk.tokens)
    return True


def _log_end(claim: Claim, what: str, started: float, **figures: int) -> None:
    waited = {} if claim.waited is None else {"waited": round(claim.waited, 6)}
    seconds = round(time.monotonic() - started, 6)
    event(log, what, job=claim.job_id, number=claim.number, queue=claim.queue, **waited, seconds=seconds, **figures)


def _chunk(duty: Duty, claim: Claim) -> Chunk | None:
    """The work; None if its job is gone."""
    if claim.payload is not None:
        return Chunk.model_validate_json(claim.payload)
    if claim.rows is None or claim.options is None:
        return None
    place = stored.chunk_place(duty.artifacts, claim.rows, claim.number)
    rows = stored.read_chunk(duty.artifacts, claim.rows, place)
    reading = Reading.model_validate_json(claim.options)
    items: list[Pair | Candidates | Query] = [
        row.pair.model_copy(update={"id": row.pair.id or str(row.line)}) for row in rows
    ]
    return Chunk.model_construct(
        directions=reading.directions,
        truncate=reading.truncate,
        judging=reading.judging,
        contrasting=reading.contrasting,
        contributions=reading.contributions,
        reward_model=reading.reward_model,
        items=items,
        lines=[row.line for row in rows],
        tokens=place.tokens,
    )


def _while_wanted(duty: Duty, claim: Claim) -> Callable[[], None]:
    """To be called between items that take long each: ends the work once the worker is to end, or nobody wants it."""
    looked = time.monotonic()

    def go_on() -> None:
        nonlocal looked
        if duty.trainer.stop.is_set():
            raise Interrupted
        if time.monotonic() - looked >= _LOOK_SECONDS:
            looked = time.monotonic()
            if not _patiently(lambda: duty.jobs.wanted(claim.job_id, claim.number)):
                raise Interrupted

    return go_on


def _answer(duty: Duty, hand: Hand, claim: Claim, chunk: Chunk, manner: Manner) -> ChunkAnswer:
    """The answer to a chunk; one that was in hand when a worker died is worked on part by part, each noted before.

    One such chunk at a time: another that waited its turn is not blamed for a death.
    """
    if claim.suspicion is None:
        return duty.pairs.annotate(chunk, manner)
    answer = duty.pairs.refused(chunk)
    entries = list(answer.entries)
    _patiently(partial(hand.mark, claim, range(0)))
    with _quarantine:
        for part in claim.suspicion.parts(len(chunk.items)):
            _patiently(partial(hand.mark, claim, part))
            entries[part.start : part.stop] = duty.pairs.annotate(chunk.part(part), manner).entries
    return answer.model_copy(update={"entries": entries})


def _train(duty: Duty, hand: Hand, claim: Claim) -> bool:
    """Asks the queue patiently itself: begun again, the work would lose what was done, or meet its own result."""
    if claim.payload is None:
        return False
    started = time.monotonic()
    _sweep(duty)
    order = duty.trainer.order(claim.kind, claim.payload)

    def note(step: Step) -> bool:
        return _patiently(lambda: duty.jobs.progress(claim.job_id, step.stage, step.done, step.total, step.loss))

    try:
        answer = duty.trainer.carry_out(order, claim.job_id, note)
    except Interrupted:
        hand.give_back()
        return False
    _patiently(lambda: hand.answer(claim, answer.model_dump_json().encode(), done=0))
    _log_end(claim, claim.kind, started)
    return True


def _sweep(duty: Duty) -> None:
    """Remove what the trainer keeps of jobs that are over."""
    duty.trainer.sweep(lambda job: _patiently(lambda: duty.jobs.is_over(job)))


def _at(error: BaseException) -> str:
    """Where an error was raised, without a word of its message."""
    frame = traceback.extract_tb(error.__traceback__)[-1]
    return f"{frame.filename}:{frame.lineno}"
