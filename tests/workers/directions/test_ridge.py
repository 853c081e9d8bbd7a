"""The ridge read-out on synthetic activations in which the truth is known."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity

from workers.directions.errors import UnfitData
from workers.directions.ridge import (
    LAMBDAS,
    MIN_PAIRS,
    RidgeFit,
    difference_of_means,
    fit_ridge,
    root_mean_square,
)

SITES, WIDTH = 2, 12
FAMILIES = torch.arange(1000)


def chance(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def planted(count: int, *, seed: int, signal: float = 1.0) -> tuple[Tensor, Tensor]:
    """Differences with one planted mean in white noise, and the direction planted: [n, S, d] and [S, d]."""
    direction = torch.randn(SITES, WIDTH, generator=chance(99))
    direction /= direction.norm()
    return signal * direction + torch.randn(count, SITES, WIDTH, generator=chance(seed)), direction


def correlated(count: int, *, seed: int) -> tuple[Tensor, Tensor]:
    """Differences whose noise is strongest near the mean, and the best read-out Σ⁻¹μ."""
    size = SITES * WIDTH
    mean = torch.randn(size, generator=chance(1))
    near = mean + 0.5 * mean.norm() * torch.nn.functional.normalize(torch.randn(size, generator=chance(2)), dim=0)
    covariance = torch.eye(size) + 4 * torch.outer(near, near)
    noise = torch.randn(count, size, generator=chance(seed)) @ torch.linalg.cholesky(covariance).T
    best = torch.linalg.solve(covariance, mean)
    return (0.3 * mean + noise).view(count, SITES, WIDTH), best.view(SITES, WIDTH)


def hits(vectors: Tensor, differences: Tensor) -> float:
    return float((torch.einsum("nsd,sd->n", differences, vectors) > 0).float().mean())


def cosine(one: Tensor, other: Tensor) -> float:
    return float(cosine_similarity(one.flatten(), other.flatten(), dim=0))


def test_a_planted_direction_is_recovered() -> None:
    differences, direction = planted(1000, seed=3)
    fit = fit_ridge(differences, FAMILIES)
    assert fit.vectors.shape == (len(LAMBDAS), SITES, WIDTH)
    assert cosine(fit.vectors[fit.best()], direction) > 0.97
    assert cosine(difference_of_means(differences), direction) > 0.7


def test_under_correlated_noise_it_finds_what_the_difference_of_means_misses() -> None:
    differences, best = correlated(1000, seed=4)
    fresh, _ = correlated(4000, seed=5)
    fit = fit_ridge(differences, FAMILIES)
    ridge, means = fit.vectors[fit.best()], difference_of_means(differences)
    assert cosine(ridge, best) > 0.9
    assert hits(ridge, fresh) > hits(means, fresh) + 0.1
    assert hits(ridge, fresh) == pytest.approx(hits(best, fresh), abs=0.02)


def test_coordinates_of_any_size_are_read_alike() -> None:
    differences, _ = planted(200, seed=6)
    sizes = torch.logspace(-3, 3, SITES * WIDTH).view(SITES, WIDTH)
    plain, stretched = (fit_ridge(d, FAMILIES[:200]) for d in (differences, differences * sizes))
    torch.testing.assert_close(stretched.vectors * sizes, plain.vectors, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(stretched.held_out, plain.held_out, rtol=1e-4, atol=1e-6)


def refit(scaled: Tensor, penalty: float) -> Tensor:
    """Ridge regression of the constant 1, in the primal: (XᵀX/D + λI)⁻¹ Xᵀ1/D."""
    gram = scaled.T @ scaled / scaled.shape[1]
    penalised = gram + penalty * torch.eye(len(gram)).double()
    solution: Tensor = torch.linalg.solve(penalised, scaled.sum(dim=0) / scaled.shape[1])
    return solution


@pytest.mark.parametrize("families", ["every pair its own", "uneven families"])
def test_held_out_margins_equal_refits_without_the_family(families: str) -> None:
    differences, _ = planted(45, seed=7, signal=0.5)
    numbers = torch.arange(45) if families == "every pair its own" else torch.arange(45) ** 2 % 11
    fit = fit_ridge(differences, numbers)
    scaled = (differences.double() / root_mean_square(differences)).flatten(1)
    for penalty, held_out in zip(fit.lambdas, fit.held_out, strict=True):
        expected = torch.zeros(45).double()
        for family in set(numbers.tolist()):
            expected[numbers == family] = scaled[numbers == family] @ refit(scaled[numbers != family], penalty)
        torch.testing.assert_close(held_out, expected, rtol=1e-9, atol=1e-9)


def test_the_read_out_is_the_primal_solution() -> None:
    differences, _ = planted(60, seed=8)
    scale = root_mean_square(differences)
    scaled = (differences.double() / scale).flatten(1)
    fit = fit_ridge(differences, FAMILIES[:60], lambdas=(0.5, 20.0))
    for penalty, vectors in zip((0.5, 20.0), fit.vectors, strict=True):
        expected = refit(scaled, penalty).view_as(scale) / scale
        torch.testing.assert_close(vectors, expected.float())


def test_more_coordinates_than_pairs_are_no_obstacle() -> None:
    wide = torch.randn(30, 3, 200, generator=chance(9)) + 0.5
    fit = fit_ridge(wide, FAMILIES[:30])
    assert torch.isfinite(fit.vectors).all()
    assert (fit.held_out[fit.best()] > 0).float().mean() > 0.9


def test_the_best_penalty_is_the_one_whose_held_out_margins_separate_best_at_any_scale() -> None:
    unsure, wrong, sure = [100.0, 100.0, 100.0, -1.0], [-9.0, -9.0, -8.0, -9.0], [0.01, 0.01, 0.01, 0.01]
    fit = RidgeFit((1.0, 2.0, 3.0), torch.zeros(3, 1, 1), torch.tensor([unsure, wrong, sure]))
    assert fit.best() == 2


def test_a_coordinate_that_never_moves_is_left_alone() -> None:
    differences, _ = planted(100, seed=10)
    differences[:, 0, 3] = 0
    assert root_mean_square(differences)[0, 3] == 1
    assert (fit_ridge(differences, FAMILIES[:100]).vectors[:, 0, 3] == 0).all()


def test_root_mean_square_is_taken_over_pairs() -> None:
    differences = torch.tensor([[[3.0, 0.0]], [[4.0, 0.0]]])
    assert root_mean_square(differences).tolist() == [[pytest.approx(12.5**0.5), 1.0]]


def test_the_difference_of_means_has_unit_length_at_every_site() -> None:
    differences, _ = planted(100, seed=11)
    torch.testing.assert_close(difference_of_means(differences).norm(dim=1), torch.ones(SITES))


@pytest.mark.parametrize("fit", [lambda d: fit_ridge(d, FAMILIES[: len(d)]), difference_of_means])
@pytest.mark.parametrize(
    ("differences", "why"),
    [
        (planted(MIN_PAIRS - 1, seed=12)[0], "19 pairs are too few to fit a direction; at least 20 are needed"),
        (planted(50, seed=12)[0].index_fill(0, torch.tensor([7]), float("nan")), "not finite"),
        (planted(50, seed=12)[0].index_fill(0, torch.tensor([7]), float("inf")), "not finite"),
        (torch.zeros(50, SITES, WIDTH), "the same activations everywhere"),
    ],
    ids=["too few", "nan", "infinite", "constant"],
)
def test_data_that_cannot_give_a_direction_is_refused_by_name(
    differences: Tensor, why: str, fit: Callable[[Tensor], object]
) -> None:
    with pytest.raises(UnfitData, match=why):
        fit(differences)


def test_twenty_pairs_are_enough() -> None:
    assert torch.isfinite(fit_ridge(planted(MIN_PAIRS, seed=13)[0], FAMILIES[:MIN_PAIRS]).vectors).all()
