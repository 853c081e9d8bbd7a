"""State of jobs: one Redis hash a job, changed by nobody else.

A job is chunks of work. Its queue's `ready` list holds it as long as some chunk is unclaimed, and whoever wants work
claims the next chunk of the next job there: jobs take turns. RQ only wakes the workers: a task says that there may be
work in a queue, not which, so that a lost or doubled task changes nothing.

A chunk is in exactly one of these states: unclaimed, in the hand of a worker that lives or will be found dead
(`custody`), returned, or answered. Every step from one to the next is one atomic script, and an answer is taken once.
"""

import secrets
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from redis import Redis
from rq import Queue
from rq.serializers import JSONSerializer

from app.jobs import keys, load
from app.jobs.paging import page
from app.jobs.submission import QueueFull, Submission
from app.schemas.jobs import Job, JobKind, JobStage, JobStatus, RequestCounts

_TASK_SECONDS = {keys.ANNOTATE: 86_400, keys.BULK: 86_400, keys.TRAIN: 7 * 86_400}
_MOST_TASKS = 32
_OF_ROWS: tuple[JobStage | None, ...] = (None, "read", "teach")
_LUA = {path.stem: path.read_text() for path in Path(__file__).with_name("lua").glob("*.lua")}
_SCRIPTS = _LUA | {name: _LUA["finish"] + _LUA[name] for name in ("answer", "close")}


@dataclass(frozen=True)
class JobStore:
    """Reads and writes jobs.

    Attributes:
        redis: connection to the queue's server; replies as bytes, as RQ needs them.
    """

    redis: Redis

    def submit(self, work: Submission, *, limit: int, job_id: str | None = None) -> str:
        """Create a job, all or nothing, and wake the workers; returns its id.

        Args:
            work: what it is.
            limit: tokens that may wait in its queue; an empty queue takes any job.
            job_id: its id where that is decided already; a job that exists stays as it is.

        Raises:
            QueueFull: more tokens wait than that.
        """
        job_id = job_id or secrets.token_urlsafe(16)
        now = time.time()
        fields = [part for item in work.fields(now).items() for part in item]
        names = [keys.job(job_id), keys.ready(work.queue), keys.tokens(work.queue)]
        names += [keys.chunks(job_id), keys.jobs_of(work.owner), self._queue(work.queue).key]
        arguments = [job_id, limit, work.tokens, now, len(fields), *fields, *work.work]
        taken, waiting = self.run("submit", names, arguments)
        if not taken:
            ahead = min(waiting, waiting + work.tokens - limit)  # an empty queue takes any job
            raise QueueFull(load.seconds_until(self.redis, work.queue, ahead))
        self._wake(work.queue, work.chunks, waiting)
        return job_id

    def unclaimed(self, queue: str) -> int:
        """How many jobs of a queue have chunks that nobody has claimed."""
        return self.redis.llen(keys.ready(queue))

    def wake(self, queue: str, chunks: int) -> None:
        """Queue tasks for so many chunks, within reason: a task that ends asks for the next one."""
        self._wake(queue, chunks, self._queue(queue).count)

    def _wake(self, queue: str, chunks: int, tasks: int) -> None:
        more = min(chunks, _MOST_TASKS - tasks)
        if more > 0:
            how: dict[str, Any] = {"timeout": _TASK_SECONDS[queue], "result_ttl": 0, "failure_ttl": 0}
            data = [Queue.prepare_data(keys.TASKS[queue], (queue,), **how) for _ in range(more)]
            self._queue(queue).enqueue_many(data)

    def progress(self, job_id: str, stage: JobStage, done: int, total: int, loss: float | None = None) -> bool:
        """Say how far a job of one chunk is: steps of a stage, and the loss of the last one. False if it is over."""
        return bool(self.run("progress", [keys.job(job_id)], [done, total, stage, "" if loss is None else loss]))

    def fail(self, job_id: str, reason: str) -> bool:
        """End a job without results; False if it is over already."""
        return self._close(job_id, "failed", reason)

    def cancel(self, job_id: str) -> bool:
        """End a job on request; what is done is kept. False if it is over already."""
        return self._close(job_id, "cancelled", "")

    def drop(self, job_id: str) -> None:
        """Remove a job that is over and whose answer nobody will ask for again."""
        owner = cast(bytes, self.redis.hget(keys.job(job_id), "owner") or b"").decode()
        names = (keys.job(job_id), keys.chunks(job_id), keys.answers(job_id), keys.done(job_id))
        with self.redis.pipeline(transaction=True) as pipe:
            pipe.delete(*names)
            pipe.zrem(keys.jobs_of(owner), job_id)
            pipe.execute()

    def shorten(self, job_id: str, seconds: int) -> None:
        """Keep a job that is over, and whose answer was given, for no longer than this."""
        with self.redis.pipeline(transaction=True) as pipe:
            for name in (keys.job(job_id), keys.chunks(job_id), keys.answers(job_id), keys.done(job_id)):
                pipe.expire(name, seconds, lt=True)
            pipe.execute()

    def forget(self, job_id: str) -> None:
        """Let the results of a job that is over expire now."""
        now = time.time()
        owner = self.redis.hget(keys.job(job_id), "owner") or b""
        with self.redis.pipeline(transaction=True) as pipe:
            pipe.hset(keys.job(job_id), "expires_at", str(now))
            pipe.delete(keys.chunks(job_id), keys.answers(job_id), keys.done(job_id))
            pipe.zrem(keys.jobs_of(cast(bytes, owner).decode()), job_id)
            pipe.zadd(keys.EXPIRING, {f"job:{job_id}": now}, xx=True)
            pipe.execute()

    def job(self, job_id: str) -> Job | None:
        """A job as users see it, expired or not; None if there is none of this id."""
        state = self.state(job_id)
        return self._public(job_id, state) if state else None

    def job_and_answers(self, job_id: str) -> tuple[Job | None, list[bytes]]:
        """A job, and the answers kept with it so far in the order of its chunks, in one trip."""
        with self.redis.pipeline(transaction=False) as pipe:
            pipe.hgetall(keys.job(job_id))
            pipe.hgetall(keys.answers(job_id))
            found, answers = pipe.execute()
        return self._public(job_id, _decoded(found)) if found else None, [answers[n] for n in sorted(answers, key=int)]

    def is_over(self, job_id: str) -> bool:
        """Whether a job is in progress no more, or not there at all."""
        return self.redis.hget(keys.job(job_id), "status") != b"in_progress"

    def state(self, job_id: str) -> dict[str, str]:
        """The hash of a job; empty if there is none."""
        return _decoded(cast(Mapping[bytes, bytes], self.redis.hgetall(keys.job(job_id))))

    def listed(self, owner: str, after: str | None, limit: int) -> list[Job]:
        """Jobs of an owner, the newest first, after the one named.

        Raises:
            PageMissing: that one is not among them.
        """
        return page(self.redis, keys.jobs_of(owner), after, limit, self._lasting)

    def answers(self, job_id: str) -> list[tuple[bytes, bytes]]:
        """The answers kept with a job so far, each after its work, in the order of the chunks."""
        with self.redis.pipeline(transaction=False) as pipe:
            pipe.hgetall(keys.answers(job_id))
            pipe.hgetall(keys.chunks(job_id))
            found, work = pipe.execute()
        return [(work.get(number, b""), found[number]) for number in sorted(found, key=int)]

    def finished_chunks(self, job_id: str) -> int:
        """How many chunks from the first one on are answered without a gap."""
        gap = self.redis.bitpos(keys.done(job_id), 0)
        return max(gap, 0)

    def wanted(self, job_id: str, number: int) -> bool:
        """Whether the answer to a chunk would be taken."""
        with self.redis.pipeline(transaction=True) as pipe:
            pipe.hget(keys.job(job_id), "status")
            pipe.getbit(keys.done(job_id), number)
            status, answered = pipe.execute()
        return status == b"in_progress" and not answered

    def _lasting(self, job_id: str) -> Job | None:
        job = self.job(job_id)
        return job if job is not None and (job.expires_at is None or job.expires_at > time.time()) else None

    def _close(self, job_id: str, status: JobStatus, reason: str) -> bool:
        names = self.ending(job_id, self.queue_of(job_id))
        return bool(self.run("close", names, [job_id, status, time.time(), reason]))

    def queue_of(self, job_id: str) -> str:
        """The queue that a job waits in."""
        found = cast(bytes | None, self.redis.hget(keys.job(job_id), "queue"))
        return found.decode() if found else keys.ANNOTATE

    def _public(self, job_id: str, state: Mapping[str, str]) -> Job:
        counts = RequestCounts.model_validate({name: state[name] for name in ("total", "completed", "failed")})
        ended = float(state["completed_at"]) if "completed_at" in state else None
        created, left = float(state["created_at"]), int(state["tokens_left"])
        seconds = (ended or time.time()) - float(state.get("started_at", created))
        finished = counts.completed + counts.failed - int(state["bad"])
        stage = cast(JobStage | None, state.get("stage"))
        return Job(
            id=job_id,
            kind=cast(JobKind, state["kind"]),
            status=cast(JobStatus, state["status"]),
            request_counts=counts,
            created_at=created,
            completed_at=ended,
            expires_at=float(state["expires_at"]) if "expires_at" in state else None,
            results=f"/jobs/{job_id}/results",
            errors=f"/jobs/{job_id}/errors",
            error=state.get("error"),
            file=state.get("file"),
            stage=stage,
            loss=float(state["loss"]) if "loss" in state else None,
            throughput=finished / seconds if finished and seconds > 0 and stage in _OF_ROWS else None,
            eta_seconds=load.seconds_left(self.redis, state["queue"], left) if ended is None and left else None,
        )

    def _queue(self, name: str) -> Queue:
        return Queue(name, connection=self.redis, serializer=JSONSerializer)

    @staticmethod
    def ending(job_id: str, queue: str) -> list[str]:
        """Keys of a script that may end a job, in the order of `finish.lua`."""
        return [keys.job(job_id), keys.tokens(queue), keys.DONE_CHANNEL, keys.WEBHOOKS_DUE, keys.EXPIRING, keys.ENDED]

    def run(self, name: str, names: Sequence[str], arguments: Sequence[Any]) -> Any:
        """The reply of a script."""
        return self.redis.register_script(_SCRIPTS[name])(keys=names, args=arguments)


def _decoded(fields: Mapping[bytes, bytes]) -> dict[str, str]:
    return {key.decode(): value.decode() for key, value in fields.items()}
