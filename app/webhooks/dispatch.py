"""Sending what is due: runs beside the API in its process; several processes share the work."""

import asyncio
import logging
import random
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal, cast

from redis.exceptions import RedisError
from starlette.concurrency import run_in_threadpool

from app.artifacts import StoreUnreachable
from app.jobs.store import JobStore
from app.metrics import Metrics
from app.schemas.jobs import Job
from app.schemas.webhooks import EventType, JobEvent
from app.webhooks import backoff, signing
from app.webhooks.addresses import AddressRefused
from app.webhooks.outbox import Claim, Outbox
from app.webhooks.sending import NoReply, Sender

log = logging.getLogger("safemargin.webhooks")

Outcome = Literal["delivered", "retried", "given_up", "refused"]

_AT_ONCE = 16
_LOOK_SECONDS = 1.0
_GONE = 410


@dataclass(frozen=True)
class Dispatch:
    """Claims deliveries and makes them, until cancelled.

    Attributes:
        outbox: what is due.
        jobs: what is told of.
        sender: posts it.
        secrets: the secrets to sign with; asked for every delivery.
        metrics: counts how deliveries end.
        clock: Unix time.
        chance: a random number from [0, 1).
    """

    outbox: Outbox
    jobs: JobStore
    sender: Sender
    secrets: Callable[[], str]
    metrics: Metrics
    clock: Callable[[], float] = time.time
    chance: Callable[[], float] = random.random

    async def run(self) -> None:
        """Send what is due until cancelled, several at once, through outages of queue and artifact store."""
        free = asyncio.Semaphore(_AT_ONCE)
        async with asyncio.TaskGroup() as sending:
            while True:
                await free.acquire()
                task = sending.create_task(self._make(await self._next()))
                task.add_done_callback(lambda _task: free.release())

    async def deliver(self, claim: Claim) -> Outcome | None:
        """Make one attempt at a delivery and note how it ended; None if its job is gone.

        Raises:
            RedisError, StoreUnreachable: the delivery stays as it is, and is due again when its lease ends.
        """
        url = await self.outbox.url(claim)
        job = await run_in_threadpool(self.jobs.job, claim.job_id)
        if url is None or job is None or job.status == "in_progress":
            await self.outbox.strike_off(claim)
            return None
        keys = signing.keys_of(await run_in_threadpool(self.secrets))
        body = _event(job, self.clock()).model_dump_json().encode()
        headers = signing.headers(keys, f"msg_{job.id}", int(self.clock()), body)
        try:
            reply = await self.sender.post(url, body, headers)
        except AddressRefused as error:
            log.warning("the webhook of job %s is refused: %s", job.id, error)
            return await self._end(claim, "refused")
        except NoReply as error:
            log.info("the webhook of job %s got no reply: %s", job.id, error)
            return await self._try_again(claim)
        if 200 <= reply.status < 300:
            return await self._end(claim, "delivered")
        if reply.status == _GONE:
            return await self._end(claim, "given_up")
        return await self._try_again(claim, backoff.seconds_asked(reply.retry_after, self.clock()))

    async def _next(self) -> Claim:
        while True:
            try:
                if claim := await self.outbox.claim(self.clock()):
                    return claim
            except RedisError as error:
                log.debug("webhooks wait for the queue: %s", error)
            await asyncio.sleep(_LOOK_SECONDS)

    async def _make(self, claim: Claim) -> None:
        try:
            await self.deliver(claim)
        except (RedisError, StoreUnreachable) as error:
            log.warning("the webhook of job %s waits: %s", claim.job_id, error)
        except Exception:
            log.exception("the webhook of job %s could not be sent", claim.job_id)
            with suppress(RedisError):
                await self._try_again(claim)

    async def _try_again(self, claim: Claim, asked: float = 0.0) -> Outcome:
        wait = backoff.delay(claim.attempts + 1, asked, self.chance())
        if wait is None:
            return await self._end(claim, "given_up")
        await self.outbox.postpone(claim, self.clock() + wait)
        return self._count(claim, "retried")

    async def _end(self, claim: Claim, outcome: Outcome) -> Outcome:
        await self.outbox.strike_off(claim)
        return self._count(claim, outcome)

    def _count(self, claim: Claim, outcome: Outcome) -> Outcome:
        self.metrics.webhook_deliveries.labels(outcome).inc()
        log.info("webhook of job %s: %s", claim.job_id, outcome)
        return outcome


def _event(job: Job, now: float) -> JobEvent:
    over = job.completed_at if job.completed_at is not None else now
    return JobEvent(type=cast(EventType, f"job.{job.status}"), timestamp=datetime.fromtimestamp(over, UTC), data=job)
