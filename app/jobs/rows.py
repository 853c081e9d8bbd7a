"""Rows of a job in the artifact store: one JSON line a pair, and where in them each chunk begins.

{place}/rows.jsonl      {"line": 7, "pair": {…}} a line
{place}/chunks.bin      a record of fixed size a chunk, so that one chunk is found without reading the others
{place}/problems.jsonl  a `RowProblem` a line that is not a pair, where the rows came with a file
"""

import struct
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from pydantic import TypeAdapter

from app.artifacts import Artifacts
from app.datasets.rows import Row
from app.jobs.cut import estimated_tokens

ROWS, CHUNKS, PROBLEMS = "rows.jsonl", "chunks.bin", "problems.jsonl"
_RECORD = struct.Struct("<QQQII")
_MOST_ROWS = 1024
_ROW = TypeAdapter(Row)


@dataclass(frozen=True)
class ChunkPlace:
    """Where a chunk lies.

    Attributes:
        start, stop: bytes of `rows.jsonl`.
        last_line: line of its last row.
        rows, tokens: how many, the tokens estimated.
    """

    start: int
    stop: int
    last_line: int
    rows: int
    tokens: int


@dataclass(frozen=True)
class StoredRows:
    """How many rows were stored, in how many chunks, of how many estimated tokens."""

    rows: int
    chunks: int
    tokens: int


def store_rows(
    artifacts: Artifacts,
    place: str,
    rows: Iterable[Row],
    chunk_tokens: int,
    scratch: Path,
    *,
    cost: Callable[[int], int] = lambda estimated: estimated,
) -> StoredRows:
    """Cut rows into chunks of at most `chunk_tokens` (or one row) and store them, in constant memory.

    Args:
        artifacts: the store.
        place: folder in it.
        rows: with ascending lines.
        chunk_tokens: estimated tokens of one chunk.
        scratch: a local folder for the files while they grow.
        cost: of a row, from its estimated tokens.
    """
    count = chunks = total = start = stop = inside = tokens = last = 0
    with (scratch / ROWS).open("wb") as out, (scratch / CHUNKS).open("wb") as index:

        def close() -> None:
            nonlocal start, inside, tokens, chunks
            index.write(_RECORD.pack(start, stop, last, inside, tokens))
            start, inside, tokens, chunks = stop, 0, 0, chunks + 1

        for row in rows:
            own = cost(estimated_tokens(row.pair))
            if inside and (tokens + own > chunk_tokens or inside == _MOST_ROWS):
                close()
            stop += out.write(_ROW.dump_json(row, exclude_none=True) + b"\n")
            count, inside, tokens, total, last = count + 1, inside + 1, tokens + own, total + own, row.line
        if inside:
            close()
    for name in (ROWS, CHUNKS):
        artifacts.put(scratch / name, f"{place}/{name}")
        (scratch / name).unlink()
    return StoredRows(count, chunks, total)


def chunk_place(artifacts: Artifacts, place: str, number: int) -> ChunkPlace:
    """Where one chunk lies."""
    start = number * _RECORD.size
    return ChunkPlace(*_RECORD.unpack(artifacts.read(f"{place}/{CHUNKS}", start, start + _RECORD.size)))


def chunk_places(artifacts: Artifacts, place: str) -> list[ChunkPlace]:
    """Where all chunks lie."""
    return [ChunkPlace(*record) for record in _RECORD.iter_unpack(artifacts.read(f"{place}/{CHUNKS}"))]


def read_chunk(artifacts: Artifacts, place: str, chunk: ChunkPlace) -> list[Row]:
    """The rows of a chunk."""
    lines = artifacts.read(f"{place}/{ROWS}", chunk.start, chunk.stop).splitlines()
    return [_ROW.validate_json(line) for line in lines]
