"""Rows of a job in the artifact store: chunks that are bounded, and found without reading the others."""

from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

from app.artifacts import ArtifactMissing, Artifacts
from app.datasets.rows import Row
from app.jobs import rows as stored
from app.jobs.cut import estimated_tokens
from app.jobs.rows import StoredRows
from app.schemas.pairs import Message, Pair

PAIR = Pair(prompt="Hello?", chosen="Hello.", rejected="Go away.")
COST = estimated_tokens(PAIR)
TALK = Pair(
    id="line\u2028separator\n",
    prompt=[Message(role="system", content="Be\r\nkind.\u0085"), Message(role="user", content="Hi\x0b\x1c")],
    chosen="",
    rejected="\n\n",
)


def store(
    artifacts: Artifacts, scratch: Path, rows: Iterable[Row], chunk_tokens: int = 3 * COST
) -> tuple[StoredRows, list[list[Row]]]:
    """Store rows; what that says, and the chunks as they are read back."""
    made = stored.store_rows(artifacts, "jobs/j/rows", rows, chunk_tokens, scratch)
    places = stored.chunk_places(artifacts, "jobs/j/rows")
    assert places == [stored.chunk_place(artifacts, "jobs/j/rows", n) for n in range(made.chunks)]
    chunks = [stored.read_chunk(artifacts, "jobs/j/rows", place) for place in places]
    assert [place.rows for place in places] == [len(chunk) for chunk in chunks]
    assert [place.last_line for place in places] == [chunk[-1].line for chunk in chunks]
    assert sum(place.tokens for place in places) == made.tokens
    return made, chunks


def numbered(*pairs: Pair) -> list[Row]:
    return [Row(line=2 * number + 1, pair=pair) for number, pair in enumerate(pairs)]


def test_chunks_are_bounded_by_tokens_and_together_hold_every_row(artifacts: Artifacts, tmp_path: Path) -> None:
    rows = numbered(*[PAIR] * 10)
    made, chunks = store(artifacts, tmp_path, rows)
    assert made == StoredRows(rows=10, chunks=4, tokens=10 * COST)
    assert [len(chunk) for chunk in chunks] == [3, 3, 3, 1]
    assert [row for chunk in chunks for row in chunk] == rows


def test_a_row_larger_than_a_chunk_is_a_chunk(artifacts: Artifacts, tmp_path: Path) -> None:
    huge = PAIR.model_copy(update={"chosen": "x" * 10_000})
    _, chunks = store(artifacts, tmp_path, numbered(PAIR, huge, PAIR))
    assert [[row.pair for row in chunk] for chunk in chunks] == [[PAIR], [huge], [PAIR]]


def test_a_chunk_has_a_thousand_rows_or_so_however_short(artifacts: Artifacts, tmp_path: Path) -> None:
    _, chunks = store(artifacts, tmp_path, numbered(*[PAIR] * 20_000), chunk_tokens=10**9)
    assert [len(chunk) for chunk in chunks[:3]] == [1024, 1024, 1024]
    assert max(map(len, chunks)) == 1024


def test_the_last_chunks_are_smaller_and_smaller_so_that_workers_end_together(
    artifacts: Artifacts, tmp_path: Path
) -> None:
    rows = numbered(*[PAIR] * 4000)
    _, chunks = store(artifacts, tmp_path, rows, chunk_tokens=100 * COST)
    sizes = [len(chunk) for chunk in chunks]
    assert sizes[:24] == [100] * 24  # until sixteen such chunks are left
    assert sizes == sorted(sizes, reverse=True)
    assert max(sizes[-4:]) * COST <= 1024
    assert [row for chunk in chunks for row in chunk] == rows


def test_texts_come_back_as_they_were(artifacts: Artifacts, tmp_path: Path) -> None:
    _, chunks = store(artifacts, tmp_path, numbered(TALK, PAIR, TALK))
    assert [row.pair for chunk in chunks for row in chunk] == [TALK, PAIR, TALK]


def test_no_rows_are_no_chunks(artifacts: Artifacts, tmp_path: Path) -> None:
    assert store(artifacts, tmp_path, []) == (StoredRows(0, 0, 0), [])


def test_rows_that_break_off_leave_nothing_in_the_store(artifacts: Artifacts, tmp_path: Path) -> None:
    def broken() -> Iterator[Row]:
        yield from numbered(PAIR, PAIR)
        raise ValueError

    with pytest.raises(ValueError):
        store(artifacts, tmp_path, broken())
    with pytest.raises(ArtifactMissing):
        stored.chunk_places(artifacts, "jobs/j/rows")


def test_what_grew_locally_is_removed(artifacts: Artifacts, tmp_path: Path) -> None:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    store(artifacts, scratch, numbered(PAIR))
    assert list(scratch.iterdir()) == []
