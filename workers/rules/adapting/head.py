"""The cheap rule adapter: a multi-label head on activations that are read anyway.

A response is projected to z, and what is likely critical for a pair is read from |z_c − z_r| and z_c + z_r alone. Both
are the same with the responses exchanged, so that no order of them can change which rules are critical: for every pair,
not only on average as where swapped pairs are added to what is learned from.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, relu

_PATIENCE = 12
_MOST_COMPONENTS = 256
_DECAY = 0.01


@dataclass(frozen=True)
class Head:
    """z = W · h − b, then logits of R rules by one hidden layer over (|z_c − z_r|, z_c + z_r).

    Attributes:
        projection: [m, S, d] float32, W.
        shift: [m] float32, b.
        hidden: [q, 2m] float32, and `hidden_bias` [q].
        out: [R, q + 2m] float32, and `out_bias` [R].
    """

    projection: Tensor
    shift: Tensor
    hidden: Tensor
    hidden_bias: Tensor
    out: Tensor
    out_bias: Tensor

    @property
    def tensors(self) -> dict[str, Tensor]:
        """Its numbers by name."""
        return {name: getattr(self, name) for name in self.__dataclass_fields__}

    def scores(self, activations: Tensor) -> Tensor:
        """[n, m] float32 projections of n responses from their [n, S, d] activations."""
        return activations.float().flatten(1) @ self.projection.to(activations.device).flatten(1).T - self.shift.to(
            activations.device
        )

    def likely(self, projected: Tensor) -> Tensor:
        """[P, R] how likely each rule is critical, from the [P, 2, m] projections of both responses."""
        return torch.sigmoid(_logits(self.hidden, self.hidden_bias, self.out, self.out_bias, projected))


def _logits(hidden: Tensor, hidden_bias: Tensor, out: Tensor, out_bias: Tensor, z: Tensor) -> Tensor:
    features = torch.cat([(z[:, 0] - z[:, 1]).abs(), z[:, 0] + z[:, 1]], dim=1)
    inner = relu(features @ hidden.T + hidden_bias)
    return torch.cat([features, inner], dim=1) @ out.T + out_bias
