"""Uploaded files of preference pairs as users see them."""

from dataclasses import dataclass
from typing import Literal

from pydantic import BaseModel, Field

FileFormat = Literal["plain", "dialogues", "messages"]


@dataclass(frozen=True, slots=True)
class RowProblem:
    """What is wrong with one line of a file; never its text.

    Attributes:
        line: of the file, or row of a Parquet file; the first is 1.
        code: stable name of the problem.
        detail: for people.
        pointer: JSON pointer to the field in the row, empty for the whole row.
    """

    line: int
    code: str
    detail: str
    pointer: str = ""


class File(BaseModel):
    """A file that jobs can annotate."""

    id: str
    name: str | None = Field(default=None, description="What the file was called where it came from.")
    format: FileFormat = Field(description="How its rows say prompt, chosen and rejected.")
    rows: int
    bad_rows: int = Field(description="Rows that cannot be annotated; a job lists them among its errors.")
    tokens: int = Field(description="Estimated tokens of all rows.")
    bytes: int
    created_at: float = Field(description="Unix time in seconds.")
    expires_at: float = Field(description="Unix time after which the file is gone.")
    problems: list[RowProblem] = Field(default_factory=list, description="The first bad rows.")


class FileList(BaseModel):
    """Files, the newest first."""

    data: list[File]
    has_more: bool = Field(description="Whether there are older ones: ask again with `after`, the last id of these.")
