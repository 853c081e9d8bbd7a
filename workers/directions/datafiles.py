"""Rows from a user's own JSONL files, faults named by line and field."""

from collections.abc import Iterator
from pathlib import Path
from typing import TypeVar

import orjson
from pydantic import BaseModel, ConfigDict, ValidationError

from app.schemas.fit import LabelledResponse, PlainResponse
from app.schemas.pairs import Message, Pair, Prompt, as_messages
from app.schemas.problem import said
from workers.directions.errors import UnfitData

_IGNORING = ConfigDict(extra="ignore", frozen=True)
Row = TypeVar("Row", bound=BaseModel)


class FilePair(Pair):
    """A pair in a file, which may have further columns."""

    model_config = _IGNORING


class FileLabelled(LabelledResponse):
    """A labelled response in a file, which may have further columns."""

    model_config = _IGNORING


class FileResponse(PlainResponse):
    """A response in a file, which may have further columns."""

    model_config = _IGNORING


class FilePrompt(BaseModel):
    """A prompt in a file, which may have further columns."""

    model_config = _IGNORING

    prompt: Prompt

    @property
    def messages(self) -> list[Message]:
        """The prompt as a conversation."""
        return as_messages(self.prompt)


def read_pairs(path: Path) -> list[Pair]:
    """Pairs of a JSONL file: `prompt`, `chosen`, `rejected`.

    Raises:
        UnfitData: naming the line and field that is wrong, never its text.
    """
    return list(read_rows(path, FilePair))


def read_rows(path: Path, kind: type[Row]) -> list[Row]:
    """Rows of one kind from a JSONL file.

    Raises:
        UnfitData: naming the line and field that is wrong, never its text.
    """
    return [row for _number, row in numbered_rows(path, kind)]


def numbered_rows(path: Path, kind: type[Row]) -> Iterator[tuple[int, Row]]:
    """Rows of one kind from a JSONL file, each with the number of its line, from 1.

    Raises:
        UnfitData: naming the line and field that is wrong, never its text.
    """
    try:
        lines = path.read_bytes().splitlines()
    except OSError as error:
        raise UnfitData(f"{path} cannot be read: {error.strerror}") from error
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            yield number, kind.model_validate(orjson.loads(line))
        except orjson.JSONDecodeError as error:
            raise UnfitData(f"{path}, line {number}: not JSON") from error
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"])) or "the row"
            raise UnfitData(f"{path}, line {number}: {where}: {said(first)}") from error
