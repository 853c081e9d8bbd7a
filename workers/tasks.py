"""Every function that the queue may call."""

import logging
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from redis.exceptions import RedisError

from app.artifacts import StoreUnreachable
from app.jobs import custody
from app.jobs.store import JobStore
from app.schemas.chunk import Chunk
from app.schemas.fit import FitAnswer, FitRequest
from workers.annotate import PairAnnotator
from workers.directions.errors import DirectionError
from workers.engine.errors import EngineError
from workers.registry import UnknownDirection
from workers.training import Interrupted, Trainer

log = logging.getLogger(__name__)

_RETRY_SECONDS = 1.0
Asked = TypeVar("Asked")


@dataclass(frozen=True)
class Duty:
    """What this process serves tasks with; set once by `serve`, before any task can arrive."""

    worker: str
    jobs: JobStore
    pairs: PairAnnotator
    trainer: Trainer


_duties: list[Duty] = []


def serve(duty: Duty) -> None:
    """Serve all tasks of this process with `duty`."""
    _duties[:] = [duty]


def annotate_chunk(job_id: str, number: int) -> None:
    """Annotate one chunk and store its answer; a chunk already answered or abandoned is left alone."""
    _patiently(lambda: _in_hand(_duties[0], _annotate, job_id, number))


def fit_direction(job_id: str, number: int) -> None:
    """Make a direction, publish it and store that; interrupted by the worker's end, it is queued again."""
    _patiently(lambda: _in_hand(_duties[0], _fit, job_id, number))


def _patiently(ask: Callable[[], Asked]) -> Asked:
    """Ask queue or store, waiting while they are away: nobody would take a chunk in hand from a live worker."""
    while True:
        try:
            return ask()
        except (RedisError, StoreUnreachable) as error:
            log.warning("waiting: %s", error)
            time.sleep(_RETRY_SECONDS)


def _in_hand(duty: Duty, work: Callable[[Duty, str, int, bytes], None], job_id: str, number: int) -> None:
    custody.take(duty.jobs.redis, duty.worker, job_id, number)
    payload = duty.jobs.work(job_id, number)
    if payload is not None:
        try:
            work(duty, job_id, number, payload)
        except (RedisError, StoreUnreachable):
            raise
        except (UnknownDirection, DirectionError, EngineError) as error:
            _fail(duty, job_id, str(error))
        except Exception as error:
            # The message of an error may quote what it could not handle, and no text of a pair goes to the log.
            log.error("chunk %s of job %s failed: %s at %s", number, job_id, type(error).__name__, _place(error))
            _fail(duty, job_id, f"the worker failed ({type(error).__name__}); its log says where")
    custody.put_down(duty.jobs.redis, duty.worker, job_id, number)


def _fail(duty: Duty, job_id: str, reason: str) -> None:
    _patiently(lambda: duty.jobs.fail(job_id, reason))


def _annotate(duty: Duty, job_id: str, number: int, payload: bytes) -> None:
    answer = duty.pairs.annotate(Chunk.model_validate_json(payload))
    done, failed = answer.counts()
    duty.jobs.answer(job_id, number, answer, done=done, failed=failed)


def _fit(duty: Duty, job_id: str, number: int, payload: bytes) -> None:
    """Asks the queue patiently itself: begun again, a fit would lose what was read, or meet its own direction."""
    request = FitRequest.model_validate_json(payload)
    try:
        card = duty.trainer.fit(
            request, job_id, lambda n, total: _patiently(lambda: duty.jobs.progress(job_id, n, total))
        )
    except Interrupted:
        duty.jobs.requeue(job_id, number)
        return
    _patiently(lambda: duty.jobs.answer(job_id, number, FitAnswer(id=card.id, digest=card.digest), done=0))


def _place(error: BaseException) -> str:
    """Where an error was raised, without a word of its message."""
    frame = traceback.extract_tb(error.__traceback__)[-1]
    return f"{frame.filename}:{frame.lineno}"
