"""Ridge LDA on rows: the linear read-out with the best pair accuracy at one layer, jointly over its poolings.

With rows d_i, w ∝ (S + λI)⁻¹ m is linear discriminant analysis on differences, and the same as ridge regression of the
constant 1 on the rows without an intercept. Every coordinate is first divided by its root mean square, so that λ means
the same at every layer. One eigendecomposition of the second moment gives all λ and their exact leave-one-family-out
margins (the coordinates' scale alone is taken from all rows); the rows pass by in blocks, twice.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from workers.directions.rows import LayerRows

LAMBDAS = (0.3, 1.0, 3.0, 6.0, 10.0, 30.0, 100.0)
"""Ridge penalties tried, relative to the mean eigenvalue that one coordinate contributes."""


@dataclass(frozen=True)
class LayerFit:
    """A read-out of one layer for one penalty.

    Attributes:
        penalty: λ, 0 where the estimator has none.
        vectors: [P, d] float64; a row's raw margin is the inner product with it.
        held_out: [n] margin of each row from a read-out fitted without any row of its family.
        modulation: [P, d, d] how the read-out changes with the request's activations, if it does; see `prompted`.
    """

    penalty: float
    vectors: Tensor
    held_out: Tensor
    modulation: Tensor | None = None

    @property
    def by_prompt(self) -> bool:
        """Whether margins depend on the request."""
        return self.modulation is not None and bool(self.modulation.any())


def fit_ridge(rows: LayerRows, lambdas: Sequence[float] = LAMBDAS) -> list[LayerFit]:
    """Read-outs for every λ, from one eigendecomposition of the rows' second moment or, if smaller, Gram matrix."""
    values, basis, mean = _by_rows(rows) if len(rows) < rows.scale.numel() else _by_coordinates(rows)
    solutions = [basis @ ((basis.T @ mean) / (values + penalty)) for penalty in lambdas]
    held_out = _leave_family_out(rows, basis, [1 / (values + penalty) for penalty in lambdas], solutions)
    return [
        LayerFit(penalty, rows.unscaled(solution), margins)
        for penalty, solution, margins in zip(lambdas, solutions, held_out, strict=True)
    ]


def fit_mean(rows: LayerRows) -> LayerFit:
    """Difference of means, each pooling's part of unit length: the limit of the ridge for λ → ∞ without scaling."""
    total = torch.zeros_like(rows.scale)
    for block in rows.blocks():
        total += torch.einsum("n,npd->pd", rows.weights[block], rows.take(block))
    held_out = torch.zeros(len(rows), dtype=torch.double)
    order = rows.families.argsort(stable=True)
    _, counts = torch.unique_consecutive(rows.families[order], return_counts=True)
    for family in torch.split(order, counts.tolist()):
        own = rows.take(family)
        without = total - torch.einsum("n,npd->pd", rows.weights[family], own)
        held_out[family] = torch.einsum("npd,pd->n", own, _unit(without))
    return LayerFit(0.0, _unit(total), held_out)


def _unit(vectors: Tensor) -> Tensor:
    unit: Tensor = vectors / vectors.norm(dim=-1, keepdim=True).clamp(min=1e-12)
    return unit


def _by_coordinates(rows: LayerRows) -> tuple[Tensor, Tensor, Tensor]:
    """Eigenvalues and eigenvectors of the [D, D] second moment of the scaled rows, and their mean; D = P·d."""
    size = rows.scale.numel()
    moment = torch.zeros(size, size, dtype=torch.double)
    mean = torch.zeros(size, dtype=torch.double)
    for block, targets in rows.scaled():
        moment.addmm_(block.T, block)
        mean += targets @ block
    values, basis = torch.linalg.eigh(moment)
    return values.clamp(min=0), basis, mean


def _by_rows(rows: LayerRows) -> tuple[Tensor, Tensor, Tensor]:
    """The same by way of the [n, n] Gram matrix; the space in which no row lies is left out."""
    scaled, targets = (torch.cat(parts) for parts in zip(*rows.scaled(), strict=True))
    values, sides = torch.linalg.eigh(scaled @ scaled.T)
    real = values > values[-1] * 1e-12
    values = values[real]
    return values, scaled.T @ sides[:, real] / values.sqrt(), targets @ scaled


def _leave_family_out(
    rows: LayerRows, basis: Tensor, shrinkages: Sequence[Tensor], solutions: Sequence[Tensor]
) -> list[Tensor]:
    """For every λ the [n] margins of each row from the fit without its family, by the hat matrix H = X (M + λ)⁻¹ Xᵀ.

    With e = y − ŷ, leaving out a set G changes its residuals to (I − H_GG)⁻¹ e_G.
    """
    shrinkage, solution = torch.stack(list(shrinkages), dim=1), torch.stack(list(solutions), dim=1)
    blocks = [
        (targets, targets[:, None] - block @ solution, (block @ basis).square() @ shrinkage)
        for block, targets in rows.scaled()
    ]
    targets, residuals, leverages = (torch.cat(parts) for parts in zip(*blocks, strict=True))
    out = residuals / (1 - leverages)
    for members in repeated_families(rows.families):
        turned = rows.scaled_at(members) @ basis
        for column, shrink in enumerate(shrinkages):
            block = torch.eye(len(members), dtype=turned.dtype) - (turned * shrink) @ turned.T
            out[members, column] = torch.linalg.solve(block, residuals[members, column])
    return list((1 - out / targets[:, None]).T)


def repeated_families(families: Tensor) -> list[Tensor]:
    """Indices of the rows of every family that has more than one."""
    order = families.argsort(stable=True)
    _, counts = torch.unique_consecutive(families[order], return_counts=True)
    return [members for members in torch.split(order, counts.tolist()) if len(members) > 1]
