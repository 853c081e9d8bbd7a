"""What OpenRLHF makes of an export, step by step as its reader is documented.

With `--data.prompt_key prompt --data.apply_chat_template --model.margin_loss_enable` it loads a file by its ending,
renders the prompt up to the answer and both dialogues in the trained model's template, cuts the rendered prompt off the
dialogues by its length, joins them again, drops newlines at the end, makes sure that the end-of-text token is there,
and gives the column `margin` (0 where there is none) to −log σ(r_chosen − r_rejected − margin) as float32.
"""

from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset, load_dataset
from torch.nn.functional import logsigmoid

from tests.conftest import tiny_tokenizer
from tests.examples.conftest import MARGINS, PAIRS, dialogue

TOKENIZER = tiny_tokenizer()
SIDES = ("chosen", "rejected")


@pytest.fixture
def rows(export: Path) -> Dataset:
    ending = export.suffix.removeprefix(".")
    kind = "json" if ending == "jsonl" else ending
    return load_dataset(kind, data_files=str(export), cache_dir=str(export.parent / "cache"))["train"]


def rendered(messages: list[dict[str, str]], **options: Any) -> str:
    text: str = TOKENIZER.apply_chat_template(messages, tokenize=False, **options)
    return text


def sequences(row: dict[str, Any]) -> dict[str, str]:
    """The text that is encoded for each response."""
    start = rendered(row["prompt"], add_generation_prompt=True)
    made = {}
    for side in SIDES:
        response = rendered(row["prompt"] + row[side])[len(start) :]
        text = (start + response).rstrip("\n")
        made[side] = text if text.endswith(TOKENIZER.eos_token) else f"{text} {TOKENIZER.eos_token}"
    return made


def test_each_sequence_is_the_whole_dialogue_with_one_end(rows: Dataset) -> None:
    for row, pair in zip(rows, PAIRS, strict=True):
        for side, text in sequences(row).items():
            assert text == dialogue(pair, side).rstrip("\n")


def test_the_last_token_is_the_end_of_text_without_being_put_there(rows: Dataset) -> None:
    for row in rows:
        for text in sequences(row).values():
            assert TOKENIZER(text, add_special_tokens=False)["input_ids"][-1] == TOKENIZER.eos_token_id


def test_every_row_has_its_margin_in_the_loss(rows: Dataset) -> None:
    margins = torch.tensor([0 if row.get("margin") is None else row["margin"] for row in rows])
    assert margins.dtype == torch.float32
    assert margins.tolist() == pytest.approx(MARGINS)
    gaps = torch.linspace(-1, 1, len(MARGINS))
    by_hand = [torch.log1p(torch.exp(-(gap - margin))) for gap, margin in zip(gaps, MARGINS, strict=True)]
    assert -logsigmoid(gaps - margins).mean() == pytest.approx(sum(by_hand) / len(MARGINS))
