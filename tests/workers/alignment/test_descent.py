"""Descent: the rate, the batches, and a killed run that goes on as if nothing had been."""

import json
from pathlib import Path

import pytest
import torch
from torch import nn

from app.schemas.alignment import DescentSettings
from workers.alignment import checkpoints
from workers.alignment.descent import Descent, batch_of, rate, steps_of
from workers.alignment.errors import Diverged


class Killed(Exception):
    """The process is gone."""


def how(**changes: object) -> DescentSettings:
    told: dict[str, object] = {"learning_rate": 0.1, "schedule": "linear", "warmup": 0.2, "weight_decay": 0.01}
    told |= {"clip": 1.0, "batch": 4, "budget": 64, "checkpoint": 3}
    return DescentSettings.model_validate(told | changes)


def ignore(_done: int, _total: int, _loss: float | None) -> None:
    """Nobody asks how far it is."""


class Valley:
    """A weight that is drawn towards random places, which come from a generator."""

    def __init__(self, folder: Path, **changes: object) -> None:
        self.weight = nn.Parameter(torch.tensor([3.0, -2.0]))
        self.source = torch.Generator().manual_seed(5)
        self.descent = Descent({"w": self.weight}, how(**changes), 10, folder, self.source)

    def gradients(self, _step: int) -> float:
        loss = (self.weight - torch.rand(2, generator=self.source)).square().sum()
        torch.autograd.backward(loss)
        return float(loss.detach())


@pytest.mark.parametrize("killed_after", [1, 3, 4, 9, 10])
def test_a_killed_run_continues_with_the_same_numbers(tmp_path: Path, killed_after: int) -> None:
    whole = Valley(tmp_path / "whole")
    losses = whole.descent.run(whole.gradients, ignore)

    def kill(done: int, _total: int, _loss: float | None) -> None:
        if done == killed_after:
            raise Killed

    first, second = Valley(tmp_path / "parts"), Valley(tmp_path / "parts")
    with pytest.raises(Killed):
        first.descent.run(first.gradients, kill)
    assert second.descent.run(second.gradients, ignore) == losses
    assert torch.equal(second.weight, whole.weight)


def test_a_step_is_told_with_its_loss_and_a_resumed_run_tells_where_it_is(tmp_path: Path) -> None:
    told: list[tuple[int, int, float | None]] = []
    valley = Valley(tmp_path)
    losses = valley.descent.run(valley.gradients, lambda *step: told.append(step))
    assert told == [(0, 10, None), *((step + 1, 10, loss) for step, loss in enumerate(losses))]
    again = Valley(tmp_path)
    assert again.descent.run(again.gradients, lambda *step: told.append(step)) == losses
    assert told[-1] == (10, 10, losses[-1])


def test_of_the_checkpoints_the_last_one_is_kept_and_nothing_is_pickled(tmp_path: Path) -> None:
    valley = Valley(tmp_path)
    valley.descent.run(valley.gradients, ignore)
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-10"]
    assert {path.suffix for path in tmp_path.rglob("*.*")} == {".json", ".safetensors"}
    assert len(json.loads((tmp_path / "checkpoint-10" / "state.json").read_bytes())["losses"]) == 10
    checkpoints.drop(tmp_path)
    assert checkpoints.latest(tmp_path) is None


def test_a_checkpoint_that_was_not_finished_is_none(tmp_path: Path) -> None:
    checkpoints.save(tmp_path, 2, [1.0, 2.0], {"a": torch.ones(1)})
    (tmp_path / ".4.part").mkdir()
    found = checkpoints.latest(tmp_path)
    assert found is not None
    assert (found.step, found.losses) == (2, [1.0, 2.0])


def test_a_loss_that_is_no_number_ends_it(tmp_path: Path) -> None:
    valley = Valley(tmp_path)
    with pytest.raises(Diverged, match="at step 1: try a lower learning rate"):
        valley.descent.run(lambda _step: float("nan"), ignore)


@pytest.mark.parametrize(
    ("schedule", "rates"),
    [
        ("constant", [0.5, 1, 1, 1, 1, 1, 1, 1, 1, 1]),
        ("linear", [0.5, 1, 1, 0.875, 0.75, 0.625, 0.5, 0.375, 0.25, 0.125]),
        ("cosine", [0.5, 1, 1, 0.962, 0.854, 0.691, 0.5, 0.309, 0.146, 0.038]),
    ],
)
def test_the_rate_warms_up_and_falls(schedule: str, rates: list[float]) -> None:
    found = [rate(how(schedule=schedule), step, 10) for step in range(10)]
    assert found == pytest.approx(rates, abs=1e-3)


def test_every_epoch_shows_everything_once_in_an_order_of_its_own() -> None:
    assert steps_of(10, 4) == 3
    epochs = [[place for step in range(3) for place in batch_of(10, 4, 3 * epoch + step, 7)] for epoch in (0, 1)]
    assert [sorted(epoch) for epoch in epochs] == [list(range(10))] * 2
    assert epochs[0] != epochs[1]
    assert len(batch_of(10, 4, 2, 7)) == 2
    assert batch_of(10, 4, 4, 7) == batch_of(10, 4, 4, 7) != batch_of(10, 4, 4, 8)
