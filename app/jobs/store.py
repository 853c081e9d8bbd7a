"""State of jobs: one Redis hash a job, changed by nobody else.

An answer is written once: a second answer to the same chunk (a retried or duplicated task) changes nothing. Writing it,
counting it and closing the job are one atomic step.
"""

import secrets
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from pydantic import BaseModel
from redis import Redis
from rq import Queue
from rq.queue import EnqueueData
from rq.serializers import JSONSerializer

from app.jobs import keys
from app.schemas.jobs import Job, JobKind, JobStatus, RequestCounts

_TASK_SECONDS = {keys.ANNOTATE: 3600, keys.TRAIN: 7 * 86_400}
_TOMBSTONE_SECONDS = 7 * 86_400

_ANSWER = """
if redis.call('HGET', KEYS[1], 'status') ~= 'in_progress' then return 0 end
if redis.call('HSETNX', KEYS[3], ARGV[1], ARGV[2]) == 0 then return 0 end
redis.call('EXPIREAT', KEYS[3], math.ceil(redis.call('HGET', KEYS[1], 'expires_at')))
redis.call('HDEL', KEYS[2], ARGV[1])
redis.call('HINCRBY', KEYS[1], 'completed', ARGV[3])
redis.call('HINCRBY', KEYS[1], 'failed', ARGV[4])
if redis.call('HINCRBY', KEYS[1], 'open_chunks', -1) == 0 then
    redis.call('HSET', KEYS[1], 'status', 'completed', 'completed_at', ARGV[5])
    redis.call('PUBLISH', KEYS[4], ARGV[6])
end
return 1
"""

_PROGRESS = """
if redis.call('HGET', KEYS[1], 'status') ~= 'in_progress' then return 0 end
redis.call('HSET', KEYS[1], 'completed', ARGV[1], 'total', ARGV[2])
return 1
"""

_FAIL = """
if redis.call('HGET', KEYS[1], 'status') ~= 'in_progress' then return 0 end
redis.call('HSET', KEYS[1], 'status', 'failed', 'completed_at', ARGV[1], 'error', ARGV[2])
redis.call('DEL', KEYS[2])
redis.call('PUBLISH', KEYS[3], ARGV[3])
return 1
"""


@dataclass(frozen=True, slots=True)
class JobStore:
    """Reads and writes jobs.

    Attributes:
        redis: connection to the queue's server; replies as bytes, as RQ needs them.
    """

    redis: Redis

    def submit(self, kind: JobKind, work: Sequence[BaseModel], *, rows: int, keep_seconds: int) -> str:
        """Create a job and queue its work, all or nothing; returns its id.

        Args:
            kind: what it does.
            work: one payload a chunk.
            rows: how many rows are in all of them.
            keep_seconds: how long the job is kept.
        """
        job_id = secrets.token_urlsafe(16)
        now = time.time()
        queue = self._queue(_queue_of(kind))
        fixed = {"kind": kind, "total": rows, "created_at": now, "expires_at": now + keep_seconds}
        moving = {"status": "in_progress", "completed": 0, "failed": 0, "open_chunks": len(work)}
        payloads = {str(number): part.model_dump_json() for number, part in enumerate(work)}
        with self.redis.pipeline(transaction=True) as pipe:
            pipe.hset(keys.job(job_id), mapping=cast(Any, fixed))
            for name, value in moving.items():
                # Only once: the client repeats a transaction whose reply was lost, and work may have begun by then.
                pipe.hsetnx(keys.job(job_id), name, cast(Any, value))
            pipe.expire(keys.job(job_id), keep_seconds + _TOMBSTONE_SECONDS)
            pipe.hset(keys.chunks(job_id), mapping=cast(Any, payloads))
            pipe.expire(keys.chunks(job_id), keep_seconds)
            queue.enqueue_many([_task(queue.name, job_id, number) for number in range(len(work))], pipeline=pipe)
            pipe.execute()
        return job_id

    def work(self, job_id: str, number: int) -> bytes | None:
        """The payload of a chunk; None once it is answered, or its job failed or expired."""
        return cast(bytes | None, self.redis.hget(keys.chunks(job_id), str(number)))

    def answer(self, job_id: str, number: int, answer: BaseModel, *, done: int, failed: int = 0) -> bool:
        """Store the answer to a chunk with its counts; False if it was there already or the job is over."""
        names = [keys.job(job_id), keys.chunks(job_id), keys.answers(job_id), keys.DONE_CHANNEL]
        body = answer.model_dump_json()
        return bool(self.redis.eval(_ANSWER, len(names), *names, str(number), body, done, failed, time.time(), job_id))

    def progress(self, job_id: str, done: int, total: int) -> bool:
        """Say how far a job of one chunk is; False if it is over."""
        return bool(self.redis.eval(_PROGRESS, 1, keys.job(job_id), done, total))

    def died(self, job_id: str, number: int) -> int:
        """Count that a worker died with this chunk in hand; returns how often that has happened."""
        return self.redis.hincrby(keys.job(job_id), f"deaths:{number}", 1)

    def requeue(self, job_id: str, number: int) -> None:
        """Queue a chunk again, before those that wait; nothing happens if its job is gone."""
        kind = cast(bytes | None, self.redis.hget(keys.job(job_id), "kind"))
        if kind is not None:
            queue = self._queue(_queue_of(kind.decode()))
            queue.enqueue_many([_task(queue.name, job_id, number, at_front=True)])

    def fail(self, job_id: str, reason: str) -> bool:
        """End a job without results; False if it is over already."""
        names = [keys.job(job_id), keys.chunks(job_id), keys.DONE_CHANNEL]
        return bool(self.redis.eval(_FAIL, len(names), *names, time.time(), reason, job_id))

    def job(self, job_id: str) -> Job | None:
        """A job as users see it, expired or not; None if there is none of this id."""
        found = cast(Mapping[bytes, bytes], self.redis.hgetall(keys.job(job_id)))
        return _public(job_id, {key.decode(): value.decode() for key, value in found.items()}) if found else None

    def answers(self, job_id: str) -> list[bytes]:
        """The answers so far, in the order of the chunks."""
        found = cast(Mapping[bytes, bytes], self.redis.hgetall(keys.answers(job_id)))
        return [found[number] for number in sorted(found, key=int)]

    def waiting(self) -> dict[str, int]:
        """Chunks that no worker has taken yet, by queue."""
        return {name: self._queue(name).count for name in keys.TASKS}

    def _queue(self, name: str) -> Queue:
        return Queue(name, connection=self.redis, serializer=JSONSerializer)


def _queue_of(kind: str) -> str:
    return keys.TRAIN if kind == "direction" else keys.ANNOTATE


def _task(queue: str, job_id: str, number: int, *, at_front: bool = False) -> EnqueueData:
    return Queue.prepare_data(
        keys.TASKS[queue],
        (job_id, number),
        timeout=_TASK_SECONDS[queue],
        result_ttl=0,
        failure_ttl=0,
        at_front=at_front,
    )


def _public(job_id: str, state: Mapping[str, str]) -> Job:
    kind = cast(JobKind, state["kind"])
    return Job(
        id=job_id,
        kind=kind,
        status=cast(JobStatus, state["status"]),
        request_counts=RequestCounts.model_validate({name: state[name] for name in ("total", "completed", "failed")}),
        created_at=float(state["created_at"]),
        completed_at=float(state["completed_at"]) if "completed_at" in state else None,
        expires_at=float(state["expires_at"]),
        results=f"/jobs/{job_id}/results",
        error=state.get("error"),
    )
