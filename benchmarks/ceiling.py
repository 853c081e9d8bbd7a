"""How fast this machine multiplies matrices: the rate that a forward pass of nothing but such products would reach."""

import statistics
import threading
import time
from collections.abc import Sequence

import torch
from torch.nn.functional import linear

from workers.engine.process import side_by_side

Product = tuple[int, int, int]
"""Rows, inner size and columns of a matrix product."""

SQUARES: tuple[Product, ...] = ((1024, 1024, 1024), (2048, 2048, 2048))
_SECONDS = 0.4


class Rates:
    """FLOP/s of matrix products, as many side by side as the engine runs passes, each on one thread.

    The ceiling is the fastest of them: a share of it flatters nobody.

    Args:
        passes: how many side by side.
        dtype: of the matrices.
        products: their shapes.
    """

    def __init__(self, passes: int, dtype: torch.dtype, products: Sequence[Product]) -> None:
        self._passes = passes
        self._dtype = dtype
        self._found: dict[Product, list[float]] = {product: [] for product in products}

    def measure(self) -> None:
        """Once more; takes about a second."""
        for product, rates in self._found.items():
            rates.append(_rate(self._passes, self._dtype, product))

    @property
    def medians(self) -> dict[str, float]:
        """The median rate of every shape by its name."""
        return {"×".join(map(str, product)): statistics.median(rates) for product, rates in self._found.items()}

    @property
    def ceiling(self) -> float:
        """The largest of them."""
        return max(self.medians.values())


def _rate(passes: int, dtype: torch.dtype, product: Product) -> float:
    rows, inner, columns = product
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
