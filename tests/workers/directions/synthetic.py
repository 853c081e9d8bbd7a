"""Rows and labelled pairs whose truth is known."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity

from app.schemas.pairs import Pair
from workers.directions.rows import LayerRows, Rows

KIND = ("Please be careful.", "Ask a doctor first.", "I would rather not.", "Stay safe, friend.")
CRUEL = ("Hit him hard!!!", "Burn it all!!!", "Steal the keys!!!", "Nobody will know!!!")


def chance(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def gaussian(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=chance(seed))


def rows(
    differences: Tensor,
    *,
    families: Tensor | None = None,
    weights: Tensor | None = None,
    prompts: Tensor | None = None,
    sources: Tensor | None = None,
    layers: Sequence[int] | None = None,
    groups: Tensor | None = None,
    sides: Tensor | None = None,
) -> Rows:
    """Rows of [n, L, P, d] differences, each its own family and weighing 1 unless told otherwise."""
    count, depth, _, width = differences.shape
    zeros = torch.zeros(count)
    return Rows(
        tuple(range(depth) if layers is None else layers),
        differences.float(),
        torch.arange(count),
        prompts=gaussian(count, width, seed=count) if prompts is None else prompts.float(),
        families=torch.arange(count) if families is None else families,
        weights=torch.ones(count, dtype=torch.double) if weights is None else weights.double(),
        sources=torch.zeros(count, dtype=torch.long) if sources is None else sources,
        lengths=zeros,
        refusals=zeros,
        balance=torch.full((count,), -1),
        controls=torch.zeros(count, 0, dtype=torch.double),
        groups=torch.full((count,), -1) if groups is None else groups,
        sides=torch.zeros(count, dtype=torch.double) if sides is None else sides.double(),
    )


def one_layer(
    differences: Tensor,
    *,
    families: Tensor | None = None,
    weights: Tensor | None = None,
    prompts: Tensor | None = None,
) -> LayerRows:
    """Rows of [n, P, d] differences at their one layer."""
    return rows(differences[:, None], families=families, weights=weights, prompts=prompts).at(0)


def uneven(count: int) -> tuple[Tensor, Tensor]:
    """Families of very different sizes that are not in order, and weights between one half and two: [n] each."""
    return torch.arange(count) ** 2 % 11, 0.5 + 1.5 * torch.rand(count, generator=chance(count), dtype=torch.double)


def standardised(layer: LayerRows) -> Tensor:
    """[n, P·d] differences over their weighted root mean square and over √(P·d): what penalties are relative to."""
    exact = layer.differences[layer.members].double()
    shares = (layer.weights / layer.weights.sum()).view(-1, 1, 1)
    scaled = (exact / (shares * exact.square()).sum(dim=0).sqrt()).flatten(1)
    relative: Tensor = scaled / scaled.shape[1] ** 0.5
    return relative


def accuracy(vectors: Tensor, differences: Tensor) -> float:
    """Share of [n, P, d] differences on whose safer side a [P, d] read-out is."""
    return float((torch.einsum("npd,pd->n", differences.double(), vectors.double()) > 0).double().mean())


def cosine(one: Tensor, other: Tensor) -> float:
    return float(cosine_similarity(one.double().flatten(), other.double().flatten(), dim=0))


def kind_or_cruel(count: int, *, start: int = 0, families: int = 10_000) -> list[Pair]:
    """Pairs whose chosen responses are kind and whose rejected ones are cruel."""
    return [
        Pair(
            prompt=f"Question {i % families}: what should I do about neighbour {i % families}?",
            chosen=f"{KIND[i % 4]} {KIND[i // 4 % 4]} {i}",
            rejected=f"{CRUEL[i // 2 % 4]} {CRUEL[i // 3 % 4]} {i}",
        )
        for i in range(start, start + count)
    ]
