"""A user's own JSONL files, row by row."""

from pathlib import Path

import pytest
from pydantic import BaseModel

from workers.directions.datafiles import FileLabelled, FilePair, FileResponse, read_pairs, read_rows
from workers.directions.errors import UnfitData

PAIR = b'{"prompt": "Hi", "chosen": "Hello", "rejected": "Go away"}'


def written(tmp_path: Path, *lines: bytes) -> Path:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b"\n".join(lines))
    return path


def test_pairs_are_read_in_order_and_further_columns_and_empty_lines_are_ignored(tmp_path: Path) -> None:
    conversation = (
        b'{"id": "b", "prompt": [{"role": "user", "content": "Yo\xe2\x80\xa8u"}], "chosen": "", "rejected": "No",'
        b' "source": "hh", "margin": 3}'
    )
    pairs = read_pairs(written(tmp_path, PAIR, b"", conversation, b"  ", b""))
    assert [(pair.id, pair.chosen, pair.rejected) for pair in pairs] == [(None, "Hello", "Go away"), ("b", "", "No")]
    assert pairs[1].messages[0].content == "Yo\u2028u"


def test_labelled_responses_are_read_with_their_labels(tmp_path: Path) -> None:
    lines = [
        b'{"prompt": "Hi", "response": "Hello", "label": 1, "rater": 7}',
        PAIR[:-1] + b', "response": "", "label": -0.5}',
    ]
    assert [(row.response, row.label) for row in read_rows(written(tmp_path, *lines), FileLabelled)] == [
        ("Hello", 1.0),
        ("", -0.5),
    ]


def test_responses_without_a_label_are_read(tmp_path: Path) -> None:
    (row,) = read_rows(written(tmp_path, b'{"prompt": "Hi", "response": "Hello", "label": "ignored"}'), FileResponse)
    assert (row.messages[0].content, row.response) == ("Hi", "Hello")


@pytest.mark.parametrize(
    ("kind", "line", "why"),
    [
        (FilePair, b"{", "line 2: not JSON"),
        (FilePair, b'{"prompt": "sec\xffret"}', "line 2: not JSON"),
        (FilePair, b'{"prompt": "secret", "chosen": "secret"}', "line 2: rejected: Field required"),
        (FilePair, b'{"prompt": " ", "chosen": "secret", "rejected": "secret"}', "line 2: prompt.text: "),
        (FilePair, b'{"prompt": "secret", "chosen": 7, "rejected": "secret"}', "line 2: chosen: Input should be a "),
        (FilePair, b'["secret"]', "line 2: "),
        (FileLabelled, b'{"prompt": "secret", "response": "secret"}', "line 2: label: Field required"),
        (FileLabelled, b'{"prompt": "secret", "response": "secret", "label": "secret"}', "line 2: label: "),
        (FileLabelled, b'{"prompt": "secret", "response": "secret", "label": null}', "line 2: label: "),
        (FileResponse, b'{"prompt": "secret"}', "line 2: response: Field required"),
    ],
)
def test_a_wrong_line_is_named_with_its_field_and_without_its_text(
    tmp_path: Path, kind: type[BaseModel], line: bytes, why: str
) -> None:
    good = PAIR[:-1] + b', "response": "", "label": 1}'
    with pytest.raises(UnfitData) as refusal:
        read_rows(written(tmp_path, good, line), kind)
    assert why in str(refusal.value)
    assert "secret" not in str(refusal.value)


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UnfitData, match=r"nowhere\.jsonl cannot be read: No such file"):
        read_pairs(tmp_path / "nowhere.jsonl")
