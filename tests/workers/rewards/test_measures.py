"""Figures of rewards against those computed by hand."""

import math

import pytest
import torch

from workers.rewards.measures import (
    by_quantile,
    gain_of,
    held_out_figures,
    length_figures,
    mean_of,
    section_figures,
    subset_figures,
)
from workers.rewards.rewardbench import SECTIONS

GAPS = torch.tensor([2.0, -1.0, 0.5, 0.0, -3.0, 1.0, 4.0, -0.5], dtype=torch.double)
EACH = torch.arange(8)


def test_held_out_pairs_have_accuracy_loss_and_calibration() -> None:
    figures = held_out_figures(7, GAPS, EACH)
    assert figures.step == 7
    assert figures.accuracy.value == 4.5 / 8  # a tie is half right
    assert figures.loss == pytest.approx(sum(math.log1p(math.exp(-gap)) for gap in GAPS.tolist()) / 8)


def test_the_calibration_error_is_the_mean_distance_of_confidence_and_truth() -> None:
    gaps = torch.tensor([math.log(0.72 / 0.28)] * 3 + [-math.log(0.72 / 0.28)], dtype=torch.double)
    assert held_out_figures(0, gaps, torch.arange(4)).calibration_error == pytest.approx(0.75 - 0.72)
    mixed = torch.cat([gaps, torch.tensor([math.log(0.93 / 0.07)] * 2, dtype=torch.double)])
    expected = (4 * abs(0.75 - 0.72) + 2 * abs(1 - 0.93)) / 6  # two bins, weighted by their pairs
    assert held_out_figures(0, mixed, torch.arange(6)).calibration_error == pytest.approx(expected)


def test_quantiles_are_of_equal_size_and_equal_values_stay_together() -> None:
    margins = torch.tensor([0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8])
    parts = by_quantile(margins, GAPS, EACH, 4)
    assert [part.accuracy.pairs for part in parts] == [2, 2, 2, 2]
    assert [part.accuracy.value for part in parts] == [0.5, 0.75, 0.5, 0.5]
    assert [round(part.low, 6) for part in parts] == [0.1, 0.3, 0.5, 0.7]
    assert [round(part.high, 6) for part in parts] == [0.2, 0.4, 0.6, 0.8]
    level = by_quantile(torch.tensor([0.0] * 6 + [1.0, 2.0]), GAPS, EACH, 4)
    assert [part.accuracy.pairs for part in level] == [6, 2]
    assert len(by_quantile(torch.zeros(8), GAPS, EACH)) == 1


def test_length_bias_is_told_by_correlation_and_by_sides() -> None:
    longer = torch.tensor([4.0, -2, 1, 0, -6, 2, 8, -1], dtype=torch.double)
    figures = length_figures(GAPS, longer, EACH)
    assert figures.correlation == pytest.approx(float(torch.corrcoef(torch.stack([GAPS, longer]))[0, 1]))
    assert figures.chosen_longer is not None
    assert figures.chosen_shorter is not None
    assert (figures.chosen_longer.value, figures.chosen_longer.pairs) == (1.0, 4)
    assert (figures.chosen_shorter.value, figures.chosen_shorter.pairs) == (0.0, 3)
    alike = length_figures(GAPS, torch.zeros(8), EACH)
    assert (alike.correlation, alike.chosen_longer, alike.chosen_shorter) == (None, None, None)


SUBSETS = ["donotanswer"] * 2 + ["xstest-should-respond"] * 3 + ["mine"] * 2 + [None]


def test_subsets_come_one_by_one() -> None:
    found = {one.subset: (one.accuracy.value, one.accuracy.pairs) for one in subset_figures(GAPS, EACH, SUBSETS)}
    assert found == {"donotanswer": (0.5, 2), "xstest-should-respond": (0.5, 3), "mine": (1.0, 2)}


def test_a_section_weighs_its_subsets_by_their_prompts_in_the_benchmark() -> None:
    gaps = torch.tensor([1.0, 1.0, -1.0, -1.0, 1.0, 1.0, 1.0, 1.0], dtype=torch.double)
    (safety,) = section_figures(gaps, EACH, SUBSETS)
    assert safety.section == "Safety"
    assert safety.accuracy.value == pytest.approx((136 * 1.0 + 250 / 3) / (136 + 250))
    assert safety.accuracy.low <= safety.accuracy.value <= safety.accuracy.high
    assert safety.missing == ["refusals-dangerous", "refusals-offensive", "xstest-should-refuse"]
    assert section_figures(gaps, EACH, ["mine"] * 8) == []


def test_the_whole_safety_section_is_the_mean_over_its_740_pairs() -> None:
    weights = SECTIONS["Safety"]
    subsets = [name for name, count in weights.items() for _ in range(count)]
    gaps = torch.randn(740, generator=torch.Generator().manual_seed(0), dtype=torch.double) + 0.5
    (safety,) = section_figures(gaps, torch.arange(740), subsets)
    assert sum(weights.values()) == 740
    assert safety.missing == []
    assert safety.accuracy.value == pytest.approx(float((gaps > 0).double().mean()))
    error = 1.96 * math.sqrt(safety.accuracy.value * (1 - safety.accuracy.value) / 740)
    assert safety.accuracy.high - safety.accuracy.low == pytest.approx(2 * error, rel=0.15)


def test_intervals_resample_prompts_and_pair_what_belongs_together() -> None:
    source = torch.Generator().manual_seed(0)
    base = torch.randn(200, generator=source, dtype=torch.double)
    families = torch.arange(200) // 4
    more = gain_of(base + 0.1, base, families)
    assert (more.value, more.low, more.high) == pytest.approx((0.1, 0.1, 0.1))
    alike = torch.arange(50).repeat_interleave(4)
    repeated = base[:50].repeat_interleave(4)
    wide, narrow = mean_of(repeated, alike), mean_of(repeated, torch.arange(200))
    assert wide.high - wide.low > 1.5 * (narrow.high - narrow.low)
