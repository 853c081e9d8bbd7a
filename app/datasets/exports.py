"""Annotated pairs as rows for trainers and for analysis, and rows as lines of JSON or a Parquet file that stream.

A trainer's row has a prompt of its own and only the responses beside it, as lists of messages, because the prompt of a
pair is a user's turn: both TRL's RewardTrainer and OpenRLHF's RewardDataset (with `--data.prompt_key prompt` and
`--data.apply_chat_template`) join prompt and response and put them into the trained model's chat template. TRL takes
`margin` where the column is there, OpenRLHF with `--model.margin_loss_enable`.
"""

from collections.abc import Iterable, Iterator
from typing import Any, Literal

import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from app.schemas.annotate import Annotation, Provenance
from app.schemas.pairs import Pair

Format = Literal["raw", "trl", "openrlhf"]
Exported = dict[str, Any]

_BLOCK_BYTES = 1 << 16
_GROUP_ROWS = 4096
_GROUP_BYTES = 1 << 25
_PIECE_ROWS = 64


def trainer_row(pair: Pair, annotation: Annotation) -> Exported:
    """`prompt`, `chosen`, `rejected` and `margin`, of formats `trl` and `openrlhf`; texts are lists of messages.

    The annotation's margin is finite; one that the rules call a tie is zero here.
    """
    return {
        "prompt": [message.model_dump() for message in pair.messages],
        "chosen": [{"role": "assistant", "content": pair.chosen}],
        "rejected": [{"role": "assistant", "content": pair.rejected}],
        "margin": margin_of(annotation),
    }


def margin_of(annotation: Annotation) -> float:
    """The margin to train with: zero where the rules call a pair a tie."""
    said = annotation.rules
    tie = said is not None and said.tie is not None and said.margin == annotation.margin
    return 0.0 if tie else annotation.margin


def raw_row(line: int, annotation: Annotation, provenance: Provenance) -> Exported:
    """`line`, `annotation` and `provenance`, of format `raw`: everything that is known, and no text."""
    return {"line": line, "annotation": annotation.model_dump(), "provenance": provenance.model_dump()}


def schema(format: Format) -> pa.Schema:
    """Columns and types of a format in Parquet, the same for every file; tokens' contributions are in JSON alone."""
    return _RAW if format == "raw" else _TRAINER


def json_stream(rows: Iterable[Exported]) -> Iterator[bytes]:
    """Rows as lines of JSON, many at a time: every block that is sent costs a turn of the event loop."""
    block = bytearray()
    for row in rows:
        block += orjson.dumps(row, option=orjson.OPT_APPEND_NEWLINE)
        if len(block) >= _BLOCK_BYTES:
            yield bytes(block)
            block.clear()
    if block:
        yield bytes(block)


def parquet_stream(rows: Iterable[Exported], columns: pa.Schema) -> Iterator[bytes]:
    """Rows as a Parquet file, in blocks as they become ready; memory holds one row group.

    If `rows` raises, the file ends without its footer, so that nobody takes it for whole.
    """
    sink = _Sink()
    with pq.ParquetWriter(sink, columns, compression="zstd") as writer:
        for group in _groups(rows, columns):
            writer.write_table(group)
            yield sink.take()
    yield sink.take()


def _groups(rows: Iterable[Exported], columns: pa.Schema) -> Iterator[pa.Table]:
    pieces: list[pa.RecordBatch] = []
    for piece in _pieces(rows, columns):
        pieces.append(piece)
        full = sum(map(len, pieces)) >= _GROUP_ROWS or sum(part.nbytes for part in pieces) >= _GROUP_BYTES
        if full:
            yield pa.Table.from_batches(pieces)
            pieces = []
    if pieces:
        yield pa.Table.from_batches(pieces)


def _pieces(rows: Iterable[Exported], columns: pa.Schema) -> Iterator[pa.RecordBatch]:
    waiting: list[Exported] = []
    for row in rows:
        waiting.append(row)
        if len(waiting) == _PIECE_ROWS:
            yield pa.RecordBatch.from_pylist(waiting, schema=columns)
            waiting = []
    if waiting:
        yield pa.RecordBatch.from_pylist(waiting, schema=columns)


class _Sink:
    """A file that only grows and forgets what was taken from it."""

    closed = False

    def __init__(self) -> None:
        self._blocks: list[bytes] = []
        self._size = 0

    def write(self, block: Any) -> int:
        self._blocks.append(bytes(block))
        self._size += len(self._blocks[-1])
        return len(self._blocks[-1])

    def tell(self) -> int:
        return self._size

    def flush(self) -> None:
        """Nothing is held back."""

    def close(self) -> None:
        self.closed = True

    def take(self) -> bytes:
        taken = b"".join(self._blocks)
        self._blocks.clear()
        return taken


def _always(name: str, kind: pa.DataType) -> pa.Field:
    return pa.field(name, kind, nullable=False)


def _struct(*fields: pa.Field) -> pa.DataType:
    return pa.struct(list(fields))


_MARGIN = _always("margin", pa.float64())
_MESSAGES = pa.list_(_struct(_always("role", pa.string()), _always("content", pa.string())))
_TRAINER = pa.schema([_always(name, _MESSAGES) for name in ("prompt", "chosen", "rejected")] + [_MARGIN])
_SAID = (
    _MARGIN,
    _always("probability", pa.float64()),
    pa.field("level", pa.int64()),
    _always("label_conflict", pa.bool_()),
    _always("raw", _struct(*(_always(name, pa.float64()) for name in ("margin", "chosen", "rejected")))),
)
_CRITICAL = _struct(
    *(_always(name, pa.string()) for name in ("rule", "category", "text")),
    *(_always(name, pa.float64()) for name in ("chosen", "rejected", "relevance", "contribution")),
)
_VERDICT = _struct(
    _MARGIN,
    _always("preferred", pa.string()),
    pa.field("tie", pa.string()),
    _always("critical", pa.list_(_CRITICAL)),
    _always("rest", pa.float64()),
)
_ANNOTATION = _struct(
    *_SAID,
    _always("id", pa.string()),
    _always("truncated", pa.bool_()),
    _always("tokens", _struct(*(_always(name, pa.int64()) for name in ("prompt", "chosen", "rejected")))),
    pa.field("directions", pa.map_(pa.string(), _struct(*_SAID))),
    pa.field("rules", _VERDICT),
)
_JUDGED_BY = _struct(
    *(_always(name, pa.string()) for name in ("pool", "pool_digest", "rater")),
    *(pa.field(name, pa.string()) for name in ("bank", "bank_digest")),
    _always("policy", pa.string()),
    _always("k", pa.int64()),
    _always("band", pa.float64()),
    *(pa.field(name, pa.string()) for name in ("adapter", "adapter_digest")),
    _always("calibrated", pa.bool_()),
    _always("rules", pa.int64()),
)
_MADE_BY = (
    *(_always(name, pa.string()) for name in ("method", "model", "model_revision", "template")),
    *(pa.field(name, pa.string()) for name in ("direction", "direction_digest")),
    pa.field("alignment", _struct(*(_always(name, pa.string()) for name in ("id", "digest")))),
    pa.field("reward_model", _struct(*(_always(name, pa.string()) for name in ("id", "digest")))),
    _always("calibrated", pa.bool_()),
    _always("unreliable", pa.bool_()),
    _always("layers", pa.list_(pa.int64())),
    *(_always(name, pa.string()) for name in ("pooling", "dtype", "version")),
    pa.field("rules", _JUDGED_BY),
)
_RAW = pa.schema(
    [
        _always("line", pa.int64()),
        _always("annotation", _ANNOTATION),
        _always("provenance", _struct(*_MADE_BY, pa.field("others", pa.list_(_struct(*_MADE_BY))))),
    ]
)
