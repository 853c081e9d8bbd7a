"""Directions planted in synthetic activations, and which of them every recipe and every estimator recover."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from tests.workers.directions.synthetic import accuracy, chance, cosine, one_layer, rows
from workers.directions.labels import centre
from workers.directions.logistic import fit_logistic
from workers.directions.prompted import fit_prompted
from workers.directions.ridge import fit_mean, fit_ridge
from workers.directions.rows import LayerRows
from workers.directions.selection import Method, best_fit, choose, cross_validate

POOLINGS, WIDTH, COUNT = 2, 8, 1200
PLANTED = torch.nn.functional.normalize(torch.randn(POOLINGS * WIDTH, generator=chance(99)), dim=0).view(2, WIDTH)


def noise(count: int, seed: int) -> Tensor:
    return torch.randn(count, POOLINGS, WIDTH, generator=chance(seed))


def requests(count: int, seed: int) -> Tensor:
    """What a prompt adds to everything that is read after it."""
    return 5 * noise(count, seed)


def pair_rows() -> LayerRows:
    """Chosen minus rejected, who share a prompt."""
    prompts = requests(COUNT, 1)
    chosen, rejected = prompts + noise(COUNT, 2) + PLANTED, prompts + noise(COUNT, 3)
    return one_layer(chosen - rejected)


def labelled_rows() -> LayerRows:
    """Responses with labels of their own, two to a prompt."""
    labels = [float(i % 2) for i in range(COUNT)]
    families = torch.arange(COUNT) // 2
    activations = requests(COUNT, 1)[families] + noise(COUNT, 2) + torch.tensor(labels).view(-1, 1, 1) * PLANTED
    return centre(rows(activations[:, None], families=families), labels).at(0)


def contrast_rows() -> LayerRows:
    """One response under a good and under a bad instruction, which move some responses more than others."""
    responses = requests(COUNT, 1)
    pull = 2 * torch.rand(COUNT, 1, 1, generator=chance(4)) * PLANTED
    good, bad = responses + noise(COUNT, 2) + pull / 2, responses + noise(COUNT, 3) - pull / 2
    return one_layer(good - bad)


def legend_rows() -> LayerRows:
    """The mean of eight refusals minus an answer, after one request."""
    prompts = requests(COUNT, 1)
    refusals = torch.stack([prompts + noise(COUNT, 10 + i) + PLANTED for i in range(8)]).mean(dim=0)
    return one_layer(refusals - prompts - noise(COUNT, 3))


RECIPES: dict[str, Callable[[], LayerRows]] = {
    "pairs": pair_rows,
    "labelled": labelled_rows,
    "contrast": contrast_rows,
    "legend": legend_rows,
}
ESTIMATORS: dict[str, Callable[[LayerRows], Tensor]] = {
    "ridge": lambda layer: best_fit(fit_ridge(layer), layer.weights).vectors,
    "logistic": lambda layer: best_fit(fit_logistic(layer), layer.weights).vectors,
    "by prompt": lambda layer: best_fit(fit_prompted(layer), layer.weights).vectors,
    "mean": lambda layer: fit_mean(layer).vectors,
}


@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize("recipe", RECIPES)
def test_every_estimator_recovers_the_direction_from_the_rows_of_every_recipe(recipe: str, estimator: str) -> None:
    assert cosine(ESTIMATORS[estimator](RECIPES[recipe]()), PLANTED) > 0.93


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_a_direction_turned_round_is_recovered_turned_round(estimator: str) -> None:
    layer = pair_rows()
    turned = one_layer(-layer.differences)
    assert cosine(ESTIMATORS[estimator](turned), -PLANTED) > 0.93


def correlated(count: int, *, seed: int) -> tuple[Tensor, Tensor]:
    """Differences whose noise is strongest near their mean, and the best read-out Σ⁻¹μ."""
    size = POOLINGS * WIDTH
    mean = torch.randn(size, generator=chance(1))
    near = mean + 0.5 * mean.norm() * torch.nn.functional.normalize(torch.randn(size, generator=chance(2)), dim=0)
    covariance = torch.eye(size) + 4 * torch.outer(near, near)
    errors = torch.randn(count, size, generator=chance(seed)) @ torch.linalg.cholesky(covariance).T
    best = torch.linalg.solve(covariance, mean)
    return (0.3 * mean + errors).view(count, POOLINGS, WIDTH), best.view(POOLINGS, WIDTH)


def test_under_correlated_noise_the_ridge_finds_what_the_difference_of_means_misses() -> None:
    differences, best = correlated(COUNT, seed=4)
    fresh, _ = correlated(4000, seed=5)
    ridge, mean = (ESTIMATORS[name](one_layer(differences)) for name in ("ridge", "mean"))
    assert cosine(ridge, best) > 0.9
    assert accuracy(ridge, fresh) > accuracy(mean, fresh) + 0.1
    assert accuracy(ridge, fresh) == pytest.approx(accuracy(best, fresh), abs=0.02)


def test_cross_validation_says_so_without_fresh_rows() -> None:
    differences, _ = correlated(COUNT, seed=4)
    known = rows(differences[:, None])
    ridge, mean = (cross_validate(known, Method(estimator=name)).raw for name in ("ridge", "mean"))
    assert float((ridge > 0).double().mean()) > float((mean > 0).double().mean()) + 0.06


def test_logistic_regression_reads_much_like_the_ridge() -> None:
    differences, _ = correlated(COUNT, seed=4)
    fresh, _ = correlated(4000, seed=5)
    ridge, logistic = (ESTIMATORS[name](one_layer(differences)) for name in ("ridge", "logistic"))
    assert cosine(ridge, logistic) > 0.97
    assert accuracy(logistic, fresh) == pytest.approx(accuracy(ridge, fresh), abs=0.01)


def test_a_source_that_weighs_more_pulls_the_direction_towards_its_own() -> None:
    mine, other = pair_rows().differences, noise(COUNT, 20) + torch.roll(PLANTED, 3, dims=1)
    both = torch.cat([mine, other])[:, None]
    weights = torch.ones(2 * COUNT)
    cosines = []
    for weight in (0.1, 1.0, 10.0):
        weights[:COUNT] = weight
        cosines.append(cosine(choose(rows(both, weights=weights), Method()).fits[0].vectors, PLANTED))
    assert cosines == sorted(cosines)
    assert cosines[2] > cosines[0] + 0.3
