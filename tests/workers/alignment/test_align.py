"""Aligning: the loss is the distance to h + α v, and only the adapter's blocks up to the last target layer move."""

from pathlib import Path
from typing import Any

import pytest
import torch

from app.schemas.alignment import CollectSettings
from tests.workers.alignment.conftest import LORA, pairs, settings
from workers.alignment.align import Goal, align
from workers.alignment.batches import Showing, both
from workers.alignment.learner import ADAPTER, Learner
from workers.alignment.patterns import collect
from workers.engine.annotator import Annotator

BLOCKS = (0, 2)
GOOD, BAD = "Be calm.", "Shout at everybody, whatever it is that they may have asked."


def ignore(_done: int, _total: int, _loss: float | None) -> None:
    """Nobody asks how far it is."""


@pytest.fixture(scope="module")
def goal(pupil: Annotator, tmp_path_factory: pytest.TempPathFactory) -> Goal:
    base = Learner.reading(pupil)
    instructed = Showing(pupil.template, (GOOD, BAD), 64, 32)
    admitted = instructed.admit(both(pairs(6)))
    how = CollectSettings(layers=[1], of=4, responses="both", response=32, shard=64, budget=200)
    folder = tmp_path_factory.mktemp("patterns")
    patterns = collect((base, base), instructed, admitted, BLOCKS, how, folder, ignore)
    return Goal(base, Showing(pupil.template, (None,), 64, 32), admitted.items, patterns, BLOCKS)


def aligned(annotator: Annotator, goal: Goal, folder: Path, **changes: Any) -> tuple[Learner, list[float]]:
    learner = Learner.of_adapter(annotator, LORA, 0, BLOCKS[-1])
    how = settings(**{f"align__{name}": value for name, value in changes.items()}).align
    return learner, align(learner, goal, how, seed=0, folder=folder, tell=ignore)


def test_the_first_loss_is_alpha_times_the_mean_length_of_the_patterns(
    pupil: Annotator, goal: Goal, tmp_path: Path
) -> None:
    """An adapter begins by changing nothing."""
    _, losses = aligned(pupil, goal, tmp_path, batch=len(goal.items), alpha=3)
    every = torch.cat([goal.patterns.of(place) for place in range(len(goal.items))])
    assert losses[0] == pytest.approx(3 * float(every.norm(dim=-1).mean()), rel=1e-4)


def test_a_later_loss_is_the_formula_of_what_the_adapter_makes_of_the_tokens(
    pupil: Annotator, goal: Goal, tmp_path: Path
) -> None:
    learner = Learner.of_adapter(pupil, LORA.model_copy(update={"dropout": 0.0}), 0, BLOCKS[-1])
    with torch.no_grad():
        for weight in learner.weights.values():
            weight.add_(0.05)
        distances = []
        for place, item in enumerate(goal.items):
            group = goal.showing.show(item).groups[0]
            target = goal.base.hidden([group], BLOCKS) + 5 * goal.patterns.of(place)
            distances.append((learner.hidden([group], BLOCKS) - target).norm(dim=-1).flatten())
    how = settings(align__batch=len(goal.items), align__steps=1).align
    losses = align(learner, goal, how, seed=0, folder=tmp_path, tell=ignore)
    assert losses[0] == pytest.approx(float(torch.cat(distances).mean()), rel=1e-4)


def test_gradients_reach_the_named_modules_up_to_the_last_target_layer_and_nothing_else(
    pupil: Annotator, goal: Goal, tmp_path: Path
) -> None:
    before = {name: weight.clone() for name, weight in pupil.model.named_parameters()}
    learner, _ = aligned(pupil, goal, tmp_path)
    modules = [f"model.layers.{block}.self_attn.{name}" for block in range(3) for name in ("q_proj", "v_proj")]
    named = {f"{module}.lora_{part}.{ADAPTER}.weight" for module in modules for part in "AB"}
    fresh = Learner.of_adapter(pupil, LORA, 0, BLOCKS[-1]).weights
    assert set(fresh) == named == set(learner.weights)
    assert all(not torch.equal(learner.weights[name], fresh[name]) for name in named)
    assert all(torch.equal(weight, before[name]) for name, weight in pupil.model.named_parameters())


def test_the_distance_falls(pupil: Annotator, goal: Goal, tmp_path: Path) -> None:
    _, losses = aligned(pupil, goal, tmp_path, steps=40, batch=6)
    assert losses[-1] < 0.8 * losses[0]


def test_no_block_behind_the_last_target_layer_is_run(
    pupil: Annotator, goal: Goal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    learner = Learner.of_adapter(pupil, LORA, 0, BLOCKS[-1])
    for annotator in (learner.annotator, goal.base.annotator):
        monkeypatch.setattr(annotator.blocks[3], "forward", lambda *_arguments, **_options: pytest.fail("was run"))
    align(learner, goal, settings().align, seed=0, folder=tmp_path, tell=ignore)
