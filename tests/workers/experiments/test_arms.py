"""What becomes of a source's margins in each arm."""

import pytest
import torch

from app.schemas.rewards import RewardSettings
from workers.experiments.arms import ARMS, Arm, all_alike, in_levels, permuted

MARGINS = torch.tensor([-4.0, -1.0, 0.5, 1.0, 2.0, 3.0, 6.0, 8.0], dtype=torch.double)


def test_margins_of_every_arm_have_one_mean_size() -> None:
    for arm in ARMS.values():
        found = arm.margins(MARGINS, 0.5, seed=1)
        assert float(found.abs().mean()) == pytest.approx(0.5 * arm.size)


def test_scaling_keeps_signs_and_order() -> None:
    found = Arm("any", "", "default").margins(MARGINS, 0.25, seed=0)
    assert torch.equal(found.argsort(), MARGINS.argsort())
    assert torch.equal(found.sign(), MARGINS.sign())


def test_levels_are_quarters_of_the_pairs() -> None:
    assert in_levels(MARGINS, 0).tolist() == pytest.approx([0, 0, 1 / 3, 1 / 3, 2 / 3, 2 / 3, 1, 1])


def test_shuffled_margins_are_the_same_ones_and_the_seed_says_whose() -> None:
    found, other = permuted(MARGINS, 1), permuted(MARGINS, 2)
    assert sorted(found.tolist()) == sorted(MARGINS.tolist())
    assert not torch.equal(found, MARGINS)
    assert not torch.equal(found, other)
    assert torch.equal(found, permuted(MARGINS, 1))


def test_constant_margins_know_nothing_of_the_pairs() -> None:
    assert all_alike(MARGINS, 0).tolist() == [1.0] * len(MARGINS)


def test_margins_of_zero_stay_zero() -> None:
    assert not Arm("any", "", "default").margins(torch.zeros(3), 0.5, seed=0).any()


def test_every_arm_is_a_valid_training() -> None:
    for arm in ARMS.values():
        RewardSettings.model_validate(dict(arm.settings))
