"""Rows of data sets as pairs.

A file is of one kind, which its first row with known columns decides:

    plain      `prompt` (text or messages), `chosen`, `rejected`
    dialogues  `chosen`, `rejected`: two whole dialogues of HH-RLHF, which share all but the last turn
    messages   `chosen`, `rejected` as lists of messages, with `prompt` (TRL's explicit prompt) or without (implicit);
               or OpenAI's `input`, `preferred_output`, `non_preferred_output`

Further columns are ignored, `id` or `custom_id` names the pair, and `margin` is kept for those who train with it.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, Field, Tag, ValidationError

from app.datasets.dialogues import split_dialogues
from app.datasets.lines import Line, RowRefused
from app.schemas.files import RowProblem
from app.schemas.pairs import BY_PROMPT_KIND, PROMPT_KINDS, Pair, Role, Text

Kind = Literal["plain", "dialogues", "messages"]
Columns = Mapping[str, Any]

COLUMNS = frozenset(
    {"id", "custom_id", "prompt", "chosen", "rejected", "input", "preferred_output", "non_preferred_output", "margin"}
)
"""All columns that mean something."""

_Path = Sequence[str | int]
_Place = Callable[[_Path], str]
_Model = TypeVar("_Model", bound=BaseModel)


@dataclass(frozen=True, slots=True)
class Row:
    """A pair and the line that it stands on, from 1.

    Attributes:
        margin: what the column of that name says; None where it is no finite number.
    """

    line: int
    pair: Pair
    margin: float | None = None


def find_kind(lines: Iterable[Line | RowProblem]) -> Kind | None:
    """The kind of a file, as its first line with known columns says; None if there is no such line."""
    kinds = (_kind(line.columns) for line in lines if isinstance(line, Line))
    return next((kind for kind in kinds if kind), None)


def parse(lines: Iterable[Line | RowProblem], kind: Kind | None) -> Iterator[Row | RowProblem]:
    """Every line as a pair or as what is wrong with it, in order; of no kind, none is a pair."""
    for line in lines:
        if isinstance(line, RowProblem):
            yield line
            continue
        try:
            yield Row(line.number, to_pair(line.columns, kind), _margin(line.columns))
        except RowRefused as refusal:
            yield RowProblem(line.number, refusal.code, refusal.detail, refusal.pointer)


def to_pair(columns: Columns, kind: Kind | None) -> Pair:
    """The pair that the columns of a row stand for.

    Raises:
        RowRefused: they are not of this kind, or do not make a pair.
    """
    if kind is None:
        raise RowRefused("unknown_format", "has no known columns: prompt, chosen and rejected, say")
    fields, place = _SPLITS[kind](columns)
    name = "id" if columns.get("id") is not None else "custom_id"
    identifier = columns.get(name)
    if type(identifier) is int:  # many data sets count their rows
        identifier = str(identifier)
    return _checked(Pair, {"id": identifier, **fields}, lambda path: f"/{name}" if path[0] == "id" else place(path))


def _margin(columns: Columns) -> float | None:
    found = columns.get("margin")
    if isinstance(found, bool) or not isinstance(found, int | float):
        return None
    return float(found) if math.isfinite(found) else None


def _kind(columns: Columns) -> Kind | None:
    if all(columns.get(name) is not None for name in ("input", "preferred_output", "non_preferred_output")):
        return "messages"
    sides = [columns.get("chosen"), columns.get("rejected")]
    if all(isinstance(side, list) for side in sides):
        return "messages"
    if all(isinstance(side, str) for side in sides):
        return "dialogues" if columns.get("prompt") is None else "plain"
    return None


class _Turn(BaseModel):
    """A message as it counts here: names, weights and columns that Parquet fills with null are ignored."""

    role: Role
    content: Text


_MOST_TURNS = 1001
_Turns = Annotated[list[_Turn], Field(min_length=1, max_length=_MOST_TURNS, fail_fast=True)]
_Prompt = Annotated[Annotated[Text, Tag("text")] | Annotated[_Turns, Tag("conversation")], BY_PROMPT_KIND]


class _Plain(BaseModel):
    prompt: _Prompt
    chosen: Text
    rejected: Text


class _Dialogues(BaseModel):
    chosen: Text
    rejected: Text


class _Sides(BaseModel):
    prompt: _Prompt = Field(default_factory=list)
    chosen: _Turns
    rejected: _Turns


class _Input(BaseModel):
    messages: _Turns


class _Preference(BaseModel):
    input: _Input
    preferred_output: _Turns
    non_preferred_output: _Turns


def _plain(columns: Columns) -> tuple[dict[str, Any], _Place]:
    return _checked(_Plain, columns).model_dump(), _pointer


def _dialogues(columns: Columns) -> tuple[dict[str, Any], _Place]:
    row = _checked(_Dialogues, columns)
    prompt, chosen, rejected = split_dialogues(row.chosen, row.rejected)
    fields = {"prompt": [turn._asdict() for turn in prompt], "chosen": chosen, "rejected": rejected}
    return fields, lambda path: "/rejected" if path[0] == "rejected" else "/chosen"


def _messages(columns: Columns) -> tuple[dict[str, Any], _Place]:
    if columns.get("preferred_output") is not None:
        preference = _checked(_Preference, columns)
        names = ("/input/messages", "/preferred_output", "/non_preferred_output")
        prompt, sides = preference.input.messages, (preference.preferred_output, preference.non_preferred_output)
    else:
        given = {name: value for name, value in columns.items() if name != "prompt" or value is not None}
        row = _checked(_Sides, given)
        names = ("/prompt", "/chosen", "/rejected")
        prompt = [_Turn(role="user", content=row.prompt)] if isinstance(row.prompt, str) else row.prompt
        sides = (row.chosen, row.rejected)
    chosen, rejected = (_dialogue(prompt, side, name) for side, name in zip(sides, names[1:], strict=True))
    if chosen[:-1] != rejected[:-1]:
        raise RowRefused("different_prompts", "the sides differ before their last messages", names[2])
    fields = {
        "prompt": [turn.model_dump() for turn in chosen[:-1]],
        "chosen": chosen[-1].content,
        "rejected": rejected[-1].content,
    }
    return fields, _place_of_messages(names, len(prompt), isinstance(columns.get("prompt"), str))


def _dialogue(prompt: list[_Turn], side: list[_Turn], pointer: str) -> list[_Turn]:
    """A side with its prompt, whether it repeats it (as UltraFeedback does) or goes on from it."""
    if side[-1].role != "assistant":
        raise RowRefused("no_response", "must end with an assistant message", pointer)
    if prompt and side[: len(prompt)] == prompt:
        return side
    if prompt and side[0].role != "assistant":
        raise RowRefused("different_prompts", "must go on from the prompt, or begin with it", pointer)
    return prompt + side


def _place_of_messages(names: tuple[str, str, str], prompt_turns: int, prompt_is_text: bool) -> _Place:
    """Where in the row the parts of the pair came from: the prompt from its own column as far as there is one."""

    def place(path: _Path) -> str:
        if path[0] != "prompt":
            return names[1 if path[0] == "chosen" else 2]
        turn = next((part for part in path if isinstance(part, int)), None)
        if turn is None or (turn < prompt_turns and prompt_is_text):
            return names[0] if prompt_turns else names[1]
        if turn < prompt_turns:
            return names[0] + _pointer(path[1:])
        return names[1]

    return place


_SPLITS: dict[Kind, Callable[[Columns], tuple[dict[str, Any], _Place]]] = {
    "plain": _plain,
    "dialogues": _dialogues,
    "messages": _messages,
}


def _pointer(path: _Path) -> str:
    """A location of pydantic's without the tags of unions; its names are those of the models, never the user's."""
    return "".join(f"/{part}" for part in path if part not in PROMPT_KINDS)


def _checked(model: type[_Model], values: Columns, place: _Place = _pointer) -> _Model:
    try:
        return model.model_validate(values)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        code = "missing_field" if first["type"] == "missing" else first["type"]
        raise RowRefused(code, first["msg"].removeprefix("Value error, "), place(first["loc"])) from None
