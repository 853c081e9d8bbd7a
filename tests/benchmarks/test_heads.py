"""Linear reward models are fitted exactly, whatever the margins."""

import pytest
import torch
from torch import Tensor

from benchmarks.heads import fit
from workers.rewards.losses import pair_losses


def rows(count: int = 40, width: int = 6) -> Tensor:
    drawn = torch.randn(count, width, generator=torch.Generator().manual_seed(0), dtype=torch.double)
    return drawn + torch.linspace(0, 1, width, dtype=torch.double)


@pytest.mark.parametrize("size", [0.0, 0.5, 8.0])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_nothing_near_the_head_costs_less(size: float, smoothing: float) -> None:
    data, ridge = rows(), 0.5
    margins = size * torch.sin(torch.arange(len(data)).double())
    weights = torch.where(margins < 0, 0.5, 1.0).double()
    head = fit(data, margins, weights, smoothing, ridge).requires_grad_(True)
    cost = pair_losses(data @ head, margins, weights, smoothing).sum() + ridge / 2 * head.square().sum()
    cost.backward()  # type: ignore[no-untyped-call]
    assert head.grad is not None
    assert float(head.grad.abs().max()) < 1e-6
    assert float(head.detach().abs().max()) > 0.1


def test_a_pair_of_no_weight_teaches_nothing() -> None:
    data, weights = rows(), torch.ones(40, dtype=torch.double)
    weights[7] = 0
    zeros = torch.zeros(40, dtype=torch.double)
    kept = torch.arange(40) != 7
    without = fit(data[kept], zeros[kept], weights[kept], 0.0, 1.0)
    assert torch.allclose(fit(data, zeros, weights, 0.0, 1.0), without)
