"""Labelled responses with a prompt each: their groups stay together, and are read like the pairs they stand for."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from app.schemas.directions import Accuracy
from tests.workers.directions.synthetic import chance, gaussian, rows
from workers.directions.evaluation import accuracy, calibration_error, platt_slope
from workers.directions.labels import centre
from workers.directions.rows import Rows
from workers.directions.selection import Method, choose, cross_validate

WIDTH = 16


def singles(safe: int, unsafe: int, *, signal: float, seed: int) -> Rows:
    """Responses with a prompt each, of which the safe ones are moved by `signal` in one coordinate."""
    activations = torch.randn(safe + unsafe, 1, 2, WIDTH, generator=chance(seed)) + 3
    activations[:safe, :, 0, 5] += signal
    return centre(rows(activations), [1.0] * safe + [0.0] * unsafe)


def held_out(made: Rows) -> Accuracy:
    pairs = made.pairs(0)
    return accuracy(pairs.mean(cross_validate(made, Method()).raw), pairs.families)


def test_labels_without_meaning_are_read_by_chance_though_one_is_rare() -> None:
    """Compared with a middle of all, rows of the rare label share it and give away each other across the folds."""
    found = [held_out(singles(20, 180, signal=0.0, seed=seed)) for seed in range(10)]
    assert 0.44 < sum(one.value for one in found) / len(found) < 0.57
    assert all(one.low <= 0.5 <= one.high for one in found)
    assert {(one.pairs, one.prompts) for one in found} == {(180, 20)}


def test_labels_with_meaning_are_read_though_one_is_rare() -> None:
    assert held_out(singles(20, 180, signal=3.0, seed=0)).low > 0.8


def test_groups_are_small_and_no_group_reaches_across_families() -> None:
    made = singles(20, 180, signal=0.0, seed=0)
    assert len(made) == 200
    _, sizes = torch.unique(made.groups, return_counts=True)
    assert sizes.tolist() == [10] * 20
    assert len(torch.unique(torch.stack([made.groups, made.families]), dim=1).T) == 20


def test_a_prompt_that_two_sources_share_makes_their_groups_one_family() -> None:
    sources = torch.tensor([0, 0, 1, 1, 1])
    before = rows(gaussian(5, 1, 2, 3), families=torch.tensor([0, 1, 1, 2, 3]), sources=sources)
    after = centre(before, [1.0, 0.0, 1.0, 0.0, None])
    assert after.families.tolist() == [0, 0, 0, 0, 3]
    assert after.groups.tolist() == [0, 0, 2, 2, -1]


def test_the_mean_of_a_safer_and_a_less_safe_row_is_their_difference() -> None:
    before = rows(gaussian(60, 1, 2, 4))
    before = replace(before, lengths=torch.arange(60.0) ** 2)
    raw, lengths = before.differences.clone(), before.lengths.clone()
    after = centre(before, [float(i < 9) for i in range(60)])
    first, second = after.compared()
    assert len(first) == 51
    pairs = (after.differences[after.members[first]] + after.differences[after.members[second]]) / 2
    torch.testing.assert_close(pairs, raw[after.members[first]] - raw[after.members[second]])
    noted = (after.lengths[first] + after.lengths[second]) / 2
    torch.testing.assert_close(noted, lengths[after.members[first]] - lengths[after.members[second]])


def test_margins_of_a_source_are_those_of_its_own_pairs() -> None:
    groups, sides = torch.tensor([-1, 0, 0, 0, 4, 4]), torch.tensor([0, 1, -1, -1, -1, 1])
    sources = torch.tensor([1, 0, 0, 0, 1, 1])
    made = rows(gaussian(6, 1, 2, 3), groups=groups, sides=sides, sources=sources, families=groups)
    margins = torch.tensor([1.0, 10.0, 20.0, 40.0, 3.0, 5.0])
    first, second = made.pairs(0), made.pairs(1)
    assert (first.mean(margins).tolist(), first.families.tolist()) == ([15.0, 25.0], [0, 0])
    assert (second.mean(margins).tolist(), second.families.tolist()) == ([1.0, 4.0], [-1, 4])


COUNT = 300


def fresh_pairs(count: int = 4000) -> Rows:
    noise = torch.randn(count, 2, 1, 2, WIDTH, generator=chance(77))
    noise[:, 0, :, 0, 5] += 1.5
    return rows(noise[:, 0] - noise[:, 1])


def responses() -> tuple[Tensor, Tensor]:
    """Safe and unsafe ones, as many of each."""
    safe, unsafe = torch.randn(2, COUNT, 1, 2, WIDTH, generator=chance(5))
    safe[:, :, 0, 5] += 1.5
    return safe, unsafe


def as_pairs() -> Rows:
    safe, unsafe = responses()
    return rows(safe - unsafe)


def as_labels(*, shared: bool) -> Rows:
    families = torch.arange(COUNT).repeat(2) if shared else torch.arange(2 * COUNT)
    return centre(rows(torch.cat(responses()), families=families), [1.0] * COUNT + [0.0] * COUNT)


def slope_of(made: Rows) -> tuple[float, Tensor]:
    """Log-odds per margin as a fit calibrates them on its first source, and those it then gives to fresh pairs."""
    read_out = choose(made, Method())
    slope = platt_slope(made.pairs(0).mean(read_out.held_out))
    assert slope is not None
    return slope, read_out.margins(fresh_pairs()) * slope


@pytest.mark.parametrize("shared", [True, False], ids=["two to a prompt", "a prompt each"])
def test_labels_are_calibrated_like_the_same_responses_given_as_pairs(shared: bool) -> None:
    slope, log_odds = slope_of(as_labels(shared=shared))
    expected, pair_odds = slope_of(as_pairs())
    assert slope == pytest.approx(expected, rel=0.2)
    assert float(log_odds.std() / pair_odds.std()) == pytest.approx(1, rel=0.2)


def test_labels_of_which_one_is_rare_are_calibrated_for_pairs_too() -> None:
    _, log_odds = slope_of(singles(100, 900, signal=1.5, seed=3))
    assert calibration_error(log_odds) < 0.05
    assert calibration_error(log_odds * 2) > 0.05
    assert platt_slope(log_odds) == pytest.approx(1, rel=0.25)
