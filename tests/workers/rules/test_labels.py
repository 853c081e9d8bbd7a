"""Splitting, scoring and calibrating labels."""

import pytest
import torch
from torch import Tensor

from workers.rules.labels import Labels, auc, balanced, calibrate, folds, mean_area


def exchanges(rules: int = 5) -> Labels:
    """For each rule sixteen labels: four prompts with one response of either side, and eight of one side."""
    sides, families, owners = [], [], []
    for rule in range(rules):
        for twin in range(4):
            sides += [1.0, -1.0]
            families += [100 * rule + twin] * 2
        for single in range(8):
            sides.append(1.0 if single < 4 else -1.0)
            families.append(100 * rule + 10 + single)
        owners += [rule] * 16
    count = len(sides)
    blank = torch.zeros(count, rules, dtype=torch.double)
    targets = torch.tensor(sides, dtype=torch.double)
    return Labels(
        torch.arange(count),
        torch.tensor(owners),
        targets,
        torch.tensor(families),
        blank,
        torch.zeros(rules, dtype=torch.long),
    )


def test_folds_keep_twins_together_and_hold_one_of_either_side_of_every_rule() -> None:
    labels = exchanges()
    fold = folds(labels, 8)
    for family in set(labels.families.tolist()):
        assert len(set(fold[labels.families == family].tolist())) == 1
    for rule in range(5):
        for side in (1.0, -1.0):
            mine = (labels.rules == rule) & (labels.targets == side)
            assert torch.bincount(fold[mine], minlength=8).tolist() == [1] * 8


def test_both_sides_count_alike_however_many_there_are() -> None:
    targets = torch.tensor([1.0, -1.0, -1.0, -1.0, 0.5], dtype=torch.double)
    keeps, breaks = balanced(targets, torch.tensor([0, 0, 0, 0, 0]), 1)
    assert float(keeps.sum()) == pytest.approx(1)
    assert float(breaks.sum()) == pytest.approx(1)
    assert float(keeps[0]) == pytest.approx(1 / 1.75)
    assert float(breaks[4]) == pytest.approx(0.25 / 3.25)


@pytest.mark.parametrize(
    ("high", "low", "value"),
    [([3, 4, 5, 6], [0, 1, 2, 2], 1.0), ([1, 1, 1, 1], [1, 1, 1, 1], 0.5), ([0, 1, 2, 3], [4, 5, 6, 7], 0.0)],
)
def test_the_area_is_the_chance_of_the_right_order_with_ties_half(
    high: list[int], low: list[int], value: float
) -> None:
    scores = torch.tensor([*high, *low], dtype=torch.double)
    sides = torch.tensor([1.0] * 4 + [-1.0] * 4)
    found = auc(scores, sides, torch.arange(8))
    assert found is not None
    assert found.value == value
    assert found.low <= value <= found.high
    assert (found.above, found.below) == (4, 4)
    assert mean_area(scores[:, None], sides[:, None]) == value


def test_an_area_of_too_few_labels_is_not_given() -> None:
    assert auc(torch.randn(10), torch.tensor([1.0] * 3 + [-1.0] * 7), torch.arange(10)) is None


def test_the_interval_resamples_families_so_that_copies_do_not_narrow_it() -> None:
    source = torch.Generator().manual_seed(0)
    sides = torch.tensor([1.0, -1.0]).repeat(20)
    scores = sides + 2 * torch.randn(40, generator=source)
    alone = auc(scores, sides, torch.arange(40))
    copied = auc(scores.repeat(5), sides.repeat(5), torch.arange(40).repeat(5))
    assert alone is not None
    assert copied is not None
    assert copied.high - copied.low == pytest.approx(alone.high - alone.low, abs=0.03)


def drawn(slope: float, offset: float, count: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    source = torch.Generator().manual_seed(seed)
    targets = torch.tensor([1.0, -1.0], dtype=torch.double).repeat(count // 2)
    # Two normal densities of unit width at ±½: their log-odds is the score itself.
    scores = targets / 2 + torch.randn(count, generator=source, dtype=torch.double)
    return (scores - offset) / slope, targets


def test_with_many_labels_log_odds_are_those_that_the_scores_were_drawn_with() -> None:
    raw, targets = drawn(3.0, 0.5, 20_000)
    found = calibrate(raw, targets, torch.zeros(20_000, dtype=torch.long), 1)
    assert float(found.slopes[0]) == pytest.approx(3.0, rel=0.1)
    assert float(found.offsets[0]) == pytest.approx(0.5, abs=0.1)


def test_a_rule_with_few_labels_leans_on_the_others() -> None:
    many, targets = drawn(3.0, 0.0, 4000)
    few = torch.tensor([1.0, 1.1, -1.0, -1.2, 0.9, -0.8], dtype=torch.double)  # would be told apart with any slope
    sides = few.sign()
    rules = torch.cat([torch.zeros(4000, dtype=torch.long), torch.ones(6, dtype=torch.long)])
    found = calibrate(torch.cat([many, few]), torch.cat([targets, sides]), rules, 2)
    assert 2.5 < float(found.slopes[1]) < 7


def test_scores_the_wrong_way_round_do_not_turn_a_rule_round() -> None:
    raw, targets = drawn(3.0, 0.0, 4000)
    rules = torch.tensor([0, 0, 0, 1]).repeat(1000)
    targets = torch.where(rules == 1, -targets, targets)
    assert (calibrate(raw, targets, rules, 2).slopes > 0).all()
