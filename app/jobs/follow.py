"""Waiting for jobs: one subscription a process wakes whoever waits for a job that is done."""

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from redis.asyncio import Redis
from redis.exceptions import RedisError
from starlette.concurrency import run_in_threadpool

from app.jobs import keys
from app.jobs.store import JobStore
from app.schemas.jobs import Job

_RECHECK_SECONDS = 2.0
_RECONNECT_SECONDS = 0.5


class Completions:
    """Lets coroutines wait until a job is over."""

    def __init__(self) -> None:
        self._waiting: dict[str, set[asyncio.Event]] = defaultdict(set)

    @asynccontextmanager
    async def _expect(self, job_id: str) -> AsyncIterator[asyncio.Event]:
        """An event set when the job is over; enter before the last look at its state, so that nothing is missed."""
        event = asyncio.Event()
        self._waiting[job_id].add(event)
        try:
            yield event
        finally:
            self._waiting[job_id].discard(event)
            if not self._waiting[job_id]:
                del self._waiting[job_id]

    async def listen(self, redis_url: str) -> None:
        """Follow the queue's announcements until cancelled, through lost connections."""
        while True:
            try:
                async with Redis.from_url(redis_url) as redis, redis.pubsub() as channel:
                    await channel.subscribe(keys.DONE_CHANNEL)
                    async for message in channel.listen():
                        if message["type"] == "message":
                            self._wake(message["data"].decode())
            except RedisError:
                await asyncio.sleep(_RECONNECT_SECONDS)

    async def follow(self, jobs: JobStore, job_id: str, seconds: float) -> Job | None:
        """A job once it is over, or as it is after `seconds`; None if it does not exist."""
        await self.wait(jobs, job_id, seconds)
        return await run_in_threadpool(jobs.job, job_id)

    async def wait(self, jobs: JobStore, job_id: str, seconds: float) -> None:
        """Wait until a job is over, or for `seconds`."""
        deadline = asyncio.get_running_loop().time() + seconds
        async with self._expect(job_id) as over:
            while not await run_in_threadpool(jobs.is_over, job_id) and await _until(over, deadline):
                if over.is_set():
                    break

    def _wake(self, job_id: str) -> None:
        for event in self._waiting.get(job_id, ()):
            event.set()


async def _until(event: asyncio.Event, deadline: float) -> bool:
    """Wait for the event, but no longer than until `deadline` (loop time) or the next recheck; False when late.

    A recheck covers what an announcement lost with its connection would have said.
    """
    left = deadline - asyncio.get_running_loop().time()
    if left <= 0:
        return False
    with suppress(TimeoutError):
        async with asyncio.timeout(min(left, _RECHECK_SECONDS)):
            await event.wait()
    return True
