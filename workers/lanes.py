"""Lanes: RQ workers on threads of one process, which all feed the same forward stage.

RQ gives a worker one job at a time; several lanes keep several chunks in hand, so that the next batch is ready when
the current one ends. A lane never forks: the forward stage is on threads of its process, and CUDA does not survive it.
"""

import logging
import threading
import time
from collections.abc import Mapping
from typing import Any

from redis import Redis
from redis.exceptions import RedisError
from rq import Queue, SimpleWorker
from rq.exceptions import DequeueTimeout
from rq.job import Job
from rq.serializers import JSONSerializer
from rq.timeouts import TimerDeathPenalty
from rq.worker import WorkerStatus

log = logging.getLogger(__name__)

_POLL_SECONDS = 2
_BEAT_SECONDS = 30.0
_RESTART_SECONDS = 1.0


class Lane(SimpleWorker):
    """An RQ worker that can live on any thread."""

    death_penalty_class = TimerDeathPenalty
    _beat = -_BEAT_SECONDS

    def heartbeat(self, timeout: int | None = None, pipeline: Any = None) -> None:
        """Tell RQ's monitoring that the lane lives, twice a minute: after eight it would be taken for dead."""
        if time.monotonic() - self._beat >= _BEAT_SECONDS:
            self._beat = time.monotonic()
            super().heartbeat(timeout, pipeline)

    def dequeue_job_and_maintain_ttl(
        self, timeout: int | None, max_idle_time: int | None = None
    ) -> tuple[Job, Queue] | None:
        """The next job; None once the lane should stop, which RQ's own loop would only notice by a signal."""
        if self.get_state() != WorkerStatus.IDLE:
            self.set_state(WorkerStatus.IDLE)
        while not self._stop_requested:
            self.heartbeat()
            if self.should_run_maintenance_tasks:
                self.run_maintenance_tasks()  # type: ignore[no-untyped-call]
            try:
                found = Queue.lmove(self.connection, self.queues[0].key, _POLL_SECONDS)
            except DequeueTimeout:
                continue
            if found and (job := self._forgotten(found[1].decode())):
                return job, self.queues[0]
        return None

    def _forgotten(self, job_id: str) -> Job | None:
        """A job of which RQ knows nothing from now on; None where it did not before.

        It only says that there may be work, and the job store holds all that must not be lost: RQ's records of who
        does which task since when would cost a request of one pair several milliseconds.
        """
        job = Job(job_id, connection=self.connection, serializer=self.serializer)
        with self.connection.pipeline(transaction=False) as pipe:
            pipe.hgetall(job.key)
            pipe.delete(job.key)
            pipe.lrem(self.queues[0].intermediate_queue_key, 1, job_id)
            told, *_ = pipe.execute()
        if not told:
            return None
        job.restore(told)
        return job

    def execute_job(self, job: Job, queue: Queue) -> None:
        """Do a task."""
        try:
            job.func(*job.args)
        except Exception as error:  # without its message, which may be a pair's
            log.error("a task of %s failed: %s", queue.name, type(error).__name__)

    def stop(self) -> None:
        """Take no further job."""
        self._stop_requested = True

    def _install_signal_handlers(self) -> None:
        """Signals belong to the main thread."""

    def check_for_suspension(self, burst: bool) -> None:
        """RQ's remote commands are not used."""

    def subscribe(self) -> None:
        """RQ's remote commands are not used."""

    def unsubscribe(self) -> None:
        """Nothing was subscribed."""


class Lanes:
    """A fixed number of lanes, restarted when Redis has been away.

    Args:
        redis_url: where the queues are.
        name: name of the worker process.
        counts: how many lanes for each queue.
    """

    def __init__(self, redis_url: str, name: str, counts: Mapping[str, int]) -> None:
        self._redis_url = redis_url
        self._stopping = threading.Event()
        self._lanes: dict[str, Lane] = {}
        places = [(queue, f"{name}.{queue}.{number}") for queue, count in counts.items() for number in range(count)]
        self._threads = [threading.Thread(target=self._run, args=place, name=place[1], daemon=True) for place in places]

    def start(self) -> None:
        """Begin to take chunks."""
        for thread in self._threads:
            thread.start()

    @property
    def alive(self) -> bool:
        """Whether every lane runs."""
        return all(thread.is_alive() for thread in self._threads)

    def stop(self, seconds: float) -> bool:
        """Take no further chunk and finish those in hand; False if some lane is still busy after `seconds`."""
        self._stopping.set()
        for lane in list(self._lanes.values()):
            lane.stop()
        deadline = time.monotonic() + seconds
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        return not any(thread.is_alive() for thread in self._threads)

    def _run(self, queue: str, name: str) -> None:
        generation = 0
        while not self._stopping.is_set():
            generation += 1
            try:
                self._serve(queue, f"{name}.{generation}")
            except RedisError as error:
                log.warning("lane %s lost the queue: %s", name, error)
            except Exception as error:
                log.error("lane %s failed and starts again: %s", name, type(error).__name__)
            self._stopping.wait(_RESTART_SECONDS)

    def _serve(self, queue: str, name: str) -> None:
        with Redis.from_url(self._redis_url) as redis:
            options: dict[str, Any] = {"connection": redis, "serializer": JSONSerializer, "log_job_description": False}
            lane = Lane([queue], name=name, **options)
            self._lanes[name] = lane
            try:
                if not self._stopping.is_set():
                    lane.work(logging_level="WARNING")
            finally:
                del self._lanes[name]
