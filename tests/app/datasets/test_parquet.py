"""Parquet files row by row, also hostile ones."""

import gzip
import io
import random
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from app.datasets.lines import FileTooLarge, Line, UnreadableFile
from app.datasets.reading import read_rows
from app.datasets.rows import Row, find_kind, parse
from app.schemas.files import RowProblem

ROOM = 1 << 24
MESSAGES = pa.list_(pa.struct([("role", pa.string()), ("content", pa.string()), ("name", pa.string())]))


def table(rows: list[dict[str, Any]], schema: pa.Schema | None = None) -> pa.Table:
    return pa.Table.from_pylist(rows, schema=schema)


def packed(rows: pa.Table, **options: Any) -> bytes:
    file = io.BytesIO()
    pq.write_table(rows, file, **options)
    return file.getvalue()


def read(tmp_path: Path, content: bytes, max_bytes: int = ROOM, max_line_bytes: int = ROOM) -> list[Line | RowProblem]:
    path = tmp_path / "rows"
    path.write_bytes(content)
    return list(read_rows(path, max_bytes=max_bytes, max_line_bytes=max_line_bytes))


@pytest.mark.parametrize("compression", ["none", "snappy", "zstd", "gzip"])
def test_rows_are_numbered_through_all_row_groups(tmp_path: Path, compression: str) -> None:
    rows = [{"prompt": f"p{i}", "chosen": "c", "rejected": "r"} for i in range(1000)]
    content = packed(table(rows), row_group_size=300, compression=compression)
    assert read(tmp_path, content) == [Line(i + 1, row) for i, row in enumerate(rows)]


def test_a_gzipped_parquet_file_is_read_too(tmp_path: Path) -> None:
    content = gzip.compress(packed(table([{"prompt": "p", "chosen": "c", "rejected": "r"}])))
    assert read(tmp_path, content) == [Line(1, {"prompt": "p", "chosen": "c", "rejected": "r"})]
    with pytest.raises(FileTooLarge):
        read(tmp_path, content, max_bytes=100)


def test_only_the_columns_that_mean_something_are_read(tmp_path: Path) -> None:
    columns = {
        "prompt": ["p"],
        "chosen": ["c"],
        "rejected": ["r"],
        "id": [7],
        "image": [b"\xff" * 1000],
        "x.chosen": [1],
    }
    (line,) = read(tmp_path, packed(pa.table(columns)), max_bytes=500)
    assert line == Line(1, {"prompt": "p", "chosen": "c", "rejected": "r", "id": 7})


def test_rows_without_a_known_column_still_count(tmp_path: Path) -> None:
    lines = read(tmp_path, packed(pa.table({"text": ["a", "b"]})))
    assert lines == [Line(1, {}), Line(2, {})]


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string(), pa.string_view(), pa.binary(), pa.large_binary()])
def test_every_sort_of_text_column_makes_pairs(tmp_path: Path, kind: pa.DataType) -> None:
    schema = pa.schema([(name, kind) for name in ("prompt", "chosen", "rejected")])
    rows = [{"prompt": "Grüß Gott", "chosen": "", "rejected": "r"}]
    lines = read(tmp_path, packed(table(rows, pa.schema([(n, pa.string()) for n in schema.names])).cast(schema)))
    (row,) = parse(lines, "plain")
    assert isinstance(row, Row) and row.pair.prompt == "Grüß Gott" and row.pair.chosen == ""


def test_categories_are_text(tmp_path: Path) -> None:
    columns = {name: pa.array(["x", "y", "x"]).dictionary_encode() for name in ("prompt", "chosen", "rejected")}
    assert [line.columns["prompt"] for line in read(tmp_path, packed(pa.table(columns))) if isinstance(line, Line)] == [
        "x",
        "y",
        "x",
    ]


def test_lists_of_messages_are_read_with_their_empty_fields(tmp_path: Path) -> None:
    def said(text: str) -> list[dict[str, str]]:
        return [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": text}]

    schema = pa.schema([("prompt", MESSAGES), ("chosen", MESSAGES), ("rejected", MESSAGES)])
    rows: list[dict[str, Any]] = [
        {"chosen": said("Hello"), "rejected": said("")},
        {"chosen": said("b"), "rejected": None},
    ]
    lines = read(tmp_path, packed(table(rows, schema)))
    assert find_kind(lines) == "messages"
    first, second = parse(lines, "messages")
    assert isinstance(first, Row) and (first.pair.chosen, first.pair.rejected) == ("Hello", "")
    assert second == RowProblem(2, "list_type", "Input should be a valid list", "/rejected")


def test_text_that_is_not_utf8_is_a_problem_of_its_row(tmp_path: Path) -> None:
    texts = pa.array([b"a", b"\xff", b"b"]).view(pa.string())
    lines = read(tmp_path, packed(pa.table({name: texts for name in ("prompt", "chosen", "rejected")})))
    assert [isinstance(line, Line) for line in lines] == [True, False, True]
    assert lines[1] == RowProblem(2, "utf8_invalid", "holds text that is not UTF-8")


def test_a_row_longer_than_a_line_may_be_is_a_problem(tmp_path: Path) -> None:
    content = packed(pa.table({"prompt": ["a", "b" * 1000, "c"]}))
    lines = read(tmp_path, content, max_line_bytes=100)
    assert lines[1] == RowProblem(2, "line_too_long", "is longer than 100 bytes")
    assert [isinstance(line, Line) for line in lines] == [True, False, True]


def test_a_few_kilobytes_that_unpack_to_gigabytes_are_refused_in_little_memory(tmp_path: Path) -> None:
    long = pa.DictionaryArray.from_arrays(pa.array([0] * 2000), pa.array(["a" * 1_000_000]))
    path = tmp_path / "rows"
    pq.write_table(pa.table({"prompt": long}), path, compression="zstd", store_schema=False)
    assert path.stat().st_size < 20_000
    before = pa.total_allocated_bytes()
    with pytest.raises(FileTooLarge):
        for _ in read_rows(path, max_bytes=50_000_000, max_line_bytes=1000):
            assert pa.total_allocated_bytes() - before < 50_000_000


def test_a_large_row_group_is_never_in_memory_as_a_whole(tmp_path: Path) -> None:
    path = tmp_path / "rows"
    pq.write_table(pa.table({"prompt": [f"{i:0>1000}" for i in range(20_000)]}), path, row_group_size=20_000)
    before = pa.total_allocated_bytes()
    for number, line in enumerate(read_rows(path, max_bytes=1 << 30, max_line_bytes=2000), start=1):
        assert isinstance(line, Line) and line.number == number
        assert pa.total_allocated_bytes() - before < 8_000_000


def test_rows_of_nothing_cost_something(tmp_path: Path) -> None:
    nothing = pa.nulls(100_000, pa.string())
    unreadable = pa.array([b"\xff"] * 100_000).view(pa.string())
    for column in (nothing, unreadable):
        content = packed(pa.table({"id": column}))
        assert len(content) < 2000
        with pytest.raises(FileTooLarge):
            read(tmp_path, content, max_bytes=10_000)


def test_a_damaged_file_is_one_named_error_or_rows(tmp_path: Path) -> None:
    source = random.Random(0)
    rows = [{"prompt": f"p{i}", "chosen": [{"role": "user", "content": f"c{i}", "name": None}]} for i in range(50)]
    whole = packed(table(rows, pa.schema([("prompt", pa.string()), ("chosen", MESSAGES)])))
    for cut in (4, 8, len(whole) // 2, len(whole) - 1):
        with pytest.raises(UnreadableFile, match="Parquet file is damaged"):
            read(tmp_path, whole[:cut])
    with pytest.raises(UnreadableFile):
        read(tmp_path, whole.replace(b"prompt", b"pr\xffmpt"))
    for _ in range(100):
        damaged = bytearray(whole)
        for _ in range(3):
            damaged[source.randrange(4, len(whole))] = source.randrange(256)
        try:
            read(tmp_path, bytes(damaged))
        except UnreadableFile:
            continue
