"""The deliveries that are due, in Redis.

A job that has a webhook puts its id into a sorted set, by the time when to try, in the same step that ends it. Who
claims a delivery moves it to the end of a lease, so that a process that dies with it leaves it to the next one. Only
who still holds the lease may strike the delivery off or postpone it.
"""

from collections.abc import Awaitable
from dataclasses import dataclass
from typing import Any, cast

from redis.asyncio import Redis

from app.jobs import keys

LEASE_SECONDS = 60.0
URL_FIELD = "webhook"
"""Field of a job's hash that holds the URL to tell."""

_CLAIM = """
local job = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', ARGV[1], 'LIMIT', 0, 1)[1]
if not job then return false end
redis.call('ZADD', KEYS[1], ARGV[2], job)
return {job, redis.call('HGET', KEYS[2], job) or '0'}
"""

_STRIKE_OFF = """
if tonumber(redis.call('ZSCORE', KEYS[1], ARGV[1]) or '-1') ~= tonumber(ARGV[2]) then return 0 end
redis.call('ZREM', KEYS[1], ARGV[1])
redis.call('HDEL', KEYS[2], ARGV[1])
return 1
"""

_POSTPONE = """
if tonumber(redis.call('ZSCORE', KEYS[1], ARGV[1]) or '-1') ~= tonumber(ARGV[2]) then return 0 end
redis.call('ZADD', KEYS[1], ARGV[3], ARGV[1])
redis.call('HINCRBY', KEYS[2], ARGV[1], 1)
return 1
"""


@dataclass(frozen=True, slots=True)
class Claim:
    """A delivery in hand.

    Attributes:
        job_id: the job that is over.
        attempts: how often it was tried before.
        lease: Unix time until which nobody else tries it.
    """

    job_id: str
    attempts: int
    lease: float


@dataclass(frozen=True, slots=True)
class Outbox:
    """What is due, for any number of processes.

    Attributes:
        redis: connection to the queue's server; replies as bytes.
    """

    redis: Redis

    async def claim(self, now: float) -> Claim | None:
        """Take the delivery that is due longest; None if nothing is due at Unix time `now`."""
        lease = now + LEASE_SECONDS
        found = await self._run(_CLAIM, now, lease)
        return Claim(found[0].decode(), int(found[1]), lease) if found else None

    async def url(self, claim: Claim) -> str | None:
        """Where the delivery goes; None if its job is gone."""
        found = await cast(Awaitable[bytes | None], self.redis.hget(keys.job(claim.job_id), URL_FIELD))
        return found.decode() if found is not None else None

    async def strike_off(self, claim: Claim) -> bool:
        """End a delivery; False if somebody else has it by now."""
        return bool(await self._run(_STRIKE_OFF, claim.job_id, claim.lease))

    async def postpone(self, claim: Claim, due: float) -> bool:
        """Count an attempt that failed, and try again at Unix time `due`; False if somebody else has it by now."""
        return bool(await self._run(_POSTPONE, claim.job_id, claim.lease, due))

    async def _run(self, script: str, *values: str | float) -> Any:
        return await self.redis.eval(script, 2, keys.WEBHOOKS_DUE, keys.WEBHOOK_ATTEMPTS, *values)
