"""Files of data sets line by line, whatever they hold."""

import gzip
import random
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import orjson
import pytest

from app.datasets.lines import FileTooLarge, Line, UnreadableFile
from app.datasets.reading import read_rows
from app.datasets.rows import parse
from app.schemas.files import RowProblem

ROOM = 1 << 20
Write = Callable[[bytes], Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def write(content: bytes) -> Path:
        path = tmp_path / "rows"
        path.write_bytes(content)
        return path

    return write


def read(path: Path, max_bytes: int = ROOM, max_line_bytes: int = ROOM) -> list[Line | RowProblem]:
    return list(read_rows(path, max_bytes=max_bytes, max_line_bytes=max_line_bytes))


def codes(path: Path, max_bytes: int = ROOM, max_line_bytes: int = ROOM) -> list[tuple[int, str]]:
    lines = read(path, max_bytes, max_line_bytes)
    return [(line.line, line.code) if isinstance(line, RowProblem) else (line.number, "") for line in lines]


@pytest.mark.parametrize("pack", [bytes, gzip.compress], ids=["plain", "gzip"])
def test_lines_are_read_in_order_and_blank_ones_only_count(write: Write, pack: Callable[[bytes], bytes]) -> None:
    content = b'\xef\xbb\xbf{"a": 1}\n\n  \r\n{"a": "\xe2\x80\xa8"}\r\n{"a": 3}'
    assert read(write(pack(content))) == [Line(1, {"a": 1}), Line(4, {"a": "\u2028"}), Line(5, {"a": 3})]


def test_a_gzip_file_of_several_members_is_read_to_its_end(write: Write) -> None:
    assert codes(write(gzip.compress(b'{"a":') + gzip.compress(b"1}\n{}"))) == [(1, ""), (2, "")]


def test_an_empty_file_has_no_lines(write: Write) -> None:
    assert read(write(b"")) == []
    assert read(write(gzip.compress(b""))) == []


@pytest.mark.parametrize(
    ("line", "code"),
    [
        (b"{", "json_invalid"),
        (b"xyzzy", "json_invalid"),
        (b'{"a": NaN}', "json_invalid"),
        (b'{"a": Infinity}', "json_invalid"),
        (b'{"a": 1e999}', "json_invalid"),
        (b'{"a": ' + b"9" * 5000 + b"}", "json_invalid"),
        (b'{"a": "\\ud800"}', "json_invalid"),
        (b"[" * 100_000, "json_invalid"),
        (b'{"a":' * 5000 + b"1" + b"}" * 5000, "json_invalid"),
        (b"{}{}", "json_invalid"),
        (b"\x00", "json_invalid"),
        (b'{"a": "xyzzy\xff"}', "utf8_invalid"),
        (b'{"a": "\xed\xa0\x80"}', "utf8_invalid"),
        (b"[1, 2]", "not_an_object"),
        (b'"xyzzy"', "not_an_object"),
        (b"null", "not_an_object"),
    ],
)
def test_a_bad_line_is_a_problem_of_its_own_without_its_text(write: Write, line: bytes, code: str) -> None:
    path = write(b"{}\n" + line + b"\n{}\n")
    assert codes(path) == [(1, ""), (2, code), (3, "")]
    assert "xyzzy" not in str(read(path))


def test_a_line_of_just_the_allowed_length_is_read_and_a_longer_one_is_a_problem(write: Write) -> None:
    just, over = b'{"a":"12"}', b'{"a":"123"}'
    assert codes(write(b"\n".join([just, over, just])), max_line_bytes=10) == [(1, ""), (2, "line_too_long"), (3, "")]
    assert codes(write(just + b"\n" + over), max_line_bytes=10) == [(1, ""), (2, "line_too_long")]


def test_a_line_without_end_is_never_in_memory(write: Write) -> None:
    path = write(gzip.compress(b"{}\n" + b" " * (32 << 20) + b"\n{}"))
    tracemalloc.start()
    assert codes(path, max_bytes=1 << 30, max_line_bytes=1000) == [(1, ""), (2, "line_too_long"), (3, "")]
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < 4 << 20


@pytest.mark.parametrize("content", [b"{}\n" * 2000, b"\n" * 5000, b" " * 5000, b"{}\n" + b"x" * 5000])
@pytest.mark.parametrize("pack", [bytes, gzip.compress], ids=["plain", "gzip"])
def test_a_file_that_unpacks_to_too_much_is_refused(
    write: Write, content: bytes, pack: Callable[[bytes], bytes]
) -> None:
    path = write(pack(content))
    with pytest.raises(FileTooLarge, match="more than 4000 bytes"):
        read(path, max_bytes=4000, max_line_bytes=100)
    assert read(path, max_bytes=len(content), max_line_bytes=100) is not None


def test_a_gzip_file_that_is_cut_off_or_damaged_is_refused(write: Write) -> None:
    whole = gzip.compress(b"".join(b'{"a": %d}\n' % i for i in range(1000)))
    damaged = bytearray(whole)
    damaged[len(whole) // 2] ^= 0xFF
    for content in (whole[:-1], whole[:200], whole[:3], bytes(damaged), whole + b"xyzzy"):
        with pytest.raises(UnreadableFile, match="gzip file is damaged or cut off"):
            read(write(content))


def test_the_rows_before_the_damage_are_given(write: Write) -> None:
    whole = gzip.compress(b'{"a": 1}\n' * 100_000)
    lines = read_rows(write(whole[:-8]), max_bytes=ROOM, max_line_bytes=ROOM)
    assert next(lines) == Line(1, {"a": 1})


def test_whatever_bytes_a_file_holds_each_line_is_a_row_or_a_problem(write: Write) -> None:
    source = random.Random(0)
    whole = orjson.dumps({"prompt": "Hi", "chosen": "Hello", "rejected": "Go", "id": 1})
    for _ in range(200):
        lines = [bytearray(whole) for _ in range(5)]
        for line in lines:
            for _ in range(source.randrange(4)):
                line[source.randrange(len(line))] = source.choice([b for b in range(256) if b != 10])
        path = write(b"\n".join(lines))
        numbers = [row.line for row in parse(read_rows(path, max_bytes=ROOM, max_line_bytes=ROOM), "plain")]
        assert numbers == [1, 2, 3, 4, 5]


def test_random_bytes_end_in_problems_or_one_named_error(write: Write) -> None:
    source = random.Random(0)
    for start in (b"", b"\x1f\x8b", b"\x1f\x8b\x08\x00", b"PAR1", b"{"):
        for _ in range(40):
            path = write(start + source.randbytes(source.randrange(300)))
            try:
                rows = list(parse(read_rows(path, max_bytes=ROOM, max_line_bytes=ROOM), "plain"))
            except UnreadableFile:
                continue
            assert all(isinstance(row, RowProblem) for row in rows)
