"""Train a reward model with TRL on annotated pairs, and say on a held-out tenth how well it keeps their margins.

safemargin annotate pairs.jsonl -o rows.parquet --format trl
python examples/train_reward_model.py rows.parquet HuggingFaceTB/SmolLM2-135M-Instruct --steps 200

TRL minimises -log sigmoid(r_chosen - r_rejected - margin) and drops pairs longer than its `max_length` of 1,024 tokens;
what its log calls margin is r_chosen - r_rejected. The tenth is drawn by prompt: none is on both sides.
"""

import argparse
import zlib
from pathlib import Path

import torch
from datasets import load_dataset
from torch.nn.functional import logsigmoid
from trl import RewardConfig, RewardTrainer


def is_held_out(row: dict[str, object]) -> bool:
    """Whether a row's prompt is in the held-out tenth."""
    return zlib.crc32(repr(row["prompt"]).encode()) % 10 == 0


def judge(trainer: RewardTrainer) -> str:
    """Loss and accuracies of the model as it is, on the held-out pairs."""
    gaps, margins = [], []
    trainer.model.eval()
    for batch in trainer.get_eval_dataloader():
        margins.append(batch.pop("margin"))
        with torch.no_grad():
            chosen, rejected = trainer.model(**batch).logits.float().squeeze(-1).chunk(2)
        gaps.append(chosen - rejected)
    gap, margin = torch.cat(gaps), torch.cat(margins)
    loss = -logsigmoid(gap - margin).mean()
    right, by_margin = (gap > 0).float().mean(), (gap > margin).float().mean()
    return f"loss {loss:.4f}, chosen above rejected {right:.3f}, above it by the margin {by_margin:.3f}"


def main() -> None:
    """Train, print and save."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("rows", type=Path, help="JSONL or Parquet of format trl")
    parser.add_argument("model", help="a language model with a chat template: a folder or a Hugging Face id")
    parser.add_argument("--steps", type=int, default=100, help="optimiser steps of 8 pairs")
    parser.add_argument("--output", default="reward-model", help="folder for the reward model")
    asked = parser.parse_args()

    kind = "parquet" if asked.rows.suffix == ".parquet" else "json"
    rows = load_dataset(kind, data_files=str(asked.rows), split="train")
    if "margin" not in rows.column_names:
        parser.error("these rows have no margin of their own: annotate with --format trl")
    train, held_out_rows = (rows.filter(lambda row, side=side: is_held_out(row) == side) for side in (False, True))
    if not len(train) or not len(held_out_rows):
        parser.error("these are too few prompts to train on some and hold out others")
    on_gpu = torch.cuda.is_available()
    config = RewardConfig(
        asked.output,
        max_steps=asked.steps,
        bf16=on_gpu,  # TRL's default, which a machine without a GPU refuses
        dataloader_pin_memory=on_gpu,
        activation_checkpointing=True,  # the name that transformers has for TRL's default
        logging_steps=1,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
    )
    trainer = RewardTrainer(asked.model, config, train_dataset=train, eval_dataset=held_out_rows)
    trained, held_out = len(trainer.train_dataset), len(trainer.eval_dataset)
    print(f"{trained} pairs to train on, {held_out} held out, {len(rows) - trained - held_out} too long")
    print(f"before: {judge(trainer)}")
    trainer.train()
    print(f"after: {judge(trainer)}")
    trainer.save_model()


if __name__ == "__main__":
    main()
