"""The trainer is TRL's: its loss where nothing is added, the formula where something is."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from torch import Tensor
from transformers import AutoTokenizer
from trl import RewardConfig, RewardTrainer

from app.schemas.rewards import RewardSettings
from tests.workers.rewards.conftest import annotated, training
from workers.rewards.annotated import Annotated
from workers.rewards.errors import Diverged
from workers.rewards.lessons import lessons
from workers.rewards.model import RewardModel, begun
from workers.rewards.run import train
from workers.rewards.trainer import Listening, MarginTrainer, Written, margin_trainer

FLOAT = {"held_out": 0, "epochs": 2, "batch": 4, "learning_rate": 1e-3}


@pytest.fixture(autouse=True)
def exact(monkeypatch: pytest.MonkeyPatch) -> None:
    """Products in float32, also where half of it is native."""
    monkeypatch.setattr("workers.rewards.run.native_dtype", lambda _device: torch.float32)


def written(model: RewardModel, pairs: list[Annotated], settings: RewardSettings) -> list[Written]:
    return [Written.of(one, model) for one in lessons(pairs, settings)[0]]


def a_trainer(base: Path, folder: Path, pairs: list[Annotated], **settings: Any) -> MarginTrainer:
    how = RewardSettings.model_validate(FLOAT | settings)
    model = begun(str(base), folder, 0)
    model.model.requires_grad_(True)
    silent = Listening(lambda _stage, _done, _total, _loss: None, None)
    return margin_trainer(model, model.model, written(model, pairs, how), how, folder / "run", torch.float32, silent)


def weights_of(model: torch.nn.Module) -> dict[str, Tensor]:
    return {name: part.detach().clone() for name, part in model.state_dict().items()}


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(part, b[name]) for name, part in a.items())


def test_margins_of_zero_are_plain_training_bit_for_bit(base: Path, tmp_path: Path) -> None:
    pairs = annotated()
    nothing = [Annotated(one.line, one.pair, 0.0) for one in pairs]
    ways: dict[str, tuple[list[Annotated], dict[str, Any]]] = {
        "plain": (pairs, {"margin": "none"}),
        "zeros": (nothing, {}),
        "margins": (pairs, {}),
    }
    made = {}
    for name, (rows, how) in ways.items():
        train(training(base, tmp_path / name, rows, **how))
        made[name] = (tmp_path / name / "model.safetensors").read_bytes()
    assert made["zeros"] == made["plain"]
    assert made["margins"] != made["plain"]


def test_plain_training_is_what_trl_does_bit_for_bit(base: Path, tmp_path: Path) -> None:
    pairs = annotated()
    ours = a_trainer(base, tmp_path, pairs, margin="none")
    ours.train()
    with_margins = a_trainer(base, tmp_path, pairs)
    with_margins.train()

    for trained, margins in ((ours, False), (with_margins, True)):
        config = RewardConfig(
            str(tmp_path / "stock"), num_train_epochs=2, per_device_train_batch_size=4, learning_rate=1e-3,
            warmup_steps=0.1, use_cpu=True, bf16=False, activation_checkpointing=False, dataloader_pin_memory=False,
            save_strategy="no", report_to="none", disable_tqdm=True, seed=0, max_length=None,
        )  # fmt: skip
        model = begun(str(base), tmp_path, 0)
        rows = Dataset.from_dict(
            {
                "prompt": [[turn.model_dump() for turn in one.pair.messages] for one in pairs],
                "chosen": [[{"role": "assistant", "content": one.pair.chosen}] for one in pairs],
                "rejected": [[{"role": "assistant", "content": one.pair.rejected}] for one in pairs],
                **({"margin": [one.margin for one in pairs]} if margins else {}),
            }
        )
        stock = RewardTrainer(
            model.model.requires_grad_(True), config, train_dataset=rows,
            processing_class=AutoTokenizer.from_pretrained(base),
        )  # fmt: skip
        stock.train()
        assert same(weights_of(stock.model), weights_of(trained.model))


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"conflicts": "flip", "margin_scale": 2.0, "margin_clip": 1.5},
        {"conflicts": "down-weight", "label_smoothing": 0.1},
        {"center_rewards_coefficient": 0.5},
    ],
)
def test_the_loss_of_a_step_is_the_formula_of_its_rewards(base: Path, tmp_path: Path, settings: dict[str, Any]) -> None:
    pairs = annotated(4)  # margins -1, -0.75, -0.5, -0.25
    trainer = a_trainer(base, tmp_path, pairs, epochs=1, **settings)
    model = begun(str(base), tmp_path, 0)
    rewards = []
    for one in pairs:
        rewards.append(
            model.rewards([model.encode(one.pair.messages, s) for s in (one.pair.chosen, one.pair.rejected)])
        )
    losses = []
    for one, (chosen, rejected) in zip(pairs, torch.stack(rewards).tolist(), strict=True):
        assert one.margin is not None
        gap, margin, weight = chosen - rejected, one.margin, 1.0
        if settings.get("conflicts") == "flip":
            gap, margin = -gap, min(1.5, -2 * margin)
        if settings.get("conflicts") == "down-weight":
            margin, weight = 0.0, 0.5
        smooth = settings.get("label_smoothing", 0.0)
        loss = (1 - smooth) * math.log1p(math.exp(margin - gap)) + smooth * math.log1p(math.exp(gap - margin))
        losses.append(weight * loss + settings.get("center_rewards_coefficient", 0.0) * (chosen + rejected) ** 2)
    trainer.train()
    assert trainer.state.log_history[0]["loss"] == pytest.approx(sum(losses) / 4, abs=1e-5)


def test_a_batch_in_several_passes_has_the_same_loss_and_gradients(base: Path, tmp_path: Path) -> None:
    pairs = [
        Annotated(one.line, one.pair.model_copy(update={"chosen": "well, " * (1 + one.line % 5)}), one.margin)
        for one in annotated(12)
    ]
    whole, parts = (a_trainer(base, tmp_path, pairs, batch=12, budget=budget) for budget in (100_000, 160))
    found = []
    for trainer in (whole, parts):
        batch = next(iter(trainer.get_train_dataloader()))
        loss = trainer.training_step(trainer.model, batch)
        gradients = torch.cat([weight.grad.flatten() for weight in trainer.model.parameters()])
        found.append((float(loss), gradients))
    assert found[1][0] == pytest.approx(found[0][0], abs=1e-6)
    assert torch.allclose(found[1][1], found[0][1], atol=1e-6)
    assert whole._metrics["train"]["accuracy"] == parts._metrics["train"]["accuracy"]
    assert len(whole._metrics["train"]["mean_reward"]) == 1
    assert len(parts._metrics["train"]["mean_reward"]) > 3


def test_a_loss_that_is_no_number_ends_the_training(base: Path, tmp_path: Path) -> None:
    trainer = a_trainer(base, tmp_path, annotated(8))
    trainer.model.score.weight.data.fill_(math.nan)
    with pytest.raises(Diverged, match="step 1 is no finite number"):
        trainer.train()


def test_nobody_is_told_over_a_network(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def call(*_args: Any, **_named: Any) -> None:
        raise AssertionError("telemetry")

    monkeypatch.setattr("trl.trainer.base_trainer.send_telemetry", call)
    a_trainer(base, tmp_path, annotated(4))
