"""Rows of a job in the artifact store: one JSON line a pair, and where in them each chunk begins.

{place}/rows.jsonl      {"line": 7, "pair": {…}} a line
{place}/chunks.bin      a record of fixed size a chunk, so that one chunk is found without reading the others
{place}/problems.jsonl  a `RowProblem` a line that is not a pair, where the rows came with a file
"""

import struct
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from pydantic import TypeAdapter

from app.artifacts import Artifacts
from app.datasets.rows import Row
from app.jobs.cut import estimated_tokens

ROWS, CHUNKS, PROBLEMS = "rows.jsonl", "chunks.bin", "problems.jsonl"
_RECORD = struct.Struct("<QQQII")
_MOST_ROWS = 1024
_SHARES = 16
"""Of what is left at the end, a chunk is so much; several workers with chunks in hand then end together."""

_LEAST_TOKENS = 1024
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

    The last chunks are smaller and smaller, so that all workers end at about the same time.

    Args:
        artifacts: the store.
        place: folder in it.
        rows: with ascending lines.
        chunk_tokens: estimated tokens of one chunk.
        scratch: a local folder for the files while they grow.
        cost: of a row, from its estimated tokens.
    """
    cutter = _Cutter(chunk_tokens)
    with (scratch / ROWS).open("wb") as out, (scratch / CHUNKS).open("wb") as index:
        for row in rows:
            size = out.write(_ROW.dump_json(row, exclude_none=True) + b"\n")
            cutter.add(size, cost(estimated_tokens(row.pair)), row.line)
            index.writelines(cutter.cut())
        index.writelines(cutter.cut(to_the_end=True))
    for name in (ROWS, CHUNKS):
        artifacts.put(scratch / name, f"{place}/{name}")
        (scratch / name).unlink()
    return StoredRows(cutter.rows, cutter.chunks, cutter.tokens)


class _Cutter:
    """Cuts rows into chunks while they come; holds back as many as the smaller chunks at the end are made of.

    Args:
        most: tokens of a chunk.
    """

    def __init__(self, most: int) -> None:
        self.rows = self.chunks = self.tokens = 0
        self._most = most
        self._held: deque[tuple[int, int, int]] = deque()
        self._held_tokens = self._start = 0

    def add(self, size: int, tokens: int, line: int) -> None:
        """Take a row of so many bytes and tokens."""
        self._held.append((size, tokens, line))
        self._held_tokens += tokens
        self.rows += 1
        self.tokens += tokens

    def cut(self, *, to_the_end: bool = False) -> Iterator[bytes]:
        """Records of the chunks that can be cut now; in the end, of all."""
        while self._held and (to_the_end or self._plenty):
            yield self._next(min(self._most, max(_LEAST_TOKENS, self._held_tokens // _SHARES)))

    @property
    def _plenty(self) -> bool:
        """Whether a whole chunk can be cut, of whatever comes still."""
        chunks = _SHARES + 1
        return self._held_tokens > chunks * self._most or len(self._held) > chunks * _MOST_ROWS

    def _next(self, most: int) -> bytes:
        start, inside, tokens, last = self._start, 0, 0, 0
        while self._held and inside < _MOST_ROWS and (not inside or tokens + self._held[0][1] <= most):
            size, cost, last = self._held.popleft()
            self._start += size
            inside, tokens = inside + 1, tokens + cost
        self._held_tokens -= tokens
        self.chunks += 1
        return _RECORD.pack(start, self._start, last, inside, tokens)


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
