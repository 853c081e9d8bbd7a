"""Bradley–Terry logistic regression on rows: maximises Σ w_i log σ(w · d_i) under a ridge penalty, at one layer.

Newton's method on the scaled rows that the ridge sees. Held-out margins come from five fits that each leave out a fifth
of the families, for a logistic fit has no exact leave-one-out form.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from workers.directions.evaluation import folds
from workers.directions.ridge import LayerFit
from workers.directions.rows import LayerRows

LAMBDAS = (0.3, 1.0, 3.0, 10.0)
"""Penalties tried; one quarter of the ridge's, as that is the logistic loss's curvature at zero."""

_STEPS = 12
_TOLERANCE = 1e-6


def fit_logistic(rows: LayerRows, lambdas: Sequence[float] = LAMBDAS) -> list[LayerFit]:
    """Read-outs for every λ."""
    fold = folds(rows.families)
    fits = []
    for penalty in lambdas:
        everything = torch.ones(len(fold), dtype=torch.bool)
        solution = _newton(rows, everything, penalty / 4, None)
        held_out = torch.zeros(len(fold), dtype=torch.double)
        for number in range(int(fold.max()) + 1):
            without = _newton(rows, fold != number, penalty / 4, solution)
            members = (fold == number).nonzero()[:, 0]
            held_out[members] = rows.scaled_at(members) @ without / rows.weights[members].sqrt()
        fits.append(LayerFit(penalty, rows.unscaled(solution), held_out))
    return fits


def _newton(rows: LayerRows, used: Tensor, penalty: float, start: Tensor | None) -> Tensor:
    """[P·d] minimiser over the rows that a [n] mask chooses."""
    size = rows.scale.numel()
    solution = torch.zeros(size, dtype=torch.double) if start is None else start.clone()
    for _ in range(_STEPS):
        gradient = -penalty * solution
        curvature = penalty * torch.eye(size, dtype=torch.double)
        place = 0
        for block, roots in rows.scaled():
            mine = used[place : place + len(block)]
            place += len(block)
            scaled, root = block[mine], roots[mine]
            p = torch.sigmoid(-(scaled @ solution) / root)
            gradient += (p * root) @ scaled
            curvature.addmm_((scaled * (p * (1 - p))[:, None]).T, scaled)
        step = torch.linalg.solve(curvature, gradient)
        solution += step
        if step.norm() <= _TOLERANCE * solution.norm().clamp(min=1):
            break
    return solution
