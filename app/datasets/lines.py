"""What a data set's file holds, before anything is known of its columns; and what can be wrong with it.

UnreadableFile       the file as a whole cannot be read
└── FileTooLarge     it unpacks to more than is allowed
RowRefused           one row is not a pair
"""

from dataclasses import dataclass
from typing import Any


class UnreadableFile(Exception):
    """The file is damaged, or not what it says it is; the message is for the user."""


class FileTooLarge(UnreadableFile):
    """The file unpacks to more bytes than allowed."""


class RowRefused(Exception):
    """A row that is not a pair.

    Attributes:
        code: stable name of the problem.
        detail: for people; never text of the row.
        pointer: JSON pointer to the field, empty for the whole row.
    """

    def __init__(self, code: str, detail: str, pointer: str = "") -> None:
        super().__init__(detail)
        self.code = code
        self.detail = detail
        self.pointer = pointer


@dataclass(frozen=True, slots=True)
class Line:
    """An object in a file.

    Attributes:
        number: its line, from 1; in Parquet its row, from 1.
        columns: its fields by name.
    """

    number: int
    columns: dict[str, Any]
