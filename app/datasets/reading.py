"""Files of data sets, line by line in constant memory: JSONL or Parquet, perhaps gzipped, told by their content."""

import gzip
import tempfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import orjson

from app.datasets.lines import FileTooLarge, Line, UnreadableFile
from app.datasets.parquet import read_parquet
from app.datasets.rows import COLUMNS
from app.schemas.files import RowProblem

_GZIP, _PARQUET, _BYTE_ORDER_MARK = b"\x1f\x8b", b"PAR1", b"\xef\xbb\xbf"
_BLOCK = 1 << 16


def read_rows(
    path: Path, *, max_bytes: int, max_line_bytes: int, columns: frozenset[str] = COLUMNS
) -> Iterator[Line | RowProblem]:
    """The objects of a file in order, and in their places the lines that hold none; blank lines only count.

    Args:
        path: a file on disk.
        max_bytes: how much the file may unpack to.
        max_line_bytes: a longer line is a problem of that line, and is never held in memory.
        columns: those of a Parquet file that are read.

    Raises:
        UnreadableFile: it is damaged or cut off.
        FileTooLarge: it unpacks to more than `max_bytes`.
    """
    with path.open("rb") as file:
        if _beginning(file)[:2] != _GZIP:
            yield from _rows(file, max_bytes, max_line_bytes, columns)
            return
        try:
            with gzip.GzipFile(fileobj=file) as unpacked:
                if _beginning(unpacked) == _PARQUET:
                    with tempfile.TemporaryFile() as spool:  # Parquet is read from its end
                        _spool(unpacked, spool, max_bytes)
                        yield from _rows(spool, max_bytes, max_line_bytes, columns)
                else:
                    yield from _rows(unpacked, max_bytes, max_line_bytes, columns)
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise UnreadableFile("the gzip file is damaged or cut off") from error


def _beginning(file: BinaryIO | gzip.GzipFile) -> bytes:
    start = file.read(len(_PARQUET))
    file.seek(0)
    return start


def _spool(unpacked: gzip.GzipFile, spool: BinaryIO, max_bytes: int) -> None:
    while block := unpacked.read(_BLOCK):
        if spool.tell() + len(block) > max_bytes:
            raise FileTooLarge(f"the file unpacks to more than {max_bytes} bytes")
        spool.write(block)
    spool.seek(0)


def _rows(
    file: BinaryIO | gzip.GzipFile, max_bytes: int, max_line_bytes: int, columns: frozenset[str]
) -> Iterator[Line | RowProblem]:
    if _beginning(file) == _PARQUET:
        assert not isinstance(file, gzip.GzipFile)
        return read_parquet(file, max_bytes=max_bytes, max_line_bytes=max_line_bytes, names=columns)
    return _read_lines(file, max_bytes, max_line_bytes)


def _read_lines(file: BinaryIO | gzip.GzipFile, max_bytes: int, max_line_bytes: int) -> Iterator[Line | RowProblem]:
    number = size = 0
    while line := file.readline(max_line_bytes + 1):
        number += 1
        size += len(line)
        too_long = len(line) > max_line_bytes and not line.endswith(b"\n")
        rest = line
        while too_long and not rest.endswith(b"\n") and size <= max_bytes:
            rest = file.readline(_BLOCK)
            if not rest:
                break
            size += len(rest)
        if size > max_bytes:
            raise FileTooLarge(f"the file unpacks to more than {max_bytes} bytes")
        if too_long:
            yield RowProblem(number, "line_too_long", f"is longer than {max_line_bytes} bytes")
        elif number == 1:
            yield from _parsed(number, line.removeprefix(_BYTE_ORDER_MARK))
        else:
            yield from _parsed(number, line)


def _parsed(number: int, line: bytes) -> Iterator[Line | RowProblem]:
    if not line.strip():
        return
    try:
        columns = orjson.loads(line)
    except orjson.JSONDecodeError as error:
        yield _not_json(number, line, error.pos)
        return
    if isinstance(columns, dict):
        yield Line(number, columns)
    else:
        yield RowProblem(number, "not_an_object", "is JSON, but not an object with columns")


def _not_json(number: int, line: bytes, position: int) -> RowProblem:
    try:
        line.decode()
    except UnicodeDecodeError as error:
        return RowProblem(number, "utf8_invalid", f"is not UTF-8 at byte {error.start + 1}")
    return RowProblem(number, "json_invalid", f"is not JSON at character {position + 1}")
