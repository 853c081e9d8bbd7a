"""On planted utilities, true margins teach what labels do not say, and correct labels that are wrong."""

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.workers.rewards.conftest import training
from tests.workers.rewards.planted import anchored, everything, shuffled, some, utilities, wrong
from workers.directions.evaluation import correlation
from workers.rewards.annotated import Annotated
from workers.rewards.model import load_reward_model
from workers.rewards.reading import readable
from workers.rewards.run import train


@pytest.fixture(autouse=True)
def exact(monkeypatch: pytest.MonkeyPatch) -> None:
    """Products in float32, also where half of it is native."""
    monkeypatch.setattr("workers.rewards.run.native_dtype", lambda _device: torch.float32)


def learnt(base: Path, folder: Path, pairs: list[Annotated], worth: torch.Tensor, **settings: Any) -> float:
    """Correlation of true gaps with those of a trained model's rewards, over all pairs of words."""
    chosen = {"held_out": 0, "checkpoint": 1000} | settings
    train(training(base, folder, pairs, **chosen))
    model = load_reward_model(str(folder), folder, device="cpu", dtype="float32")
    asked, texts = readable(model, everything(worth), Counter())
    rewards = model.rewards(texts)
    signs = 1.0 - 2.0 * (torch.arange(len(asked)) % 2)  # half of them the other way round: gaps of both signs
    gaps = torch.tensor([one.margin or 0.0 for one in asked], dtype=torch.double)
    return correlation(signs * (rewards[::2] - rewards[1::2]), signs * gaps) or 0.0


@pytest.mark.parametrize("seed", [0, 3])
def test_margins_teach_gaps_that_labels_do_not_say(base: Path, tmp_path: Path, seed: int) -> None:
    worth = utilities(seed)
    pairs = anchored(worth)
    how = {"epochs": 60, "batch": 32, "learning_rate": 3e-3, "seed": seed}
    margins = learnt(base, tmp_path / "margins", pairs, worth, **how)
    plain = learnt(base, tmp_path / "plain", pairs, worth, margin="none", **how)
    anyones = learnt(base, tmp_path / "shuffled", shuffled(pairs, seed), worth, **how)
    assert margins > 0.7
    assert max(plain, anyones) < 0.5


def test_flipping_conflicts_mends_labels_that_are_wrong(base: Path, tmp_path: Path) -> None:
    worth = utilities(0)
    pairs = wrong(some(everything(worth), 60, 0), 0.35)
    how = {"epochs": 10, "batch": 16, "learning_rate": 1e-3}
    kept = learnt(base, tmp_path / "kept", pairs, worth, margin="none", **how)
    flipped = learnt(base, tmp_path / "flipped", pairs, worth, conflicts="flip", **how)
    assert flipped > kept + 0.25
