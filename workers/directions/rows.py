"""Rows: what directions are fitted on. A row is a difference of activations whose projection should be positive.

A labelled pair gives h(chosen) − h(rejected), and every other recipe comes down to such differences too. They lie in a
temporary file that is mapped into memory, so that a large set never has to be in memory at once.
"""

import os
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from math import prod
from pathlib import Path

import torch
from torch import Tensor

from workers.directions.errors import UnfitData

_BLOCK = 1024
_PAIRS = 64
_SEED = 0
MIN_ROWS = 20


@dataclass(frozen=True)
class Rows:
    """n rows at L layers with P poolings each.

    Attributes:
        layers: the L layers.
        differences: [N, L, P, d] float32, of which `members` are the rows.
        members: [n] which of them.
        prompts: [n, d] float32, what the annotator makes of each row's request.
        families: [n] rows of one family are on one side of every split.
        weights: [n] float64, how much each counts.
        sources: [n] which source each is from.
        lengths: [n] length of the safer response minus that of the other, in characters.
        refusals: [n] 1 if only the safer response refuses, −1 if only the other one does, else 0.
        balance: [n] place of the row in the balance set, −1 where it is not from there.
        controls: [n, C] margins of directions to compare with.
        groups: [n] which labelled responses are compared with each other, −1 where a row is a difference already.
        sides: [n] 1 and −1 for the safer and the less safe ones of a group.
        skipped: rows that the annotator cannot read.
    """

    layers: tuple[int, ...]
    differences: Tensor
    members: Tensor
    prompts: Tensor
    families: Tensor
    weights: Tensor
    sources: Tensor
    lengths: Tensor
    refusals: Tensor
    balance: Tensor
    controls: Tensor
    groups: Tensor
    sides: Tensor
    skipped: int = 0

    def __len__(self) -> int:
        return len(self.members)

    def at(self, layer: int) -> "LayerRows":
        """The rows at the layer of this index."""
        return LayerRows(self.differences[:, layer], self.members, self.families, self.weights, self.prompts)

    def pairs(self, source: int) -> "Pairs":
        """The pairs that the rows of a source stand for."""
        first, second = self.compared()
        mine = self.sources[first] == source
        return Pairs(self, first[mine], second[mine])

    def compared(self) -> tuple[Tensor, Tensor]:
        """Indices [m] and [m] of rows whose mean margin is that of one pair.

        A difference stands for itself, twice; of labelled responses every safer one of a group with every less safe
        one or, where there are more than `_PAIRS` of such pairs, that many of them by lot.
        """
        chance = torch.Generator().manual_seed(_SEED)
        alone = (self.groups < 0).nonzero()[:, 0]
        first, second = [alone], [alone]
        labelled = (self.groups >= 0).nonzero()[:, 0]
        order = labelled[self.groups[labelled].argsort(stable=True)]
        _, counts = torch.unique_consecutive(self.groups[order], return_counts=True)
        for members in torch.split(order, counts.tolist()):
            pairs = torch.cartesian_prod(members[self.sides[members] > 0], members[self.sides[members] < 0])
            pairs = pairs[torch.randperm(len(pairs), generator=chance)[:_PAIRS].sort().values]
            first.append(pairs[:, 0])
            second.append(pairs[:, 1])
        return torch.cat(first), torch.cat(second)

    def part(self, chosen: Tensor) -> "Rows":
        """The rows that a [n] boolean mask chooses."""
        return replace(self, **{name: getattr(self, name)[chosen] for name in _BY_ROW})

    def check(self) -> None:
        """Refuse what cannot give a direction.

        Raises:
            UnfitData: saying why.
        """
        if len(self) < MIN_ROWS:
            raise UnfitData(f"{len(self)} rows are too few to fit a direction; at least {MIN_ROWS} are needed")
        moving = False
        for start in range(0, len(self), _BLOCK):
            block = self.differences[self.members[start : start + _BLOCK]]
            if not (torch.isfinite(block).all() and torch.isfinite(self.prompts[start : start + _BLOCK]).all()):
                raise UnfitData("some activations are not finite")
            moving = moving or bool(block.any())
        if not moving:
            raise UnfitData("the safer and the other responses have the same activations everywhere")


@dataclass(frozen=True)
class Pairs:
    """m pairs that rows stand for.

    Attributes:
        rows: all n rows.
        first, second: [m] rows whose mean is a pair's.
    """

    rows: Rows
    first: Tensor
    second: Tensor

    @property
    def families(self) -> Tensor:
        """[m] family of each pair."""
        return self.rows.families[self.first]

    def mean(self, values: Tensor) -> Tensor:
        """[m, …] of pairs from [n, …] of rows."""
        return (values[self.first].double() + values[self.second].double()) / 2


_BY_ROW = tuple(f.name for f in fields(Rows) if f.name not in ("layers", "differences", "skipped"))


@dataclass(frozen=True)
class LayerRows:
    """Rows at one layer.

    Attributes:
        differences: [N, P, d], of which `members` [n] are the rows.
        families, weights: [n].
        prompts: [n, d].
    """

    differences: Tensor
    members: Tensor
    families: Tensor
    weights: Tensor
    prompts: Tensor

    def __len__(self) -> int:
        return len(self.members)

    @cached_property
    def scale(self) -> Tensor:
        """[P, d] weighted root mean square of the differences; 1 where a coordinate never moves."""
        total = torch.zeros(self.differences.shape[1:], dtype=torch.double)
        for rows in self.blocks():
            total += torch.einsum("n,npd->pd", self.weights[rows], self.take(rows).square())
        scale: Tensor = (total / self.weights.sum()).sqrt()
        scale[scale == 0] = 1.0
        return scale

    def take(self, rows: Tensor) -> Tensor:
        """[b, P, d] float64 differences of the rows of these indices."""
        taken: Tensor = self.differences[self.members[rows]].double()
        return taken

    def scaled_at(self, rows: Tensor) -> Tensor:
        """[b, P·d] of the rows of these indices over `scale`, over √(P·d) and times the root of their weights."""
        flat = (self.take(rows) / self.scale).flatten(1)
        scaled: Tensor = flat * self.weights[rows].sqrt()[:, None] / flat.shape[1] ** 0.5
        return scaled

    def scaled(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Blocks of all rows as `scaled_at` gives them, with the roots [b] of their weights."""
        for rows in self.blocks():
            yield self.scaled_at(rows), self.weights[rows].sqrt()

    def unscaled(self, solution: Tensor) -> Tensor:
        """[P, d] read-out in units of activations from a [P·d] one of the rows that `scaled` gives."""
        vectors: Tensor = solution.view_as(self.scale) / self.scale / solution.numel() ** 0.5
        return vectors

    def margins(self, vectors: Tensor, modulation: Tensor | None = None) -> Tensor:
        """[n] inner products with a [P, d] read-out, which [P, d, d] changes with the request; see `prompted`."""
        parts = []
        for rows in self.blocks():
            taken = self.take(rows)
            margins = torch.einsum("npd,pd->n", taken, vectors.double())
            if modulation is not None:
                margins += torch.einsum("npd,pde,ne->n", taken, modulation.double(), self.prompts[rows].double())
            parts.append(margins)
        return torch.cat(parts)

    def blocks(self) -> Iterator[Tensor]:
        """Indices of the rows, some at a time."""
        for start in range(0, len(self), _BLOCK):
            yield torch.arange(start, min(start + _BLOCK, len(self)))


def spool(shape: Sequence[int]) -> Tensor:
    """A float32 tensor of zeros in a temporary file, whose space is freed with the tensor.

    The file's name is gone at once, so that even a killed process leaves nothing behind.

    Raises:
        OSError: the disk is full; without the reservation that would end the process at some later write.
    """
    size = max(1, prod(shape))
    with tempfile.TemporaryDirectory(prefix="safemargin-rows-") as folder:
        path = Path(folder) / "rows"
        with path.open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, size * torch.float32.itemsize)
        return torch.from_file(str(path), shared=True, size=size)[: prod(shape)].view(*shape)
