"""Labelled pairs from a user's file, and which of them must stay on one side of a split."""

from pathlib import Path

import pytest

from app.schemas.pairs import Pair
from workers.directions.errors import UnfitData
from workers.directions.families import families_of, read_pairs

GOOD = b'{"prompt": "Hi", "chosen": "Hello", "rejected": "Go away"}'


def written(tmp_path: Path, *lines: bytes) -> Path:
    path = tmp_path / "pairs.jsonl"
    path.write_bytes(b"\n".join(lines))
    return path


def test_pairs_are_read_in_order_and_further_columns_and_empty_lines_are_ignored(tmp_path: Path) -> None:
    conversation = (
        b'{"id": "b", "prompt": [{"role": "user", "content": "Yo\xe2\x80\xa8u"}], "chosen": "", "rejected": "No",'
        b' "source": "hh", "margin": 3}'
    )
    pairs = read_pairs(written(tmp_path, GOOD, b"", conversation, b"  ", b""))
    assert [(pair.id, pair.chosen, pair.rejected) for pair in pairs] == [(None, "Hello", "Go away"), ("b", "", "No")]
    assert pairs[1].messages[0].content == "Yo\u2028u"


@pytest.mark.parametrize(
    ("line", "why"),
    [
        (b"{", "line 2: not JSON"),
        (b'{"prompt": "sec\xffret"}', "line 2: not JSON"),
        (b'{"prompt": "secret", "chosen": "secret"}', "line 2: rejected: Field required"),
        (b'{"prompt": " ", "chosen": "secret", "rejected": "secret"}', "line 2: prompt.text: "),
        (b'{"prompt": "secret", "chosen": 7, "rejected": "secret"}', "line 2: chosen: Input should be a valid string"),
        (b'["secret"]', "line 2: "),
    ],
)
def test_a_wrong_line_is_named_with_its_field_and_without_its_text(tmp_path: Path, line: bytes, why: str) -> None:
    with pytest.raises(UnfitData) as refusal:
        read_pairs(written(tmp_path, GOOD, line))
    assert why in str(refusal.value)
    assert "secret" not in str(refusal.value)


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UnfitData, match=r"nowhere\.jsonl cannot be read: No such file"):
        read_pairs(tmp_path / "nowhere.jsonl")


def test_pairs_whose_conversations_open_alike_are_one_family() -> None:
    turns = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Hi"}]
    later = [{"role": "assistant", "content": "Hello"}, {"role": "user", "content": "And now?"}]
    prompts: list[object] = ["Hi", "Who?", turns, [*turns[1:], *later], "hi"]
    pairs = [Pair.model_validate({"prompt": prompt, "chosen": "a", "rejected": "b"}) for prompt in prompts]
    assert families_of(pairs).tolist() == [0, 1, 0, 0, 2]
