"""Answers that are read while they come, and read on from where they were cut off; no input or output happens here."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO, Literal

import httpx
import orjson

from app.client.plans import job_path
from app.client.retries import Call, Retries

Format = Literal["raw", "trl", "openrlhf"]
_PARQUET_MAGIC = b"PAR1"


@dataclass(frozen=True, slots=True)
class ResultLine:
    """One annotated row.

    Attributes:
        line: its line in the uploaded file; the first is 1.
        provenance: what made its numbers.
        row: the row in the format asked for.
    """

    line: int
    provenance: dict[str, Any]
    row: dict[str, Any]


@dataclass
class Results:
    """Rows of a job behind a line. Only `raw` rows say which line they are, so other formats are read beside them."""

    job_id: str
    cursor: int
    format: Format
    retries: Retries

    def calls(self) -> list[Call]:
        """The streams to read side by side, from where the last ones ended."""
        formats = ["raw"] if self.format == "raw" else ["raw", self.format]
        path, start = f"{job_path(self.job_id)}/results", {"cursor": self.cursor}
        return [Call("GET", path, {**start, "format": name, "type": "jsonl"}) for name in formats]

    def take(self, texts: tuple[bytes, ...]) -> Iterator[ResultLine]:
        """The row that lines of all streams hold, unless it was read before."""
        raw = _row(texts[0])
        if raw["line"] > self.cursor:
            self.cursor = raw["line"]
            self.retries.progressed()
            row = raw if len(texts) == 1 else orjson.loads(texts[1])
            yield ResultLine(raw["line"], raw.get("provenance", {}), row)


@dataclass
class Errors:
    """Rows of a job behind a line that could not be annotated."""

    job_id: str
    cursor: int
    retries: Retries

    def calls(self) -> list[Call]:
        """The stream to read, from where the last one ended."""
        return [Call("GET", f"{job_path(self.job_id)}/errors", {"cursor": self.cursor})]

    def take(self, texts: tuple[bytes, ...]) -> Iterator[dict[str, Any]]:
        """The row that a line holds, unless it was read before."""
        row = _row(texts[0])
        if row["line"] > self.cursor:
            self.cursor = row["line"]
            self.retries.progressed()
            yield row


@dataclass
class Parquet:
    """All rows of a job as one Parquet file, written anew whenever the connection breaks."""

    job_id: str
    format: Format
    to: BinaryIO
    retries: Retries
    _end: bytes = b""

    def call(self) -> Call:
        """The file to read."""
        return Call("GET", f"{job_path(self.job_id)}/results", {"format": self.format, "type": "parquet"})

    def begin(self) -> None:
        """Forget what was written."""
        self.to.seek(0)
        self.to.truncate()

    def take(self, piece: bytes) -> None:
        """Write a piece."""
        self.to.write(piece)
        self._end = (self._end + piece)[-len(_PARQUET_MAGIC) :]

    def close(self) -> None:
        """Check that it is whole.

        Raises:
            httpx.RemoteProtocolError: it is not.
        """
        if self._end != _PARQUET_MAGIC:
            raise httpx.RemoteProtocolError("the file was cut off")


class Splitter:
    """Cuts pieces of a stream into lines at newlines alone: JSON text may hold other line separators."""

    def __init__(self) -> None:
        self._rest = bytearray()

    def feed(self, piece: bytes) -> list[bytes]:
        """Lines that are complete now, without their newlines."""
        self._rest += piece
        end = self._rest.rfind(b"\n", len(self._rest) - len(piece)) + 1
        lines = bytes(self._rest[:end]).split(b"\n")[:-1]
        del self._rest[:end]
        return lines

    def close(self) -> None:
        """Check that nothing is left.

        Raises:
            httpx.RemoteProtocolError: the last line has no newline, so it was cut off.
        """
        if self._rest:
            raise httpx.RemoteProtocolError("the last line was cut off")


def _row(text: bytes) -> dict[str, Any]:
    try:
        row = orjson.loads(text)
        if isinstance(row["line"], int):
            return dict(row)
    except (ValueError, KeyError, TypeError):
        pass
    raise httpx.DecodingError("a line of the answer is no row of a job")
