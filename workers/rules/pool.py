"""Rule pools as people write them, and the project's own with its exchanges."""

from dataclasses import dataclass
from functools import cache
from pathlib import Path

import orjson

from app.rulepools import RulePools
from app.schemas.judging import SHIPPED_POOL
from app.schemas.rules import RulePool
from workers.handwritten import checked, read_mapping

_DATA = Path(__file__).with_name("data")


class UnusablePool(Exception):
    """A file is no pool of rules; says which field is wrong, never its text."""


@dataclass(frozen=True, slots=True)
class Exchange:
    """A prompt and a response that keeps or breaks a rule which matters there.

    Attributes:
        rule: the rule's id.
        prompt: one user turn; the same one may stand beside a keeping and a breaking response.
        response: the answer.
        keeps: whether it keeps the rule.
    """

    rule: str
    prompt: str
    response: str
    keeps: bool


def read_pool(path: Path) -> RulePool:
    """A pool from a YAML file: `version: 1`, `rules:` and a list of `id`, `category`, `text`.

    Raises:
        UnusablePool: it cannot be read, or rules are not valid; of these it names ten, a line each.
    """
    return checked(read_mapping(path, "`rules`", UnusablePool), RulePool, str(path), UnusablePool)


@cache
def shipped_pool() -> RulePool:
    """The project's own pool."""
    return read_pool(_DATA / "pool.yaml")


@cache
def shipped_exchanges() -> tuple[Exchange, ...]:
    """Sixteen exchanges for every rule of the project's own pool: eight keep it, eight break it."""
    lines = (_DATA / "exchanges.jsonl").read_bytes().splitlines()
    return tuple(Exchange(**orjson.loads(line)) for line in lines)


def publish_shipped_pool(pools: RulePools) -> None:
    """Put the project's own pool into the store, unless it has known it."""
    if not pools.knows(SHIPPED_POOL):
        pools.add(SHIPPED_POOL, shipped_pool())
