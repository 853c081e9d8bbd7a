"""Attention of packed rows by dense products, tile by tile: what serves where FlexAttention does not.

On a CPU two products in bfloat16 around exponentials take less than half of the time of torch's fused kernel.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from workers.engine.tiles import Tile

_MOST_KEYS = 1 << 15
_LONG = 1024
_FAR = 1e25


@dataclass(frozen=True)
class Heads:
    """How many heads query, and how many keys and values they share."""

    queries: int
    keys: int


class Plan:
    """What a packed pass multiplies; all of its layers with the same heads and the same window share it."""

    def __init__(
        self, tiles: Sequence[Tile], length: int, heads: Heads, window: int | None, device: torch.device
    ) -> None:
        """Plan a pass.

        Args:
            tiles: of the rows that anyone reads; others get numbers that are finite and mean nothing.
            length: T, how many rows there are.
            heads: of the layers.
            window: how many positions back a row sees, itself counted; None for all.
            device: where the layers are.
        """
        self._runs = [_Run(some, length, heads, window, device) for some in _runs(tiles)]
        rows = torch.cat([run.queries for run in self._runs])
        real = torch.cat([run.real for run in self._runs])
        self._places = rows.new_zeros(length * heads.queries)
        self._places[rows[real]] = torch.arange(len(rows), device=device)[real]

    def attend(self, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
        """Softmax attention.

        Args:
            query: [1, heads, T, head_dim]; key and value: [1, kv_heads, T, head_dim].
            scale: of the products.

        Returns:
            [1, T, heads, head_dim].
        """
        q, k, v = (x[0].transpose(0, 1).flatten(0, 1) for x in (query, key * scale, value))
        made = None if torch.is_grad_enabled() else self._quickly(q, k, v)
        if made is None:
            made = torch.cat([made for run in self._runs for made in run.softmax(q, k, v)])
        heads, length = query.shape[1:3]
        return made.index_select(0, self._places).view(1, length, heads, -1)

    def _quickly(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor | None:
        """A softmax without the search for the largest score of each row, which takes as long as all the rest.

        None where scores must be made smaller first because a sum is not far from what the dtype can hold.
        """
        made, totals = zip(*(part for run in self._runs for part in run.exponentials(q, k, v)), strict=True)
        total = torch.cat(totals)
        least, most = total.aminmax()
        roomy = torch.finfo(total.dtype).max > _FAR  # float16 is not, and autocast chooses it, too
        return torch.cat(made).div_(total) if roomy and least > 1 / _FAR and most < _FAR else None


def _runs(tiles: Sequence[Tile]) -> Iterator[list[Tile]]:
    """Tiles whose keys are gathered at once: many, as each gathering is a call, but not of a long text all."""
    run: list[Tile] = []
    room = _MOST_KEYS
    for tile in tiles:
        room -= len(tile.pieces) * tile.shape[1]
        if run and room < 0:
            yield run
            run, room = [], _MOST_KEYS - len(tile.pieces) * tile.shape[1]
        run.append(tile)
    yield run


class _Run:
    """Some tiles; the rows of all their queries, head by head, and which of these are no padding."""

    def __init__(
        self, tiles: Sequence[Tile], length: int, heads: Heads, window: int | None, device: torch.device
    ) -> None:
        queries = [_by_head(tile.queries.clamp(max=length - 1), heads.queries) for tile in tiles]
        keys = [_by_head(tile.keys.clamp(0, length - 1), heads.keys) for tile in tiles]
        real = [tile.real[:, None].expand(-1, heads.queries, -1).flatten() for tile in tiles]
        self._sizes = [len(rows) for rows in queries], [len(rows) for rows in keys]
        self._products = [_Products(tile, heads, window, device) for tile in tiles]
        self.queries, self._keys, self.real = (torch.cat(parts).to(device) for parts in (queries, keys, real))

    def exponentials(self, q: Tensor, k: Tensor, v: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """What the tiles' products give."""
        for products, *parts in self._gathered(q, k, v):
            yield products.exponentials(*parts)

    def softmax(self, q: Tensor, k: Tensor, v: Tensor) -> Iterator[Tensor]:
        """What the tiles' products give."""
        for products, *parts in self._gathered(q, k, v):
            yield products.softmax(*parts)

    def _gathered(self, q: Tensor, k: Tensor, v: Tensor) -> Iterator[tuple["_Products", Tensor, Tensor, Tensor]]:
        rows, columns = self._sizes
        queries = torch.split(q.index_select(0, self.queries), rows)
        keys, values = (torch.split(x.index_select(0, self._keys), columns) for x in (k, v))
        return zip(self._products, queries, keys, values, strict=True)


def _by_head(rows: Tensor, heads: int) -> Tensor:
    """Of [b, r] rows the [b * heads * r] rows of all heads, where the heads of a row follow each other."""
    return (rows[:, None] * heads + torch.arange(heads)[:, None]).flatten()


class _Products:
    """The products of one tile of b pieces, R queries and S keys; N = b · heads · R, M = b · kv_heads · S."""

    def __init__(self, tile: Tile, heads: Heads, window: int | None, device: torch.device) -> None:
        self._heads = heads
        self._pieces = len(tile.pieces)
        self._shape = tile.shape
        self._before = tile.before
        self._oldest = None if window is None else tile.before - window + 1
        padding = tile.padding
        self._padding = None if padding is None else padding[:, None, None].to(device)

    def exponentials(self, q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Values weighted by the exponentials of scores, and the sum of the weights.

        Args:
            q: [N, d] queries.
            k, v: [M, d] keys and values.

        Returns:
            [N, d] and [N, 1].
        """
        weights = self._hide(self._scores(q, k).exp_())
        return self._weigh(weights, v), weights.sum(-1, keepdim=True).view(-1, 1)

    def softmax(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Values weighted by the softmax of scores, for autograd too; arguments and value as of `exponentials`.

        Of many keys by the fused kernel, which keeps no scores for a gradient.
        """
        ones = torch.ones(self._pieces, 1, *self._shape, dtype=torch.bool, device=q.device)
        seen = self._hide(ones)
        if self._shape[1] > _LONG:
            queries = q.view(self._pieces, self._heads.queries, -1, q.shape[-1])
            keys, values = (x.view(self._pieces, self._heads.keys, -1, x.shape[-1]) for x in (k, v))
            grouped = self._heads.queries != self._heads.keys
            made = scaled_dot_product_attention(queries, keys, values, seen, scale=1.0, enable_gqa=grouped)
            return made.flatten(0, 2)
        scores = self._scores(q, k).view(self._pieces, -1, *self._shape)
        return self._weigh(scores.masked_fill(~seen, float("-inf")).softmax(-1), v)

    def _scores(self, q: Tensor, k: Tensor) -> Tensor:
        """[b · kv_heads, shared · R, S]; queries that share keys share a product."""
        queries, keys = self._by_key(q), self._by_key(k)
        return torch.bmm(queries, keys.transpose(1, 2))

    def _weigh(self, weights: Tensor, v: Tensor) -> Tensor:
        """[N, d]."""
        return torch.bmm(self._by_key(weights), self._by_key(v)).flatten(0, 1)

    def _by_key(self, x: Tensor) -> Tensor:
        """[..., n] rows head by head -> [b · kv_heads, rows that share keys, n]."""
        return x.view(self._pieces * self._heads.keys, -1, x.shape[-1])

    def _hide(self, weights: Tensor) -> Tensor:
        """Weights, or one mask for all heads, with zeros in place wherever a query does not see a key."""
        seen = weights.view(-1, *self._shape).tril_(self._before)
        if self._oldest is not None:
            seen.triu_(self._oldest)
        if self._padding is not None:
            seen.view(self._pieces, -1, *self._shape)[..., : self._padding.shape[-1]].masked_fill_(self._padding, 0)
        return weights
