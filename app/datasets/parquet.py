"""Parquet files row by row, a few at a time."""

from collections.abc import Iterator
from typing import Any, BinaryIO

import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from app.datasets.lines import FileTooLarge, Line, RowRefused, UnreadableFile
from app.schemas.files import RowProblem

_BATCH = 16  # a page of two kilobytes can repeat one long value for every row, so few are unpacked at once
_BUFFER = 1 << 20


def read_parquet(
    file: BinaryIO, *, max_bytes: int, max_line_bytes: int, names: frozenset[str]
) -> Iterator[Line | RowProblem]:
    """The rows of a Parquet file in order, with some of its columns; row 1 is line 1.

    Row groups are not looked into before they are read: pyarrow ends the process over a damaged description of one.

    Args:
        file: seekable.
        max_bytes: how much all rows may take as JSON.
        max_line_bytes: how much one may; a longer one is a problem of that row.
        names: of the columns.

    Raises:
        UnreadableFile: it is damaged, encrypted or of an unknown version.
        FileTooLarge: it unpacks to more than `max_bytes`.
    """
    number = size = 0
    try:
        for columns in _columns(file, names):
            number += 1
            length = 1 if isinstance(columns, RowRefused) else len(orjson.dumps(columns, default=str))
            size += length
            if size > max_bytes:
                raise FileTooLarge(f"the file unpacks to more than {max_bytes} bytes")
            if isinstance(columns, RowRefused):
                yield RowProblem(number, columns.code, columns.detail)
            elif length > max_line_bytes:
                yield RowProblem(number, "line_too_long", f"is longer than {max_line_bytes} bytes")
            else:
                yield Line(number, columns)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise UnreadableFile("the Parquet file is damaged, or of a sort that cannot be read") from error


def _columns(file: BinaryIO, names: frozenset[str]) -> Iterator[dict[str, Any] | RowRefused]:
    with pq.ParquetFile(file, buffer_size=_BUFFER, pre_buffer=False) as table:
        known = [name for name in table.schema_arrow.names if name in names]
        for batch in table.iter_batches(_BATCH, columns=known, use_threads=False):
            yield from _rows(batch)


def _rows(part: pa.RecordBatch) -> list[dict[str, Any] | RowRefused]:
    """Rows as Python values; where one cannot be made, the others are."""
    try:
        return [{name: _text(value) for name, value in row.items()} for row in part.to_pylist()]
    except UnicodeDecodeError:
        refusal = RowRefused("utf8_invalid", "holds text that is not UTF-8")
    except (ValueError, pa.ArrowException):
        refusal = RowRefused("value_invalid", "holds a value that cannot be read")
    if len(part) == 1:
        return [refusal]
    return [row for i in range(len(part)) for row in _rows(part.slice(i, 1))]


def _text(value: Any) -> Any:
    """Text as text, also where its writer did not say that it is."""
    return value.decode() if isinstance(value, bytes) else value
