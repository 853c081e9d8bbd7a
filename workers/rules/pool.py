"""Rule pools as people write them, and the project's own with its exchanges."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import orjson
import yaml  # type: ignore[import-untyped]
from pydantic import ValidationError

from app.rulepools import RulePools
from app.schemas.judging import SHIPPED_POOL
from app.schemas.problem import said
from app.schemas.rules import RulePool

_MOST_FAULTS = 10
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
    try:
        content = yaml.safe_load(path.read_bytes())
    except OSError as error:
        raise UnusablePool(f"{path} cannot be read: {error.strerror}") from error
    except yaml.MarkedYAMLError as error:
        line = f", line {error.problem_mark.line + 1}," if error.problem_mark else ""
        raise UnusablePool(f"{path}{line} is not YAML") from None
    except (yaml.YAMLError, ValueError, RecursionError):
        raise UnusablePool(f"{path} is not YAML") from None
    if not isinstance(content, dict):
        raise UnusablePool(f"{path}: must be a mapping with `rules`")
    try:
        return RulePool.model_validate(content)
    except ValidationError as error:
        faults = error.errors()
        lines = [f"{path}: {_fault(fault)}" for fault in faults[:_MOST_FAULTS]]
        more = [f"{path}: {len(faults) - _MOST_FAULTS} more"] if len(faults) > _MOST_FAULTS else []
        raise UnusablePool("\n".join(lines + more)) from None


def _fault(fault: Mapping[str, Any]) -> str:
    field = "/".join([*map(str, fault["loc"]), *filter(None, [fault.get("ctx", {}).get("field")])])
    return f"/{field}: {said(fault)}"


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
