"""Linear layers, gated MLPs and RMS norms of packed passes on a CPU in bfloat16.

oneDNN multiplies by a weight faster that it has laid out beforehand, and applies SiLU and gate to a product while it
writes it. A module keeps its own weights and its own forward pass: they serve whatever is no packed pass (training,
generation, the plain way that the engine is checked against), copies of the module, and weights changed
meanwhile (but for changes through `.data`, which leave no trace).
"""

import copy
from collections.abc import Callable
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import silu

from workers.engine import attention

_MOST_BYTES = 1 << 30
_ROWS = 64
_SCALES = (1.0, 1e-3)
_ALIKE = 1e-4
_GATED = ("gate_proj", "up_proj", "down_proj")
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
    if sum(linear.weight.nbytes for linear in linears) > _MOST_BYTES or not _serves():
        return
    others = [module for module in blocks.modules() if type(module) is not nn.Linear]
    mlps = [id(getattr(block, "mlp", None)) for block in blocks]
    place = {mlp: number for number, mlp in enumerate(mlps) if mlps.count(mlp) == 1}
    with torch.inference_mode():
        for linear in linears:
            linear.reordered = Reordered(linear)  # type: ignore[assignment]
            _adopt(linear, _linear)
        for module in others:
            if all(isinstance(getattr(module, name, None), nn.Linear) for name in _GATED):
                faster = partial(_gated, block=place.get(id(module)))
                _adopt_if_alike(module, faster, _gated_exactly, cast(nn.Linear, module.gate_proj).in_features)
            elif type(module).__name__.endswith("RMSNorm") and isinstance(getattr(module, "weight", None), Tensor):
                _adopt_if_alike(module, _norm, _norm, cast(Tensor, module.weight).numel())


def _serves() -> bool:
    """Whether oneDNN is there and multiplies in bfloat16 on this CPU."""
    return torch._C._has_mkldnn and bool(_products._is_mkldnn_bf16_supported())


def _linear(linear: Any, x: Tensor) -> Tensor | None:
    reordered = _reordered(linear)
    if reordered is None:
        return None
    return reordered.product(x.reshape(-1, x.shape[-1]), linear.bias).view(*x.shape[:-1], linear.out_features)


def _gated(mlp: Any, x: Tensor, block: int | None) -> Tensor | None:
    """W_down (SiLU(W_gate x) ⊙ W_up x), as in Llama and most models since; 0 where nobody reads what it says.

    Args:
        mlp: the module.
        x: [..., d].
        block: the number of the block whose MLP it is; None if it is one of several, or of several blocks.
    """
    gate, up = _reordered(mlp.gate_proj), _reordered(mlp.up_proj)
    if gate is None or up is None:
        return None
    flat = x.reshape(-1, x.shape[-1])
    counting = None if block is None else attention.rows_that_count(block, x)
    rows = flat if counting is None else flat.index_select(0, counting)
    hidden = up.gated(rows, gate.product(rows, mlp.gate_proj.bias, "swish"), mlp.up_proj.bias)
    made = cast(Tensor, mlp.down_proj(hidden))
    if counting is not None:
        made = made.new_zeros(flat.shape).index_copy_(0, counting, made)
    return made.view_as(x)


def _gated_exactly(mlp: Any, x: Tensor) -> Tensor | None:
    return cast(Tensor, mlp.down_proj(silu(mlp.gate_proj(x)) * mlp.up_proj(x)))


def _norm(norm: Any, x: Tensor) -> Tensor | None:
    eps = getattr(norm, "variance_epsilon", None) or getattr(norm, "eps", None)
    exact = x.to(torch.float32, copy=True)
    length = torch.linalg.vector_norm(exact, dim=-1, keepdim=True)
    exact.mul_(length.square_().div_(x.shape[-1]).add_(eps).rsqrt_()).mul_(norm.weight)
    return exact.to(x.dtype)


def _reordered(linear: nn.Module) -> Reordered | None:
    """The reordered weight of a linear layer that has one still and is nothing more than that, by an adapter, say."""
    reordered = getattr(linear, "reordered", None)
    plain = isinstance(reordered, Reordered) and reordered.holds(cast(Tensor, linear.weight))
    return reordered if plain else None


def _adopt_if_alike(module: nn.Module, faster: Faster, formula: Faster, width: int) -> None:
    """Adopt a faster way if a module, which only looks as if it did, computes by this formula; in float32, to tell."""
    exact = copy.deepcopy(module).float()
    x = torch.randn(1, _ROWS, width, generator=torch.Generator().manual_seed(0))
    try:
        alike = all(_alike(exact(scale * x), formula(exact, scale * x)) for scale in _SCALES)
    except Exception:  # whatever it wants instead, it is something else
        return
    if alike:
        _adopt(module, faster)


def _alike(expected: Tensor, found: Tensor | None) -> bool:
    return found is not None and bool((found - expected).norm() <= _ALIKE * expected.norm())


def _adopt(module: nn.Module, faster: Faster) -> None:
    """Let packed passes take the faster way through this module."""
    own: Any = type(module)

    def forward(self: Any, *given: Any, **named: Any) -> Tensor:
        able = attention.in_packed_pass() and not torch.is_grad_enabled() and len(given) == 1 and not named
        found = faster(self, given[0]) if able and given[0].dtype == torch.bfloat16 else None
        return cast(Tensor, own.forward(self, *given, **named)) if found is None else found

    module.__class__ = type(f"Faster{own.__name__}", (own,), {"forward": forward, "__module__": own.__module__})
