"""Scores that were computed before, by content: a repeated or overlapping data set costs only what is new.

The score of a response depends on the model that is read, its template and precision, the direction, the prompt and the
response; a digest of all these is its key, and that of a reward model stands for its model and template, too. The cache
lies in Redis, so that workers share it, in two generations: a full one becomes the old one, and the one before that is
forgotten.
"""

import hashlib
import logging
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import orjson
from redis import Redis
from redis.exceptions import RedisError

from app.jobs.keys import SCORES
from app.schemas.pairs import Message
from workers.engine.annotator import Annotator

log = logging.getLogger(__name__)

_KEY_BYTES = 16
_VALUE = struct.Struct("<dII")
_PLACE = """
local prefix = KEYS[1]
local generation = tonumber(redis.call('GET', prefix .. 'generation') or '0')
local function place(key, back)
  local bucket = string.byte(key, 1) % 64 * 256 + string.byte(key, 2)
  return prefix .. generation - back .. ':' .. bucket, string.sub(key, 3)
end
"""
"""Scores lie in 16,384 small hashes, which Redis stores in a third of the space of one large one."""

_GET = (
    _PLACE
    + """
local found = {}
for i, key in ipairs(ARGV) do
  for back = 0, 1 do
    found[i] = found[i] or redis.call('HGET', place(key, back))
  end
end
return found
"""
)
_PUT = (
    _PLACE
    + """
local added = 0
for i = 2, #ARGV, 2 do
  local bucket, field = place(ARGV[i], 0)
  added = added + redis.call('HSET', bucket, field, ARGV[i + 1])
end
if redis.call('INCRBY', prefix .. 'count', added) >= tonumber(ARGV[1]) then
  redis.call('SET', prefix .. 'count', 0)
  redis.call('INCR', prefix .. 'generation')
  for bucket = 0, 16383 do redis.call('UNLINK', prefix .. generation - 1 .. ':' .. bucket) end
end
"""
)
_MOST_AT_ONCE = 1000


@dataclass(frozen=True, slots=True)
class Known:
    """A response that was scored before.

    Attributes:
        raw: its projection on the direction, or its reward.
        tokens: of the response.
        prompt_tokens: of the prompt, which was not cut.
    """

    raw: float
    tokens: int
    prompt_tokens: int


class Card(Protocol):
    """What says exactly what gave a score."""

    @property
    def model_revision(self) -> str:
        """Of the model that it reads, or was made of."""

    @property
    def digest(self) -> str:
        """Of its content."""


class Source(Protocol):
    """Something that gives scores: a direction, a reward model."""

    @property
    def card(self) -> Card:
        """Its card."""


class ScoreCache:
    """Scores of one annotator.

    Args:
        redis: where they are kept.
        annotator: whose.
        entries: how many one generation holds, about 40 bytes each.
    """

    def __init__(self, redis: Redis, annotator: Annotator, entries: int) -> None:
        self._redis = redis
        self._entries = entries
        self._made_by = f"{annotator.template.digest} {annotator.dtype_name}"

    def keys(self, messages: Sequence[Message], responses: Sequence[str], sources: Sequence[Source]) -> list[bytes]:
        """Key of every response by each of D sources, [D · K]."""
        prompt = orjson.dumps([[message.role, message.content] for message in messages])
        found = []
        for source in sources:
            made_by = f"{source.card.model_revision} {self._made_by}".encode()
            begun = hashlib.blake2b(made_by, digest_size=_KEY_BYTES)
            begun.update(source.card.digest.encode() + b" %d " % len(prompt) + prompt)
            for response in responses:
                whole = begun.copy()
                whole.update(response.encode())
                found.append(whole.digest())
        return found

    def get(self, keys: Sequence[bytes]) -> list[Known | None]:
        """What is known under each key; nothing while the queue's server is away."""
        get = self._redis.register_script(_GET)
        try:
            values = [
                value
                for start in range(0, len(keys), _MOST_AT_ONCE)
                for value in get(keys=[SCORES], args=keys[start : start + _MOST_AT_ONCE])
            ]
        except RedisError as error:
            log.warning("scores not looked up: %s", error)
            return [None] * len(keys)
        return [Known(*_VALUE.unpack(value)) if value else None for value in values]

    def put(self, scores: Sequence[tuple[bytes, Known]]) -> None:
        """Remember scores, if the queue's server has room for them."""
        put = self._redis.register_script(_PUT)
        try:
            for start in range(0, len(scores), _MOST_AT_ONCE):
                some = scores[start : start + _MOST_AT_ONCE]
                flat = [part for key, s in some for part in (key, _VALUE.pack(s.raw, s.tokens, s.prompt_tokens))]
                put(keys=[SCORES], args=[self._entries, *flat])
        except RedisError as error:
            log.warning("scores not kept: %s", error)
