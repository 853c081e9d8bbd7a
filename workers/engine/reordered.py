"""Linear layers, gated MLPs and RMS norms of packed passes on a CPU in bfloat16.

oneDNN multiplies by a weight faster that it has laid out beforehand, and applies SiLU and gate to a product while it
writes it. A module keeps its own weights and its own forward pass: they serve whatever is no packed pass (training,
generation, the plain way that the engine is checked against), copies of the module, and weights changed meanwhile.
"""

from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import rms_norm

from workers.engine import attention

_MOST_BYTES = 1 << 30
_ROWS = 64
_ALIKE = 2e-2
_products = torch.ops.mkldnn

Faster = Callable[[Any, Tensor], Tensor | None]
"""A module's forward pass in a packed pass; None where it does not apply."""


class Reordered:
    """A linear layer's weight as oneDNN wants it."""

    def __init__(self, linear: nn.Linear) -> None:
        self._weight = linear.weight
        self._state = (linear.weight._version, linear.weight.data_ptr())
        self._laid_out = _products._reorder_linear_weight(linear.weight.detach())

    def __deepcopy__(self, memo: dict[int, Any]) -> "Reordered":
        return self  # of use to a copy of the layer only where that shares the weight

    def holds(self, weight: Tensor) -> bool:
        """Whether it is this weight, unchanged."""
        return weight is self._weight and (weight._version, weight.data_ptr()) == self._state

    def product(self, x: Tensor, bias: Tensor | None, after: str = "none") -> Tensor:
        """[n, i] times the weight: [n, o], with an activation applied."""
        return cast(Tensor, _products._linear_pointwise(x, self._laid_out, bias, after, [], ""))

    def gated(self, x: Tensor, gate: Tensor, bias: Tensor | None) -> Tensor:
        """[n, i] times the weight, times a gate [n, o]."""
        return cast(Tensor, _products._linear_pointwise.binary(x, gate, self._laid_out, bias, "mul"))


def reorder(blocks: nn.ModuleList) -> None:
    """Let the blocks of a bfloat16 model on a CPU run faster in packed passes.

    Nothing is done without oneDNN, nor where the second copy of the weights would take more than a gibibyte. A norm or
    an MLP that computes something else than it looks like is left as it is.
    """
    linears = [module for module in blocks.modules() if type(module) is nn.Linear]
    if sum(linear.weight.nbytes for linear in linears) > _MOST_BYTES or not torch._C._has_mkldnn:
        return
    others = [module for module in blocks.modules() if type(module) is not nn.Linear]
    with torch.inference_mode():
        for linear in linears:
            linear.reordered = Reordered(linear)  # type: ignore[assignment]
            _adopt(linear, _linear)
        for module in others:
            if isinstance(gate := getattr(module, "gate_proj", None), nn.Linear):
                _adopt_if_alike(module, _gated, gate.in_features)
            elif type(module).__name__.endswith("RMSNorm"):
                _adopt_if_alike(module, _norm, cast(Tensor, module.weight).numel())


def _linear(linear: Any, x: Tensor) -> Tensor | None:
    reordered = _reordered(linear)
    if reordered is None:
        return None
    return reordered.product(x.reshape(-1, x.shape[-1]), linear.bias).view(*x.shape[:-1], -1)


def _gated(mlp: Any, x: Tensor) -> Tensor | None:
    """W_down (SiLU(W_gate x) ⊙ W_up x), as in Llama and most models since."""
    gate, up = _reordered(mlp.gate_proj), _reordered(mlp.up_proj)
    if gate is None or up is None:
        return None
    rows = x.reshape(-1, x.shape[-1])
    hidden = up.gated(rows, gate.product(rows, mlp.gate_proj.bias, "swish"), mlp.up_proj.bias)
    return cast(Tensor, mlp.down_proj(hidden)).view_as(x)


def _norm(norm: Any, x: Tensor) -> Tensor | None:
    eps = getattr(norm, "variance_epsilon", None) or getattr(norm, "eps", None)
    return rms_norm(x, x.shape[-1:], norm.weight, eps)


def _reordered(linear: nn.Module) -> Reordered | None:
    """The reordered weight of a linear layer that has one still and is nothing more than that, by an adapter, say."""
    reordered = getattr(linear, "reordered", None)
    plain = isinstance(reordered, Reordered) and reordered.holds(cast(Tensor, linear.weight))
    return reordered if plain else None


def _adopt_if_alike(module: nn.Module, faster: Faster, width: int) -> None:
    x = torch.randn(1, _ROWS, width, generator=torch.Generator().manual_seed(0)).to(torch.bfloat16)
    expected, found = module(x).float(), faster(module, x)
    if found is not None and (found.float() - expected).norm() <= _ALIKE * expected.norm():
        _adopt(module, faster)


def _adopt(module: nn.Module, faster: Faster) -> None:
    """Let packed passes take the faster way through this module."""
    own: Any = type(module)

    def forward(self: Any, x: Tensor) -> Tensor:
        able = attention.in_packed_pass() and not torch.is_grad_enabled() and x.dtype == torch.bfloat16
        found = faster(self, x) if able else None
        return cast(Tensor, own.forward(self, x)) if found is None else found

    module.__class__ = type(f"Faster{own.__name__}", (own,), {"forward": forward, "__module__": own.__module__})
