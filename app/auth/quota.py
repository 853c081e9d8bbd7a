"""Quotas: a token bucket a key, in Redis, so that every API process draws from the same one.

A bucket holds a minute's tokens and fills steadily. A request larger than a whole bucket passes when the bucket is
full, and takes it below zero: on average the key still gets no more than its quota, no request is impossible, and
nobody has to cut a request to a size that only the operator knows.
"""

from typing import cast

from starlette.concurrency import run_in_threadpool

from app.auth.caller import Caller
from app.errors import OverQuota
from app.jobs import keys
from app.schemas.problem import FieldProblem, Problem, Responses
from app.service import Service

_WINDOW_SECONDS = 60

METERED: Responses = {
    429: {
        "model": Problem,
        "description": "The key is over its quota; `Retry-After` says when this request would pass.",
        "headers": {
            "Retry-After": {"schema": {"type": "integer"}, "description": "Seconds."},
            "RateLimit": {"schema": {"type": "string"}, "description": '`"tokens";r=left;t=seconds`'},
            "RateLimit-Policy": {"schema": {"type": "string"}, "description": '`"tokens";q=tokens;w=seconds`'},
        },
    }
}
"""What the description of an endpoint that spends tokens says."""

_SPEND = """
local capacity, cost = tonumber(ARGV[1]), tonumber(ARGV[2])
local per_ms = capacity / tonumber(ARGV[3]) / 1000
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local bucket = redis.call('HMGET', KEYS[1], 'level', 'at')
local level = capacity
if bucket[1] then
    level = math.min(capacity, tonumber(bucket[1]) + math.max(0, now - tonumber(bucket[2])) * per_ms)
end
local missing = math.min(cost, capacity) - level
if cost > 0 and missing > 0 then return {0, math.max(0, math.floor(level)), math.ceil(missing / per_ms)} end
level = math.min(capacity, level - cost)
local until_full = math.ceil((capacity - level) / per_ms)
redis.call('HSET', KEYS[1], 'level', level, 'at', now)
redis.call('PEXPIRE', KEYS[1], until_full + 1000)
return {1, math.max(0, math.floor(level)), until_full}
"""


async def spend(service: Service, caller: Caller, tokens: int) -> dict[str, str]:
    """Take a request's estimated tokens out of the caller's bucket; a request that does not pass takes none.

    Args:
        service: where buckets are kept.
        caller: whose.
        tokens: how many; fewer than none are paid back.

    Returns:
        Headers for the answer (draft-ietf-httpapi-ratelimit-headers): what is left, and the seconds until the bucket is
        full again. None of them for a caller without a quota.

    Raises:
        OverQuota: there are not enough; says when there will be.
    """
    quota = caller.tokens_per_minute
    if quota is None:
        return {}
    name = keys.quota(caller.key_id)
    taken = await run_in_threadpool(service.redis.eval, _SPEND, 1, name, str(quota), str(tokens), str(_WINDOW_SECONDS))
    passed, left, milliseconds = cast(list[int], taken)
    seconds = -(-milliseconds // 1000)
    headers = {
        "RateLimit-Policy": f'"tokens";q={quota};w={_WINDOW_SECONDS}',
        "RateLimit": f'"tokens";r={left};t={seconds}',
    }
    if passed:
        return headers
    detail = f"this key may use {quota} estimated tokens a minute, and this request needs more than are left"
    error = FieldProblem(
        pointer="header/authorization",
        code="over_quota",
        detail=detail,
        counts={"quota": quota, "left": left, "needed": tokens},
    )
    raise OverQuota(detail, errors=[error], headers=headers | {"Retry-After": str(seconds)})
