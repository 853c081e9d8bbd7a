"""Ridge LDA on differences: the linear read-out with the best pair accuracy, jointly over several sites.

With d_i = h(c_i) − h(r_i), w ∝ (S + λI)⁻¹ m is linear discriminant analysis on differences, and the same as ridge
regression of the constant 1 on the differences without an intercept. Every coordinate is first divided by its root mean
square, so that λ means the same at every site. In the dual form one eigendecomposition of the n × n kernel gives all λ
and their exact leave-one-out scores (the coordinates' scale alone is taken from all pairs).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from workers.directions.errors import UnfitData

LAMBDAS = (0.3, 1.0, 3.0, 10.0, 30.0, 100.0)
"""Ridge penalties tried, relative to the mean eigenvalue that one coordinate contributes."""

MIN_PAIRS = 20


@dataclass(frozen=True)
class RidgeFit:
    """Ridge read-outs for every λ.

    Attributes:
        lambdas: the L penalties.
        vectors: [L, S, d] read-outs; a pair's raw margin is the inner product with its differences.
        held_out: [L, n] margin of each pair from a read-out fitted without any pair of its family.
    """

    lambdas: tuple[float, ...]
    vectors: Tensor
    held_out: Tensor

    def best(self) -> int:
        """Index of the λ with the best held-out log-likelihood, each λ at its own best scale."""
        scaled = self.held_out / self.held_out.square().mean(dim=1, keepdim=True).sqrt()
        scales = torch.linspace(0.05, 3, 60, dtype=scaled.dtype)[:, None, None]
        loss = torch.nn.functional.softplus(-scales * scaled).mean(dim=2)
        return int(loss.min(dim=0).values.argmin())


def root_mean_square(differences: Tensor) -> Tensor:
    """[S, d] root mean square of [n, S, d] differences; 1 where a coordinate never moves."""
    scale: Tensor = differences.double().square().mean(dim=0).sqrt()
    scale[scale == 0] = 1
    return scale


def fit_ridge(differences: Tensor, families: Tensor, lambdas: Sequence[float] = LAMBDAS) -> RidgeFit:
    """Fit jointly over all sites.

    Args:
        differences: [n, S, d] chosen minus rejected activations.
        families: [n] number of the family of each pair; pairs of one prompt share it and are left out together.
        lambdas: penalties.

    Raises:
        UnfitData: too few pairs, activations that are not finite, or none that differ.
    """
    check_differences(differences)
    scale = root_mean_square(differences)
    scaled = (differences.double() / scale).flatten(1)
    kernel = scaled @ scaled.T / scaled.shape[1]
    values, basis = torch.linalg.eigh(kernel)
    values = values.clamp(min=0)
    ones = basis.sum(dim=0)
    vectors, held_out = [], []
    for penalty in lambdas:
        dual = basis @ (ones / (values + penalty))
        vectors.append((scaled.T @ dual / scaled.shape[1]).view_as(scale) / scale)
        held_out.append(_leave_family_out(basis * (values / (values + penalty)), basis, families))
    return RidgeFit(tuple(lambdas), torch.stack(vectors).float(), torch.stack(held_out))


def difference_of_means(differences: Tensor) -> Tensor:
    """[S, d] mean difference, each site's part of unit length: the limit of the ridge for λ → ∞ without scaling."""
    check_differences(differences)
    mean = differences.double().mean(dim=0)
    unit: Tensor = mean / mean.norm(dim=1, keepdim=True).clamp(min=1e-12)
    return unit.float()


def check_differences(differences: Tensor) -> None:
    """Refuse what cannot give a direction.

    Raises:
        UnfitData: saying why.
    """
    if len(differences) < MIN_PAIRS:
        raise UnfitData(f"{len(differences)} pairs are too few to fit a direction; at least {MIN_PAIRS} are needed")
    if not torch.isfinite(differences).all():
        raise UnfitData("some activations are not finite")
    if not differences.any():
        raise UnfitData("chosen and rejected responses have the same activations everywhere")


def _leave_family_out(weighted: Tensor, basis: Tensor, families: Tensor) -> Tensor:
    """[n] predictions of y = 1 for each pair from the fit without its family, from the hat matrix H = weighted basisᵀ.

    With e = y − ŷ, leaving out a set G changes its residuals to (I − H_GG)⁻¹ e_G.
    """
    fitted = weighted @ basis.sum(dim=0)
    residual = 1 - fitted
    leverage = (weighted * basis).sum(dim=1)
    out = residual / (1 - leverage)
    _, inverse, counts = torch.unique(families, return_inverse=True, return_counts=True)
    for family in (counts > 1).nonzero()[:, 0]:
        members = (inverse == family).nonzero()[:, 0]
        block = torch.eye(len(members), dtype=basis.dtype) - weighted[members] @ basis[members].T
        out[members] = torch.linalg.solve(block, residual[members])
    return 1 - out
