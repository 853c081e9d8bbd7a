"""Annotated files of every format as pairs with their margins."""

import math
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from app.datasets.exports import parquet_stream, raw_row, schema, trainer_row
from app.schemas.annotate import Provenance
from tests.examples.conftest import MARGINS, PAIRS, annotation
from workers.rewards.annotated import AnnotatedFile, read_annotated
from workers.rewards.errors import UnfitRows

PROVENANCE = Provenance(
    model="m", model_revision="r", template="t", calibrated=False, unreliable=False, layers=[1], pooling="mean",
    dtype="float32", version="0",
)  # fmt: skip


def jsonl(path: Path, rows: list[Any]) -> Path:
    path.write_bytes(b"".join(orjson.dumps(row) + b"\n" for row in rows))
    return path


def plain(path: Path) -> Path:
    return jsonl(path, [pair.model_dump(exclude={"id"}) for pair in PAIRS])


def raw(level: int | None = 2) -> list[dict[str, Any]]:
    rows = [raw_row(line, annotation(margin), PROVENANCE) for line, margin in enumerate(MARGINS, start=1)]
    return [row | {"annotation": row["annotation"] | {"level": level}} for row in rows]


@pytest.mark.parametrize("ending", ["jsonl", "parquet"])
def test_rows_for_trainers_have_their_margins(tmp_path: Path, ending: str) -> None:
    rows = [trainer_row(pair, annotation(margin)) for pair, margin in zip(PAIRS, MARGINS, strict=True)]
    path = tmp_path / f"rows.{ending}"
    if ending == "parquet":
        path.write_bytes(b"".join(parquet_stream(rows, schema("trl"))))
    else:
        jsonl(path, rows)
    file = read_annotated(path)
    assert [one.margin for one in file.pairs] == MARGINS
    assert [one.pair.messages for one in file.pairs] == [pair.messages for pair in PAIRS]
    assert [(one.pair.chosen, one.pair.rejected) for one in file.pairs] == [(p.chosen, p.rejected) for p in PAIRS]
    assert file.calibrated is None


@pytest.mark.parametrize("ending", ["jsonl", "parquet"])
def test_raw_rows_are_joined_with_the_file_that_was_annotated(tmp_path: Path, ending: str) -> None:
    annotations = tmp_path / f"raw.{ending}"
    rows = [row for row in raw() if row["line"] != 3]  # which could not be annotated
    if ending == "parquet":
        annotations.write_bytes(b"".join(parquet_stream(rows, schema("raw"))))
    else:
        jsonl(annotations, rows)
    file = read_annotated(annotations, plain(tmp_path / "pairs.jsonl"))
    assert [one.line for one in file.pairs] == [1, 2, *range(4, 13)]
    assert [one.margin for one in file.pairs] == [margin for line, margin in enumerate(MARGINS, 1) if line != 3]
    assert {one.level for one in file.pairs} == {2}
    assert file.pairs[2].pair.chosen == PAIRS[3].chosen
    assert file.calibrated is False


def test_plain_pairs_have_no_margins_and_may_have_subsets(tmp_path: Path) -> None:
    rows = [pair.model_dump(exclude={"id"}) | {"subset": f"part-{i % 2}"} for i, pair in enumerate(PAIRS)]
    file = read_annotated(jsonl(tmp_path / "bench.jsonl", rows))
    assert {one.margin for one in file.pairs} == {None}
    assert [one.subset for one in file.pairs][:3] == ["part-0", "part-1", "part-0"]


def test_what_does_not_go_together_is_refused(tmp_path: Path) -> None:
    annotations, pairs = jsonl(tmp_path / "raw.jsonl", raw()), plain(tmp_path / "pairs.jsonl")
    with pytest.raises(UnfitRows, match="raw, which has no texts"):
        read_annotated(annotations)
    with pytest.raises(UnfitRows, match="not of format raw"):
        read_annotated(pairs, pairs)
    short = jsonl(tmp_path / "short.jsonl", [PAIRS[0].model_dump(exclude={"id"})])
    with pytest.raises(UnfitRows, match=r"short\.jsonl has no pair on line 2"):
        read_annotated(annotations, short)


@pytest.mark.parametrize("margin", ["2.5", True, [1.0]])
def test_an_odd_margin_is_refused_by_its_line(tmp_path: Path, margin: object) -> None:
    good = {"prompt": "a secret", "chosen": "yes", "rejected": "no", "margin": 1}
    path = jsonl(tmp_path / "odd.jsonl", [good, good | {"margin": margin}])
    with pytest.raises(UnfitRows, match=r"odd\.jsonl, line 2: /margin: must be a finite number") as refused:
        read_annotated(path)
    assert "secret" not in str(refused.value)


def test_a_margin_that_is_no_number_is_refused(tmp_path: Path) -> None:
    columns = {"prompt": ["a", "b"], "chosen": ["x", "x"], "rejected": ["y", "y"], "margin": [1.0, math.nan]}
    pq.write_table(pa.table(columns), tmp_path / "nan.parquet")
    with pytest.raises(UnfitRows, match="line 2: /margin"):
        read_annotated(tmp_path / "nan.parquet")
    (tmp_path / "nan.jsonl").write_text('{"prompt": "a", "chosen": "x", "rejected": "y", "margin": NaN}\n')
    with pytest.raises(UnfitRows, match="line 1"):
        read_annotated(tmp_path / "nan.jsonl")


def test_a_file_without_rows_or_of_something_else_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UnfitRows, match="has no rows"):
        read_annotated(jsonl(tmp_path / "empty.jsonl", []))
    with pytest.raises(UnfitRows, match="cannot be read"):
        read_annotated(tmp_path / "nowhere.jsonl")
    whole, half = {"prompt": "a", "chosen": "x", "rejected": "y"}, {"prompt": "a", "chosen": "x"}
    with pytest.raises(UnfitRows, match=r"half\.jsonl, line 2: /rejected"):
        read_annotated(jsonl(tmp_path / "half.jsonl", [whole, half]))
    damaged = [{**raw()[0], "annotation": {"margin": "a secret"}}]
    with pytest.raises(UnfitRows, match="line 1: /annotation/margin") as refused:
        read_annotated(jsonl(tmp_path / "raw.jsonl", damaged), plain(tmp_path / "pairs.jsonl"))
    assert "secret" not in str(refused.value)


def test_the_digest_is_of_pairs_and_margins(tmp_path: Path) -> None:
    row = {"prompt": "a", "chosen": "x", "rejected": "y", "margin": 1.0}

    def digest(*rows: dict[str, Any]) -> str:
        return read_annotated(jsonl(tmp_path / "rows.jsonl", list(rows))).digest

    assert digest(row) == digest(row | {"id": "named", "subset": "s"})
    assert len({digest(row), digest(row | {"margin": 2}), digest(row | {"chosen": "z"}), digest(row, row)}) == 4
    assert AnnotatedFile("none", []).digest.startswith("sha256:")
