"""Annotated files as pairs with what is known of their margins.

trl, openrlhf    a pair and its `margin`
raw              `line`, `annotation` and `provenance`, no text: the pairs are those lines of the annotated file
anything else    a pair as `app.datasets.rows` knows it, perhaps with a `margin`, perhaps with a `subset`
"""

import hashlib
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from app.datasets.exports import margin_of
from app.datasets.lines import Line, UnreadableFile
from app.datasets.reading import read_rows
from app.datasets.rows import COLUMNS, Row, find_kind, parse
from app.schemas.annotate import Annotation
from app.schemas.files import RowProblem
from app.schemas.pairs import Pair
from workers.rewards.errors import UnfitRows

_RAW = frozenset({"line", "annotation", "provenance"})
_SUBSET = "subset"
_MOST_BYTES, _MOST_LINE_BYTES = 1 << 40, 16 << 20


@dataclass(frozen=True, slots=True)
class Annotated:
    """A pair with what an annotation says of it.

    Attributes:
        line: where it stands in its file, from 1.
        pair: the pair.
        margin: log-odds, or the raw margin, that the chosen response is the safer one; None where there is none.
        level: the margin in steps; None where there is none.
        subset: the part of a benchmark that it belongs to.
    """

    line: int
    pair: Pair
    margin: float | None = None
    level: int | None = None
    subset: str | None = None


@dataclass(frozen=True)
class AnnotatedFile:
    """The pairs of a file.

    Attributes:
        name: of the file.
        pairs: in order.
        calibrated: whether all margins are log-odds; None where the rows do not say.
    """

    name: str
    pairs: list[Annotated]
    calibrated: bool | None = None

    @property
    def digest(self) -> str:
        """`sha256:` digest of pairs, margins and levels in their order; ids, lines and subsets left out."""
        return digest_of(self.pairs)


def digest_of(pairs: Iterable[Annotated]) -> str:
    """As `AnnotatedFile.digest`."""
    content = hashlib.sha256()
    for one in pairs:
        content.update(one.pair.model_dump_json(exclude={"id"}).encode())
        content.update(f"\t{one.margin!r}\t{one.level!r}\n".encode())
    return "sha256:" + content.hexdigest()


def read_annotated(path: Path, pairs: Path | None = None) -> AnnotatedFile:
    """Read a file, JSONL or Parquet, gzipped or not.

    Args:
        path: the file.
        pairs: for rows of format `raw`, the file that was annotated.

    Raises:
        UnfitRows: it cannot be read, a row is no pair, or there is none; names the line, never its text.
    """
    first = next(_lines(path, COLUMNS | _RAW), None)
    raw = isinstance(first, Line) and isinstance(first.columns.get("annotation"), dict)
    if raw and pairs is None:
        raise UnfitRows(f"{path.name} is of format raw, which has no texts: name the file that was annotated, too")
    if not raw and pairs is not None:
        raise UnfitRows(f"{path.name} is not of format raw, and needs no other file for its texts")
    found = _joined(path, pairs) if pairs is not None else AnnotatedFile(path.name, list(_with_margins(path)))
    if not found.pairs:
        raise UnfitRows(f"{path.name} has no rows")
    return found


def _lines(path: Path, columns: frozenset[str] = COLUMNS) -> Iterator[Line | RowProblem]:
    try:
        yield from read_rows(path, max_bytes=_MOST_BYTES, max_line_bytes=_MOST_LINE_BYTES, columns=columns)
    except UnreadableFile as error:
        raise UnfitRows(f"{path.name}: {error}") from error
    except OSError as error:
        raise UnfitRows(f"{path} cannot be read: {error.strerror}") from error


def _rows(path: Path, lines: Iterable[Line | RowProblem]) -> Iterator[Row]:
    for row in parse(lines, find_kind(_lines(path))):
        if isinstance(row, RowProblem):
            raise UnfitRows(f"{path.name}, line {row.line}: {row.pointer or 'the row'}: {row.detail}")
        yield row


def _with_margins(path: Path) -> Iterator[Annotated]:
    subsets: dict[int, str] = {}

    def noted() -> Iterator[Line | RowProblem]:
        for line in _lines(path, COLUMNS | {_SUBSET}):
            if isinstance(line, Line) and isinstance(subset := line.columns.get(_SUBSET), str):
                subsets[line.number] = subset
            if isinstance(line, Line) and _is_odd(line.columns.get("margin")):
                raise UnfitRows(f"{path.name}, line {line.number}: /margin: must be a finite number")
            yield line

    for row in _rows(path, noted()):
        yield Annotated(row.line, row.pair, row.margin, subset=subsets.pop(row.line, None))


def _is_odd(margin: object) -> bool:
    is_number = isinstance(margin, int | float) and not isinstance(margin, bool)
    return margin is not None and not (is_number and math.isfinite(float(str(margin))))


class _MadeBy(BaseModel):
    model_config = ConfigDict(extra="ignore")

    calibrated: bool


class _Raw(BaseModel):
    model_config = ConfigDict(extra="ignore")

    line: int
    annotation: Annotation
    provenance: _MadeBy


def _joined(path: Path, pairs: Path) -> AnnotatedFile:
    said, calibrated = {}, True
    for line in _lines(path, _RAW):
        if isinstance(line, RowProblem):
            raise UnfitRows(f"{path.name}, line {line.line}: {line.detail}")
        try:
            row = _Raw.model_validate(line.columns)
        except ValidationError as error:
            first = error.errors(include_input=False)[0]
            where = "/".join(map(str, first["loc"]))
            raise UnfitRows(f"{path.name}, line {line.number}: /{where}: {first['msg']}") from None
        said[row.line] = row.annotation
        calibrated = calibrated and row.provenance.calibrated
    wanted = (line for line in _lines(pairs) if isinstance(line, Line) and line.number in said)
    found = [
        Annotated(row.line, row.pair, margin_of(said[row.line]), said[row.line].level) for row in _rows(pairs, wanted)
    ]
    if missing := sorted(said.keys() - {one.line for one in found}):
        raise UnfitRows(f"{pairs.name} has no pair on line {missing[0]}, which {path.name} has an annotation of")
    return AnnotatedFile(path.name, found, calibrated)
