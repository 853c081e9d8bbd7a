"""Every function that the queue may call."""

import logging
import time
import traceback
from dataclasses import dataclass

from redis.exceptions import RedisError

from app.jobs import custody
from app.jobs.store import JobStore
from app.schemas.chunk import Chunk
from workers.annotate import PairAnnotator, UnknownDirection

log = logging.getLogger(__name__)

_RETRY_SECONDS = 1.0


@dataclass(frozen=True)
class Duty:
    """What this process serves tasks with; set once by `serve`, before any task can arrive."""

    worker: str
    jobs: JobStore
    pairs: PairAnnotator


_duties: list[Duty] = []


def serve(duty: Duty) -> None:
    """Serve all tasks of this process with `duty`."""
    _duties[:] = [duty]


def annotate_chunk(job_id: str, number: int) -> None:
    """Annotate one chunk and store its answer; a chunk already answered or abandoned is left alone.

    While the queue is away this waits for it: the chunk is in hand, and nobody else would take it from a live worker.
    """
    while True:
        try:
            return _annotate(_duties[0], job_id, number)
        except RedisError as error:
            log.warning("waiting for the queue: %s", error)
            time.sleep(_RETRY_SECONDS)


def _annotate(duty: Duty, job_id: str, number: int) -> None:
    custody.take(duty.jobs.redis, duty.worker, job_id, number)
    chunk = duty.jobs.chunk(job_id, number)
    if chunk is not None:
        _answer(duty, job_id, number, chunk)
    custody.put_down(duty.jobs.redis, duty.worker, job_id, number)


def _answer(duty: Duty, job_id: str, number: int, chunk: Chunk) -> None:
    try:
        answer = duty.pairs.annotate(chunk)
    except UnknownDirection as error:
        duty.jobs.fail(job_id, str(error))
    except Exception as error:
        # The message of an error may quote what it could not handle, and no text of a pair goes to the log.
        log.error("chunk %s of job %s failed: %s at %s", number, job_id, type(error).__name__, _place(error))
        duty.jobs.fail(job_id, f"the worker failed ({type(error).__name__}); its log says where")
    else:
        duty.jobs.answer(job_id, number, answer)


def _place(error: BaseException) -> str:
    """Where an error was raised, without a word of its message."""
    frame = traceback.extract_tb(error.__traceback__)[-1]
    return f"{frame.filename}:{frame.lineno}"
