"""The ridge read-out and the difference of means against refits by brute force."""

import pytest
import torch
from torch import Tensor

from tests.workers.directions.synthetic import accuracy, gaussian, one_layer, standardised, uneven
from workers.directions import ridge
from workers.directions.ridge import LAMBDAS, fit_mean, fit_ridge, repeated_families
from workers.directions.rows import LayerRows

COUNT = 45
NARROW, WIDE = 6, 30  # twice that many coordinates are fewer, and more, than there are rows


def layer(width: int, *, repeated: bool = True, weighted: bool = True, signal: float = 0.3) -> LayerRows:
    families, weights = uneven(COUNT)
    return one_layer(
        gaussian(COUNT, 2, width) + signal * gaussian(2, width, seed=1),
        families=families if repeated else torch.arange(COUNT).flip(0),
        weights=weights if weighted else None,
    )


def refit(scaled: Tensor, weights: Tensor, penalty: float) -> Tensor:
    """The minimiser of Σ w_i (1 − x_i·β)² + λ|β|² from its normal equations."""
    moment = scaled.T @ (weights[:, None] * scaled)
    solution: Tensor = torch.linalg.solve(moment + penalty * torch.eye(len(moment)).double(), weights @ scaled)
    return solution


@pytest.mark.parametrize("weighted", [False, True], ids=["alike", "weighted"])
@pytest.mark.parametrize("repeated", [False, True], ids=["every row its own family", "uneven families"])
@pytest.mark.parametrize("width", [NARROW, WIDE], ids=["by coordinates", "by rows"])
def test_held_out_margins_equal_refits_without_the_family(width: int, repeated: bool, weighted: bool) -> None:
    here = layer(width, repeated=repeated, weighted=weighted)
    scaled = standardised(here)
    fits = fit_ridge(here)
    assert [fit.penalty for fit in fits] == list(LAMBDAS)
    for fit in fits:
        expected = torch.zeros(COUNT).double()
        for family in set(here.families.tolist()):
            out = here.families == family
            expected[out] = scaled[out] @ refit(scaled[~out], here.weights[~out], fit.penalty)
        torch.testing.assert_close(fit.held_out, expected, rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("width", [NARROW, WIDE], ids=["by coordinates", "by rows"])
def test_the_read_out_is_the_primal_solution_in_units_of_activations(width: int) -> None:
    here = layer(width)
    scaled = standardised(here)
    for fit in fit_ridge(here, (0.5, 20.0)):
        expected = scaled @ refit(scaled, here.weights, fit.penalty)
        torch.testing.assert_close(here.margins(fit.vectors), expected, rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("width", [NARROW, WIDE])
def test_the_way_by_coordinates_and_the_way_by_rows_agree(monkeypatch: pytest.MonkeyPatch, width: int) -> None:
    here = layer(width)
    results = []
    for way in (ridge._by_coordinates, ridge._by_rows):
        monkeypatch.setattr(ridge, "_by_coordinates", way)
        monkeypatch.setattr(ridge, "_by_rows", way)
        results.append(fit_ridge(here))
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one.vectors, other.vectors, rtol=1e-8, atol=1e-10)
        torch.testing.assert_close(one.held_out, other.held_out, rtol=1e-8, atol=1e-9)


def test_a_weight_of_two_is_the_row_twice() -> None:
    differences, families = gaussian(20, 2, 4) + 0.3, torch.arange(20)
    twice = torch.cat([differences, differences[:5]])
    weighted = one_layer(differences, weights=torch.where(families < 5, 2.0, 1.0))
    repeated = one_layer(twice, families=torch.cat([families, families[:5]]))
    for one, other in zip(
        [*fit_ridge(weighted), fit_mean(weighted)], [*fit_ridge(repeated), fit_mean(repeated)], strict=True
    ):
        torch.testing.assert_close(one.vectors, other.vectors)
        torch.testing.assert_close(one.held_out, other.held_out[:20])


def test_coordinates_of_any_size_are_read_alike() -> None:
    differences = gaussian(100, 2, 6) + 0.4
    sizes = torch.logspace(-3, 3, 12).view(2, 6)
    for plain, stretched in zip(
        fit_ridge(one_layer(differences)), fit_ridge(one_layer(differences * sizes)), strict=True
    ):
        torch.testing.assert_close(stretched.vectors * sizes.double(), plain.vectors, rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(stretched.held_out, plain.held_out, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("width", [NARROW, WIDE], ids=["by coordinates", "by rows"])
def test_a_coordinate_that_never_moves_is_left_alone(width: int) -> None:
    differences = gaussian(COUNT, 2, width) + 0.3
    differences[:, 0, 3] = 0
    for fit in fit_ridge(one_layer(differences)):
        assert float(fit.vectors[0, 3].abs()) < 1e-12
        assert torch.isfinite(fit.held_out).all()


def test_rows_that_are_all_the_same_are_read_by_what_they_share() -> None:
    same = (torch.arange(1.0, 7.0).view(1, 1, 6)).repeat(30, 2, 1)
    for fit in fit_ridge(one_layer(same)):
        assert torch.isfinite(fit.vectors).all()
        assert accuracy(fit.vectors, same) == 1
        assert (fit.held_out > 0).all()


def test_the_difference_of_means_has_unit_length_at_every_pooling() -> None:
    here = layer(NARROW)
    expected = torch.einsum("n,npd->pd", here.weights, here.differences.double())
    torch.testing.assert_close(fit_mean(here).vectors, torch.nn.functional.normalize(expected, dim=1))


def test_held_out_margins_of_the_difference_of_means_equal_refits_without_the_family() -> None:
    here = layer(NARROW)
    expected = torch.zeros(COUNT).double()
    for family in set(here.families.tolist()):
        out = here.families == family
        rest = one_layer(here.differences[~out], weights=here.weights[~out])
        expected[out] = one_layer(here.differences[out]).margins(fit_mean(rest).vectors)
    torch.testing.assert_close(fit_mean(here).held_out, expected)


def test_families_with_more_than_one_row_are_found_wherever_their_rows_are() -> None:
    found = repeated_families(torch.tensor([7, 3, 7, 5, 9, 3, 7]))
    assert [members.tolist() for members in found] == [[1, 5], [0, 2, 6]]
    assert repeated_families(torch.arange(5)) == []
