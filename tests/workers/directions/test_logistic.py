"""Logistic regression on rows: the minimum is reached, and the margins held out were held out."""

import pytest
import torch
from torch import Tensor

from tests.workers.directions.synthetic import gaussian, one_layer, standardised, uneven
from workers.directions.evaluation import folds
from workers.directions.logistic import LAMBDAS, fit_logistic
from workers.directions.rows import LayerRows

COUNT = 60


def layer(signal: float = 0.3) -> LayerRows:
    families, weights = uneven(COUNT)
    differences = gaussian(COUNT, 2, 5) + signal * gaussian(2, 5, seed=1)
    return one_layer(differences, families=families, weights=weights)


def loss(scaled: Tensor, weights: Tensor, penalty: float, solution: Tensor) -> Tensor:
    """−Σ w_i log σ(x_i·β) + λ/8 |β|², whose curvature at zero is a quarter of the ridge's."""
    return -(weights * torch.nn.functional.logsigmoid(scaled @ solution)).sum() + penalty / 8 * solution.square().sum()


def minimiser(scaled: Tensor, weights: Tensor, penalty: float) -> Tensor:
    """Of the loss, by a general optimiser."""
    point = torch.zeros(scaled.shape[1], dtype=torch.double, requires_grad=True)
    optimiser = torch.optim.LBFGS(
        [point], max_iter=500, tolerance_grad=1e-10, tolerance_change=1e-14, line_search_fn="strong_wolfe"
    )

    def closure() -> Tensor:
        optimiser.zero_grad()
        value = loss(scaled, weights, penalty, point)
        value.backward()  # type: ignore[no-untyped-call]
        return value

    optimiser.step(closure)  # type: ignore[no-untyped-call]
    return point.detach()


def held_out(here: LayerRows, penalty: float) -> Tensor:
    """Margins of every fold's rows from the minimiser over the other folds' rows."""
    scaled, fold = standardised(here), folds(here.families)
    margins = torch.zeros(len(here), dtype=torch.double)
    for number in set(fold.tolist()):
        out = fold == number
        margins[out] = scaled[out] @ minimiser(scaled[~out], here.weights[~out], penalty)
    return margins


def test_the_read_out_minimises_the_penalised_loss() -> None:
    here = layer()
    scaled = standardised(here)
    fits = fit_logistic(here)
    assert [fit.penalty for fit in fits] == list(LAMBDAS)
    for fit in fits:
        expected = scaled @ minimiser(scaled, here.weights, fit.penalty)
        torch.testing.assert_close(here.margins(fit.vectors), expected, rtol=1e-5, atol=1e-6)


def test_held_out_margins_are_those_of_fits_without_a_fifth_of_the_families() -> None:
    for fit in fit_logistic(layer()):
        torch.testing.assert_close(fit.held_out, held_out(layer(), fit.penalty), rtol=1e-5, atol=1e-6)


def test_with_fewer_families_than_folds_each_is_held_out_by_itself() -> None:
    few = one_layer(gaussian(40, 2, 4) + 0.5, families=torch.arange(40) % 2)
    (fit,) = fit_logistic(few, (3.0,))
    torch.testing.assert_close(fit.held_out, held_out(few, 3.0), rtol=1e-5, atol=1e-6)


def test_a_weight_of_two_is_the_row_twice() -> None:
    differences, families = gaussian(30, 2, 4) + 0.3, torch.arange(30)
    weighted = one_layer(differences, weights=torch.where(families < 5, 2.0, 1.0))
    repeated = one_layer(torch.cat([differences, differences[:5]]), families=torch.cat([families, families[:5]]))
    for one, other in zip(fit_logistic(weighted), fit_logistic(repeated), strict=True):
        torch.testing.assert_close(one.vectors, other.vectors, rtol=1e-5, atol=1e-7)
        torch.testing.assert_close(one.held_out, other.held_out[:30], rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("size", [1e-4, 1.0, 1e4])
def test_rows_that_a_plane_separates_have_a_finite_read_out_at_any_scale(size: float) -> None:
    differences = size * (gaussian(40, 2, 4).abs() + 0.1)
    for fit in fit_logistic(one_layer(differences)):
        assert torch.isfinite(fit.vectors).all()
        assert (fit.held_out > 0).all()
        assert float(fit.held_out.max()) < 100
