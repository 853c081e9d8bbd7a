"""Every function that the queue may call."""

import logging
from dataclasses import dataclass

from pydantic import ValidationError

from app.jobs import custody
from app.jobs.store import JobStore
from workers.annotate import PairAnnotator, UnknownDirection

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Duty:
    """What this process serves tasks with; set once by `serve`, before any task can arrive."""

    worker: str
    jobs: JobStore
    pairs: PairAnnotator
    keep_seconds: int


_duties: list[Duty] = []


def serve(duty: Duty) -> None:
    """Serve all tasks of this process with `duty`."""
    _duties[:] = [duty]


def annotate_chunk(job_id: str, number: int) -> None:
    """Annotate one chunk and store its answer; a chunk already answered or abandoned is left alone."""
    duty = _duties[0]
    chunk = duty.jobs.chunk(job_id, number)
    if chunk is None:
        return
    custody.take(duty.jobs.redis, duty.worker, job_id, number)
    try:
        answer = duty.pairs.annotate(chunk)
    except UnknownDirection as error:
        duty.jobs.fail(job_id, str(error))
    except (ValidationError, RuntimeError, ValueError, TypeError) as error:
        log.exception("chunk %s of job %s failed", number, job_id)
        duty.jobs.fail(job_id, f"the worker failed ({type(error).__name__}); its log says more")
    else:
        duty.jobs.answer(job_id, number, answer, keep_seconds=duty.keep_seconds)
    custody.put_down(duty.jobs.redis, duty.worker, job_id, number)
