"""Accuracy, calibration and folds on simulated margins whose truth is known."""

import math

import pytest
import torch
from torch import Tensor

from workers.directions import evaluation
from workers.directions.evaluation import (
    accuracy,
    auroc,
    calibration_error,
    correlation,
    folds,
    gain,
    level_edges,
    likelihoods,
    platt_slope,
    quality,
)


def chance(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def simulated(count: int, slope: float, *, seed: int = 0) -> Tensor:
    """Raw margins of labelled pairs: each label agrees with the sign with probability σ(slope · |margin|)."""
    size = 3 * torch.rand(count, generator=chance(seed), dtype=torch.double)
    right = torch.rand(count, generator=chance(seed + 1), dtype=torch.double) < torch.sigmoid(slope * size)
    return torch.where(right, size, -size)


@pytest.mark.parametrize("slope", [0.2, 1.0, 3.0])
def test_platt_scaling_recovers_a_known_slope(slope: float) -> None:
    assert platt_slope(simulated(20_000, slope)) == pytest.approx(slope, rel=0.1)


def test_the_slope_is_per_unit_of_raw_margin() -> None:
    margins = simulated(500, 1.0)
    slope = platt_slope(margins)
    assert slope is not None
    assert platt_slope(margins * 1000) == pytest.approx(slope / 1000)


def test_margins_without_signal_have_no_slope() -> None:
    assert platt_slope(torch.zeros(50)) is None
    assert platt_slope(-simulated(500, 1.0)) is None
    assert platt_slope(torch.tensor([1.0, -1.0] * 50)) is None


def test_margins_that_are_always_right_have_a_finite_slope() -> None:
    slope = platt_slope(torch.rand(200, generator=chance()) + 0.1)
    assert slope is not None
    assert 1 < slope < 100


def test_calibrated_log_odds_have_next_to_no_calibration_error() -> None:
    assert calibration_error(2.0 * simulated(20_000, 2.0)) < 0.01


def test_overconfident_and_underconfident_log_odds_have_a_large_calibration_error() -> None:
    margins = simulated(20_000, 0.3)
    assert calibration_error(10 * margins) > 0.2
    assert calibration_error(simulated(20_000, 3.0) * 0.1) > 0.2


def test_calibration_error_is_the_gap_between_probability_and_truth() -> None:
    """All pairs at 90 %, but only 60 % right: the gap is 30 points."""
    margins = torch.cat([torch.full((600,), 2.1972), torch.full((400,), -2.1972)])
    assert calibration_error(margins, bins=2) == pytest.approx(0.3, abs=1e-4)


def test_log_odds_of_zero_claim_nothing_and_are_not_wrong() -> None:
    assert calibration_error(torch.zeros(50)) == 0


def test_fewer_pairs_than_bins_still_have_a_calibration_error() -> None:
    certain = calibration_error(torch.tensor([40.0, -40.0, 40.0]))
    assert certain == pytest.approx(1 / 3)
    assert 0 < calibration_error(torch.tensor([0.5, -2.0, 3.0])) < 1


def test_log_odds_that_are_all_alike_and_as_often_right_as_they_say_have_no_calibration_error() -> None:
    """All pairs at 75 %, and 75 % right."""
    margins = math.log(3) * torch.tensor([1.0, 1.0, 1.0, -1.0] * 25, dtype=torch.double)
    assert calibration_error(margins) == pytest.approx(0, abs=1e-12)


def test_an_interval_does_not_depend_on_how_many_samples_are_drawn_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    margins, families = simulated(120, 0.4), torch.arange(120) % 37
    expected = accuracy(margins, families)
    assert expected.low < expected.value < expected.high
    for block in (1, 500, 2000):
        monkeypatch.setattr(evaluation, "_AT_ONCE", block)
        assert accuracy(margins, families) == expected


def test_accuracy_is_the_share_of_positive_margins_and_a_tie_counts_half() -> None:
    reading = accuracy(torch.tensor([2.0, -1.0, 0.0, 0.5, 0.0]), torch.arange(5))
    assert reading.value == (1 + 0 + 0.5 + 1 + 0.5) / 5
    assert (reading.pairs, reading.prompts) == (5, 5)


def test_the_interval_holds_the_value_and_is_the_same_every_time() -> None:
    margins = simulated(300, 0.5)
    reading = accuracy(margins, torch.arange(300))
    assert 0 <= reading.low < reading.value < reading.high <= 1
    assert reading == accuracy(margins, torch.arange(300))


def test_the_interval_covers_the_truth_nineteen_times_in_twenty() -> None:
    covered = 0
    for seed in range(100):
        margins = torch.where(torch.rand(150, generator=chance(seed)) < 0.7, 1.0, -1.0)
        reading = accuracy(margins, torch.arange(150))
        covered += reading.low <= 0.7 <= reading.high
    assert 89 <= covered <= 99


def test_pairs_of_one_prompt_count_once_towards_certainty() -> None:
    margins, prompts = simulated(100, 0.5), torch.arange(100)
    once, five_times = accuracy(margins, prompts), accuracy(margins.repeat(5), prompts.repeat(5))
    assert [five_times.low, five_times.high] == pytest.approx([once.low, once.high])
    assert (five_times.pairs, five_times.prompts) == (500, 100)
    careless = accuracy(margins.repeat(5), torch.arange(500))
    assert careless.high - careless.low < 0.6 * (five_times.high - five_times.low)


def test_margins_that_are_all_right_leave_no_doubt_however_uneven_the_families() -> None:
    reading = accuracy(torch.ones(10), torch.tensor([0, 0, 0, 0, 0, 0, 1, 2, 2, 3]))
    assert (reading.value, reading.low, reading.high) == (1, 1, 1)


def test_family_numbers_need_not_be_dense() -> None:
    margins = simulated(20, 0.5)
    assert accuracy(margins, torch.arange(20) * 1000 - 7) == accuracy(margins, torch.arange(20))


def test_folds_never_split_a_family_and_are_of_about_equal_size() -> None:
    families = torch.randint(60, (400,), generator=chance(3)) * 17
    fold = folds(families)
    homes = set(zip(families.tolist(), fold.tolist(), strict=True))
    assert len(homes) == len(set(families.tolist()))
    sizes = [sum(home == number for _, home in homes) for number in range(5)]
    assert max(sizes) - min(sizes) <= 1


def test_folds_depend_on_the_seed_alone() -> None:
    families = torch.arange(100)
    assert torch.equal(folds(families), folds(families))
    assert not torch.equal(folds(families), folds(families, seed=1))
    assert set(folds(families, count=3).tolist()) == {0, 1, 2}


def test_a_row_that_weighs_twice_counts_twice_towards_the_slope() -> None:
    margins = simulated(300, 0.7)
    weights = torch.where(torch.arange(300) < 100, 2.0, 1.0)
    weighted, repeated = platt_slope(margins, weights), platt_slope(torch.cat([margins, margins[:100]]))
    assert weighted is not None
    assert weighted == pytest.approx(repeated, rel=1e-3)
    assert weighted != pytest.approx(platt_slope(margins), rel=1e-3)
    assert platt_slope(margins, weights * 100) == pytest.approx(weighted)


def test_likelihoods_are_those_of_a_logistic_at_the_best_slope() -> None:
    margins = simulated(2000, 1.0)
    slope = platt_slope(margins)
    assert slope is not None
    expected = torch.sigmoid(slope * margins).log()
    torch.testing.assert_close(likelihoods(margins, torch.ones(2000)), expected)
    assert quality(margins, torch.ones(2000)) == pytest.approx(float(expected.mean()))
    for other in (0.8 * slope, 1.25 * slope):
        assert float(torch.sigmoid(other * margins).log().mean()) < quality(margins, torch.ones(2000))


def test_likelihoods_do_not_depend_on_the_scale_of_margins_or_weights_and_weights_share_them_out() -> None:
    margins, weights = simulated(200, 1.0), torch.arange(1.0, 201.0)
    torch.testing.assert_close(likelihoods(1e3 * margins, 7 * weights), likelihoods(margins, weights))
    alike, weighted = likelihoods(margins, torch.ones(200)), likelihoods(margins, weights)
    assert float(weighted[0] / alike[0]) < 0.02
    assert float(weighted[-1] / alike[-1]) > 1.5


def test_margins_without_signal_are_as_likely_as_the_toss_of_a_coin() -> None:
    assert quality(-simulated(500, 1.0), torch.ones(500)) == pytest.approx(-math.log(2))


def test_auroc_is_the_chance_that_a_margin_beats_that_of_another_pair_turned_round() -> None:
    margins = torch.tensor([2.0, -1.0, 0.0, 0.5, 1.0, 0.0])
    wins = [float(a > -b) + 0.5 * float(a == -b) for a in margins for b in margins]
    assert auroc(margins) == pytest.approx(sum(wins) / len(wins))


@pytest.mark.parametrize(("margins", "value"), [([1.0, 2.0], 1.0), ([-1.0, -2.0], 0.0), ([0.0, 0.0], 0.5)])
def test_auroc_of_margins_that_are_all_right_all_wrong_or_all_zero(margins: list[float], value: float) -> None:
    assert auroc(torch.tensor(margins)) == value


def test_auroc_sees_the_ranks_alone() -> None:
    margins = simulated(300, 0.5)
    assert auroc(margins**3) == pytest.approx(auroc(margins))
    assert 0.5 < auroc(margins) < 1
    assert auroc(-margins) == pytest.approx(1 - auroc(margins))


def test_correlation_is_pearsons() -> None:
    x, y = torch.tensor([1.0, 2.0, 4.0]), torch.tensor([3.0, 1.0, 0.0])
    assert correlation(x, y) == pytest.approx(float(torch.corrcoef(torch.stack([x, y]))[0, 1]))
    assert correlation(x, 5 - 2 * x) == pytest.approx(-1)


def test_a_series_that_never_changes_correlates_with_nothing() -> None:
    assert correlation(torch.ones(5), torch.arange(5.0)) is None
    assert correlation(torch.arange(5.0), torch.zeros(5)) is None


@pytest.mark.parametrize("levels", [2, 4, 7])
def test_level_edges_cut_margins_into_parts_of_equal_size(levels: int) -> None:
    margins = torch.randn(levels * 100, generator=chance(4))
    edges = level_edges(margins, levels)
    assert edges == sorted(edges)
    levels_reached = torch.bucketize(margins.double(), torch.tensor(edges, dtype=torch.double), right=True)
    assert torch.bincount(levels_reached).tolist() == [100] * levels


def test_two_levels_part_at_the_median() -> None:
    assert level_edges(torch.tensor([5.0, -1.0, 2.0]), 2) == [2.0]


def test_a_gain_is_the_difference_of_two_accuracies_on_the_same_pairs() -> None:
    families = torch.arange(100) // 2
    better, worse = torch.ones(100), torch.ones(100)
    better[:10] = -1
    worse[5:30] = -1
    found = gain(better, worse, families)
    assert found.value == pytest.approx(accuracy(better, families).value - accuracy(worse, families).value)
    assert 0 < found.low < found.value < found.high
    swapped = gain(worse, better, families)
    assert (swapped.value, swapped.low, swapped.high) == pytest.approx((-found.value, -found.high, -found.low))


def test_margins_that_agree_gain_nothing_with_certainty() -> None:
    margins = torch.tensor([1.0, -1.0, 0.0, 2.0])
    found = gain(margins, 3 * margins, torch.arange(4))
    assert (found.value, found.low, found.high) == (0, 0, 0)
