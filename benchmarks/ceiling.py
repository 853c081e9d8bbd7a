"""How fast this machine multiplies matrices: the rate that a forward pass of nothing but such products would reach."""

import threading
import time
from collections.abc import Sequence

import torch
from torch.nn.functional import linear

from workers.engine.process import side_by_side

SQUARES = ((1024, 1024, 1024), (2048, 2048, 2048))
_SECONDS = 0.4


def layer_shapes(tokens: int, hidden: int, intermediate: int) -> tuple[tuple[int, int, int], ...]:
    """(rows, inner, columns) of the largest products of a block over so many tokens."""
    return ((tokens, hidden, intermediate), (tokens, intermediate, hidden))


def matrix_rates(passes: int, dtype: torch.dtype, shapes: Sequence[tuple[int, int, int]]) -> dict[str, float]:
    """FLOP/s of products of each shape, as many side by side as the engine runs passes, each on one thread.

    The ceiling of a run is the largest of them: a share of it flatters nobody.
    """
    return {"×".join(map(str, shape)): _rate(passes, dtype, *shape) for shape in shapes}


def _rate(passes: int, dtype: torch.dtype, rows: int, inner: int, columns: int) -> float:
    start = threading.Barrier(passes)

    def one(seed: int) -> float:
        source = torch.Generator().manual_seed(seed)
        x = torch.randn(rows, inner, generator=source).to(dtype)
        weight = torch.randn(columns, inner, generator=source).to(dtype)
        linear(x, weight)
        start.wait()
        count, begun = 0, time.perf_counter()
        while (passed := time.perf_counter() - begun) < _SECONDS:
            linear(x, weight)
            count += 1
        return 2 * rows * inner * columns * count / passed

    with side_by_side(passes) as pool:
        return sum(pool.map(one, range(passes)))
