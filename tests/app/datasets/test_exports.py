"""What trainers get: rows of one shape a file, and Parquet that reads back exactly."""

import gzip
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pydantic import BaseModel

from app.datasets.exports import Format, parquet_stream, raw_row, schema, trainer_row
from app.datasets.reading import read_rows
from app.datasets.rows import Row, find_kind, parse
from app.schemas.annotate import Annotation, Margin, Provenance, Raw, Tokens
from app.schemas.judging import CriticalRule, RuleProvenance, RuleVerdict
from app.schemas.pairs import Message, Pair

TEXTS = ["Grüß Gott 👋", "", " \n\t ", "\u2028", '"\\', "a" * 10_000]


def annotation(pair_id: str = "a", margin: float = -0.1, **more: Any) -> Annotation:
    raw = Raw(margin=margin, chosen=1 / 3, rejected=-1e-300)
    said = {"margin": margin, "probability": 0.475, "level": 2, "label_conflict": True, "raw": raw}
    tokens = Tokens(prompt=7, chosen=22, rejected=0)
    return Annotation.model_validate({**said, "id": pair_id, "truncated": False, "tokens": tokens, **more})


NAMES = {"rule": "no-threats", "category": "violence", "text": "The response threatens nobody."}
NUMBERS = {"chosen": 0.5, "rejected": -1.0, "relevance": 1 / 3, "contribution": 0.7}
VERDICT = {"margin": 0.7, "preferred": "chosen", "tie": None, "critical": [NAMES | NUMBERS]}
TIE = {"margin": 0.0, "preferred": "tie", "tie": "no_relevant_rule", "critical": []}
JUDGED_BY = {name: "x" for name in ("pool", "pool_digest", "bank", "bank_digest", "adapter", "adapter_digest")} | {
    "rater": "probes",
    "policy": "robust",
    "k": 5,
    "band": 0.25,
    "calibrated": True,
    "rules": 88,
}


def provenance(**more: Any) -> Provenance:
    made_by = {name: "x" for name, field in Provenance.model_fields.items() if field.annotation is str}
    return Provenance.model_validate({**made_by, "calibrated": True, "unreliable": False, "layers": [14, 18], **more})


def read_back(rows: list[dict[str, Any]], columns: pa.Schema) -> list[dict[str, Any]]:
    table = pq.read_table(io.BytesIO(b"".join(parquet_stream(rows, columns))))
    assert table.schema == columns
    back: list[dict[str, Any]] = table.to_pylist(maps_as_pydicts="strict")
    return back


TEXT = Pair(prompt="Hi", chosen="Hello", rejected="")
TALK = Pair(
    prompt=[Message(role="system", content="Be kind."), Message(role="user", content="Hi")],
    **TEXT.model_dump(include={"chosen", "rejected"}),
)


def test_a_conversation_is_a_list_of_messages_and_a_response_one_message_without_the_prompt() -> None:
    assert trainer_row(TALK, annotation(margin=0.5)) == {
        "prompt": [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Hi"}],
        "chosen": [{"role": "assistant", "content": "Hello"}],
        "rejected": [{"role": "assistant", "content": ""}],
        "margin": 0.5,
    }


def test_a_text_prompt_is_a_users_turn() -> None:
    assert trainer_row(TEXT, annotation())["prompt"] == [{"role": "user", "content": "Hi"}]


@pytest.mark.parametrize("format", ["trl", "openrlhf"])
def test_trainer_rows_come_back_from_parquet_exactly(format: Format) -> None:
    pairs = [Pair(prompt="Hi", chosen=chosen, rejected=rejected) for chosen in TEXTS for rejected in TEXTS]
    margins = [0.1, -0.0, 5e-324, -1.7976931348623157e308, 1.0]
    rows = [trainer_row(pair, annotation(margin=margins[i % len(margins)])) for i, pair in enumerate(pairs)]
    assert read_back(rows, schema(format)) == rows


def test_raw_rows_come_back_from_parquet_exactly() -> None:
    margin = Margin.model_validate(annotation().model_dump(include=set(Margin.model_fields)))
    several = annotation("b", level=None, directions={"kind": margin, "other": margin})
    rows = [
        raw_row(1, annotation(), provenance()),
        raw_row(3, several, provenance(others=[provenance(direction="other")])),
        raw_row(4, annotation(rules=VERDICT), provenance(method="rules", rules=JUDGED_BY)),
        raw_row(5, annotation(rules=TIE), provenance(direction="d", rules=JUDGED_BY | {"bank": None})),
    ]
    for row, back in zip(rows, read_back(rows, schema("raw")), strict=True):
        assert back["line"] == row["line"]
        assert Annotation.model_validate(back["annotation"]).model_dump() == row["annotation"]
        assert Provenance.model_validate(back["provenance"]).model_dump() == row["provenance"]


def test_the_columns_of_raw_rows_are_the_fields_of_what_they_hold() -> None:
    def names(kind: pa.DataType) -> set[str]:
        return {field.name for field in kind}

    def fields(model: type[BaseModel]) -> set[str]:
        return set(model.model_fields)

    raw = schema("raw")
    held, made_by = raw.field("annotation").type, raw.field("provenance").type
    of_few_pairs = {"contributions"}  # and with texts: only JSON has them
    assert names(held) == fields(Annotation) - of_few_pairs
    assert names(held.field("raw").type) == fields(Raw)
    assert names(held.field("tokens").type) == fields(Tokens)
    assert names(held.field("directions").type.item_type) == fields(Margin) - of_few_pairs
    assert names(made_by) == fields(Provenance)
    assert names(made_by.field("others").type.value_type) == fields(Provenance) - {"others"}
    assert names(held.field("rules").type) == fields(RuleVerdict)
    assert names(held.field("rules").type.field("critical").type.value_type) == fields(CriticalRule)
    assert names(made_by.field("rules").type) == fields(RuleProvenance)


@pytest.mark.parametrize("format", get_args(Format))
def test_a_file_without_rows_still_has_its_columns(format: Format) -> None:
    assert read_back([], schema(format)) == []


def test_a_row_without_a_margin_is_not_written() -> None:
    row = trainer_row(TEXT, annotation())
    rows = [{name: row[name] for name in ("prompt", "chosen", "rejected")}]
    with pytest.raises(pa.ArrowInvalid):
        list(parquet_stream(rows, schema("trl")))


def test_blocks_leave_while_rows_still_come() -> None:
    asked = 0

    def rows() -> Iterator[dict[str, Any]]:
        nonlocal asked
        while asked < 10_000:
            asked += 1
            yield trainer_row(TEXT, annotation())

    blocks = parquet_stream(rows(), schema("trl"))
    start = next(blocks)
    assert asked == 4096
    file = pq.ParquetFile(io.BytesIO(start + b"".join(blocks)))
    assert [file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)] == [4096, 4096, 10_000 - 8192]


def test_long_rows_make_smaller_groups() -> None:
    long = Pair(prompt="Hi", chosen="a" * 1_000_000, rejected="")
    rows = [trainer_row(long, annotation())] * 200
    file = pq.ParquetFile(io.BytesIO(b"".join(parquet_stream(rows, schema("trl")))))
    assert [file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)] == [64, 64, 64, 8]


def test_a_stream_that_breaks_off_is_no_whole_file() -> None:
    def rows() -> Iterator[dict[str, Any]]:
        for _ in range(5000):
            yield trainer_row(TEXT, annotation())
        raise RuntimeError("the queue is gone")

    taken: list[bytes] = []
    with pytest.raises(RuntimeError, match="the queue is gone"):
        taken.extend(parquet_stream(rows(), schema("trl")))
    with pytest.raises(pa.ArrowInvalid):
        pq.ParquetFile(io.BytesIO(b"".join(taken)))


DIALOGUE = "\n\nHuman: Hi\n\nAssistant: "
FILES: list[list[dict[str, Any]]] = [
    [{"prompt": "Hi", "chosen": text, "rejected": "r", "extra": i} for i, text in enumerate(TEXTS)],
    [{"chosen": DIALOGUE + f"c{i}", "rejected": DIALOGUE + f"r{i}"} for i in range(5)],
    [{"prompt": [{"role": "user", "content": "Hi"}], "chosen": text, "rejected": "r"} for text in TEXTS],
]


@pytest.mark.parametrize("rows", FILES, ids=["plain", "dialogues", "conversations"])
@pytest.mark.parametrize("sort", ["jsonl", "jsonl.gz", "parquet"])
def test_what_is_exported_is_what_was_uploaded_and_can_be_uploaded_again(
    tmp_path: Path, rows: list[dict[str, Any]], sort: str
) -> None:
    path = tmp_path / "rows"
    if sort == "parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    else:
        lines = b"\n".join(map(orjson.dumps, rows))
        path.write_bytes(gzip.compress(lines) if sort == "jsonl.gz" else lines)
    pairs = pairs_of(path)
    assert len(pairs) == len(rows)
    exported = [trainer_row(pair, annotation()) for pair in pairs]
    path.write_bytes(b"".join(parquet_stream(exported, schema("trl"))))
    assert pq.read_table(path).to_pylist() == exported
    assert [said(pair) for pair in pairs_of(path)] == [said(pair) for pair in pairs]


def said(pair: Pair) -> tuple[list[Message], str, str]:
    return pair.messages, pair.chosen, pair.rejected


def pairs_of(path: Path) -> list[Pair]:
    lines = list(read_rows(path, max_bytes=1 << 20, max_line_bytes=1 << 20))
    rows = list(parse(lines, find_kind(lines)))
    assert all(isinstance(row, Row) for row in rows)
    return [row.pair for row in rows if isinstance(row, Row)]
