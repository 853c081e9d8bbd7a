"""Gains are paired, pair by pair and seed by seed; of many arms only what survives their number is beyond doubt."""

import pytest
import torch

from app.schemas.directions import Accuracy
from app.schemas.marginreport import ArmFigures, ArmOn, Cost
from workers.experiments.figures import arm_on, beyond_doubt, mean_accuracy, verdict

FAMILIES = torch.arange(200)


def gaps(right: float, seed: int) -> torch.Tensor:
    """Of 200 pairs this share is right, the same ones for any seed but that each seed has another tenth wrong."""
    signs = torch.ones(200, dtype=torch.double)
    signs[: round(200 * (1 - right))] = -1
    signs[150 + 10 * seed : 160 + 10 * seed] = -1
    return signs


def test_accuracy_is_the_mean_over_seeds() -> None:
    found = mean_accuracy([gaps(0.8, 0), gaps(0.6, 1)], FAMILIES)
    assert found.value == pytest.approx((0.75 + 0.55) / 2)
    assert found.low < found.value < found.high
    assert found.prompts == 200


def test_a_gain_is_paired_by_pair_and_seed() -> None:
    plain = [gaps(0.7, seed) for seed in range(3)]
    better = [gaps(0.75, seed) for seed in range(3)]
    found = arm_on(better, plain, FAMILIES)
    assert found.gain is not None
    assert found.gain.value == pytest.approx(0.05)
    assert 0 < found.gain.low < found.gain.high < 0.1  # narrower than the accuracies' own intervals
    assert found.accuracy.high - found.accuracy.low > found.gain.high - found.gain.low
    assert found.p is not None
    assert found.p < 0.01
    same = arm_on(plain, plain, FAMILIES)
    assert same.gain is not None
    assert (same.gain.value, same.p) == (0, 1)


def test_pairs_of_one_prompt_are_resampled_together() -> None:
    plain, better = [gaps(0.7, 0)], [gaps(0.75, 0)]
    apart, together = (arm_on(better, plain, families) for families in (FAMILIES, FAMILIES // 20))
    assert apart.gain is not None
    assert together.gain is not None
    assert together.gain.high - together.gain.low > apart.gain.high - apart.gain.low


def test_what_is_beyond_doubt_depends_on_how_many_are_tried() -> None:
    assert beyond_doubt({"a": 0.03}) == {"a"}
    assert beyond_doubt({"a": 0.03, "b": 0.9}) == set()
    assert beyond_doubt({"a": 0.001, "b": 0.04, "c": 0.02}) == {"a", "b", "c"}


def arm(name: str, gain: float, p: float) -> ArmFigures:
    side = Accuracy(value=0.5, low=0.4, high=0.6, pairs=10, prompts=10)
    on = ArmOn.model_validate(
        {
            "accuracy": side.model_dump(),
            "by_seed": [0.5],
            "gain": None if name == "none" else {"value": gain, "low": gain - 0.01, "high": gain + 0.01},
            "p": None if name == "none" else p,
            "calibration_error": 0.1,
        }
    )
    return ArmFigures(
        arm=name,
        about="",
        seeds=[0],
        sets={"held out": on},
        should_respond=side,
        should_refuse=side,
        pairs=10,
        conflicts=0,
        mean_margin=0.5,
        annotation=Cost(),
        training=Cost(),
    )


def test_the_verdict_names_what_wins_and_what_loses() -> None:
    arms = [arm("none", 0, 1), arm("legend", 0.04, 0.001), arm("shuffled", -0.05, 0.001), arm("rules", 0.01, 0.6)]
    said = verdict(arms, "held out")
    assert "Better than no margin on held out pairs, beyond doubt: legend." in said
    assert "Worse, beyond doubt: shuffled." in said
    assert "The highest is legend, +0.040" in said
    assert verdict(arms[:1], "held out") == "Nothing is compared: there is no arm beside no margin."
    assert "No arm is better than no margin" in verdict([arms[0], arms[3]], "held out")
