"""What TRL's own trainer makes of an export: its loss is the one that the margins are meant for."""

from pathlib import Path

import pytest
import torch
from datasets import Dataset, load_dataset
from torch.nn.functional import logsigmoid
from trl import RewardConfig, RewardTrainer

from tests.conftest import tiny_tokenizer
from tests.examples.conftest import MARGINS, PAIRS, dialogue, exported


def reading(export: Path) -> Dataset:
    kind = "json" if export.suffix == ".jsonl" else "parquet"
    return load_dataset(kind, data_files=str(export), split="train", cache_dir=str(export.parent / "cache"))


def trainer_on(rows: Dataset, model: Path) -> RewardTrainer:
    """A trainer whose only step is one batch of all rows."""
    config = RewardConfig(
        str(model),
        max_steps=1,
        per_device_train_batch_size=len(rows),
        use_cpu=True,
        bf16=False,
        activation_checkpointing=False,
        dataloader_pin_memory=False,
        logging_steps=1,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
    )
    return RewardTrainer(str(model), config, train_dataset=rows)


def first_step(rows: Dataset, model: Path) -> tuple[float, torch.Tensor, torch.Tensor]:
    """TRL's loss of the first step, with r_chosen − r_rejected before it and the margins that it was given."""
    trainer = trainer_on(rows, model)
    batch = next(iter(trainer.get_train_dataloader()))
    margins = batch.pop("margin")
    with torch.no_grad():
        chosen, rejected = trainer.model(**batch).logits.squeeze(-1).chunk(2)
    trainer.train()
    return trainer.state.log_history[0]["loss"], chosen - rejected, margins


def test_a_file_is_read_as_it_was_written(export: Path) -> None:
    assert reading(export).to_list() == list(exported())


def test_the_margin_of_every_row_enters_the_loss(export: Path, language_model: Path) -> None:
    rows = reading(export)
    loss, gaps, margins = first_step(rows, language_model)
    assert sorted(margins.tolist()) == pytest.approx(sorted(MARGINS))
    assert loss == pytest.approx(-logsigmoid(gaps - margins).mean().item(), abs=1e-5)

    without = rows.map(lambda row: {"margin": 0.0})
    plain, same_gaps, zeros = first_step(without, language_model)
    assert zeros.tolist() == [0.0] * len(MARGINS)
    assert torch.equal(same_gaps, gaps)
    assert plain == pytest.approx(-logsigmoid(gaps).mean().item(), abs=1e-5)
    assert loss - plain > 0.1


def test_the_model_reads_prompt_and_response_in_its_own_template(export: Path, language_model: Path) -> None:
    tokenizer = tiny_tokenizer()
    read = trainer_on(reading(export), language_model).train_dataset
    for row, pair in zip(read, PAIRS, strict=True):
        for side in ("chosen", "rejected"):
            assert tokenizer.decode(row[f"{side}_ids"]) == dialogue(pair, side)
