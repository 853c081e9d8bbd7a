"""Read-outs that depend on the prompt: v(x) = v₀ + W p(x), ridge regression with a product kernel at one layer.

What is safer depends on the request: a refusal where it is harmful, an answer where it is not. With rows d_i and
their requests' activations p_i (standardised), the margin d · (v₀ + W p) is linear in d and in d pᵀ, so that ridge
regression of the constant 1 has the kernel k(i, j) = (d_i · d_j)(1 + c p_i · p_j) / (1 + c). One Cholesky factor gives
the solution and the exact leave-one-family-out margins.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from workers.directions.errors import UnfitData
from workers.directions.ridge import LayerFit, repeated_families
from workers.directions.rows import LayerRows

CANDIDATES = ((0.0, 3.0), (0.0, 6.0), (1.0, 0.7), (1.0, 1.5), (1.0, 3.0))
"""Shares c and penalties λ tried: where the prompt does not help, held-out rows choose the read-out without it."""

MOST_ROWS = 12_000
"""The kernel has the square of the number of rows as entries."""


@dataclass(frozen=True)
class Requests:
    """Requests' activations, standardised.

    Attributes:
        values: [n, d], of zero mean and unit length on average.
        mean, scale: [d] so that values = (activations − mean) / scale.
    """

    values: Tensor
    mean: Tensor
    scale: Tensor

    @classmethod
    def of(cls, prompts: Tensor) -> "Requests":
        """Standardise [n, d] activations."""
        exact = prompts.double()
        mean, spread = exact.mean(dim=0), exact.std(dim=0)
        moving = spread > 1e-6 * mean.abs()  # below that it is rounding
        scale = torch.where(moving, spread, 1.0) * prompts.shape[1] ** 0.5
        return cls((exact - mean) / scale, mean, scale)


def fit_prompted(rows: LayerRows, candidates: Sequence[tuple[float, float]] = CANDIDATES) -> list[LayerFit]:
    """Read-outs for every share and λ; `modulation` takes the request's activations as they are.

    Raises:
        UnfitData: too many rows.
    """
    count = len(rows)
    if count > MOST_ROWS:
        raise UnfitData(f"{count} rows are too many for a direction that depends on the prompt (at most {MOST_ROWS})")
    scaled, targets = (torch.cat(parts) for parts in zip(*rows.scaled(), strict=True))
    requests = Requests.of(rows.prompts)
    plain, likeness = scaled @ scaled.T, requests.values @ requests.values.T
    fits = []
    for share, penalty in candidates:
        kernel = plain * (1 + share * likeness) / (1 + share)
        fits.append(_fit(rows, scaled, targets, requests, kernel, penalty, share))
    return fits


def low_rank(modulation: Tensor, requests: Requests, scale: Tensor, rank: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The part of a modulation that moves margins most, as products of a few probes and vectors.

    Args:
        modulation: [S, d, d].
        requests: those it was fitted on.
        scale: [S, d] how much the rows move in each coordinate.
        rank: how many products R to keep.

    Returns:
        Probes [R, d], offsets [R], vectors [R, S, d], and the [S, d] that v₀ gains: what a request of average
        activations adds, which the offsets take off.
    """
    sites, width, _ = modulation.shape
    moves = modulation * scale[:, :, None] * requests.scale
    left, sizes, right = torch.linalg.svd(moves.flatten(0, 1), full_matrices=False)
    probes = right[:rank] / requests.scale
    vectors = (left[:, :rank] * sizes[:rank]).T.reshape(-1, sites, width) / scale
    return probes, probes @ requests.mean, vectors, modulation @ requests.mean


def _fit(
    rows: LayerRows, scaled: Tensor, targets: Tensor, requests: Requests, kernel: Tensor, penalty: float, share: float
) -> LayerFit:
    factor = torch.linalg.cholesky(kernel + penalty * torch.eye(len(kernel), dtype=kernel.dtype))
    dual = torch.cholesky_solve(targets[:, None], factor)[:, 0]
    plain = rows.unscaled(dual @ scaled) / (1 + share)
    bent = torch.einsum("n,nk,nd->kd", dual, scaled, requests.values) * share / (1 + share)
    pools, width = plain.shape
    modulation = bent.view(pools, width, -1) / rows.scale[:, :, None] / scaled.shape[1] ** 0.5 / requests.scale
    held_out = 1 - _left_out(factor, dual, rows.families) / targets
    return LayerFit(penalty, plain - modulation @ requests.mean, held_out, modulation)


def _left_out(factor: Tensor, dual: Tensor, families: Tensor) -> Tensor:
    """[n] residuals of each row in the fit without its family: (A⁻¹)_GG⁻¹ (A⁻¹ y)_G for a family G, A = K + λI."""
    inverse = torch.cholesky_inverse(factor)
    out = dual / inverse.diagonal()
    for members in repeated_families(families):
        out[members] = torch.linalg.solve(inverse[members][:, members], dual[members])
    return out
