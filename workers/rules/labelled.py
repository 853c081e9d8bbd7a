"""Labelled responses in a user's own JSONL files, faults named by line and field."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import ConfigDict, Field

from app.schemas.fit import PlainResponse
from app.schemas.names import NAME, Finite
from app.schemas.pairs import Message, PromptText, Strict, Text
from app.schemas.rules import RulePool
from workers.directions.datafiles import numbered_rows
from workers.directions.errors import UnfitData
from workers.rules.errors import UnfitExamples
from workers.rules.pool import Exchange

_NO_RULE = "is no rule of the pool"


@dataclass(frozen=True)
class Labelled:
    """A response with what is known of it.

    Attributes:
        messages: the conversation up to it.
        response: the response.
        rules: by id; true or positive keeps, false or negative breaks, None does not matter there.
    """

    messages: Sequence[Message]
    response: str
    rules: dict[str, bool | float | None]


class _ExchangeRow(Strict):
    model_config = ConfigDict(extra="ignore", frozen=True)
    rule: str
    prompt: PromptText
    response: Text
    keeps: bool


class _LabelledRow(PlainResponse):
    model_config = ConfigDict(extra="ignore", frozen=True)
    rules: dict[str, bool | Finite | None] = Field(min_length=1)


def read_exchanges(path: Path, pool: RulePool) -> list[Exchange]:
    """Exchanges of a JSONL file: `rule`, `prompt`, `response`, `keeps`.

    Raises:
        UnfitExamples: naming the line and field that is wrong, never its text.
    """
    known = {rule.id for rule in pool.rules}
    found = []
    try:
        for number, row in numbered_rows(path, _ExchangeRow):
            if row.rule not in known:
                raise UnfitExamples(f"{path}, line {number}: rule: {_NO_RULE}")
            found.append(Exchange(row.rule, row.prompt, row.response, row.keeps))
    except UnfitData as error:
        raise UnfitExamples(str(error)) from error
    return found


def read_labelled(path: Path, pool: RulePool) -> list[Labelled]:
    """Rows of a JSONL file: `prompt`, `response` and `rules`, which says of some rules whether it keeps them.

    `true` or a positive number keeps, `false` or a negative one breaks (within ±1), `null` is a rule that does not
    matter there; of a rule left out nothing is said.

    Raises:
        UnfitExamples: naming the line and field that is wrong, never its text.
    """
    known = {rule.id for rule in pool.rules}
    found = []
    try:
        for number, row in numbered_rows(path, _LabelledRow):
            if unknown := [rule for rule in row.rules if rule not in known]:
                field = f"rules.{unknown[0]}" if re.fullmatch(NAME, unknown[0]) else "rules"
                raise UnfitExamples(f"{path}, line {number}: {field}: {_NO_RULE}")
            found.append(Labelled(row.messages, row.response, row.rules))
    except UnfitData as error:
        raise UnfitExamples(str(error)) from error
    return found
