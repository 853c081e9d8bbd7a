"""What every token of a packed row sees, as intervals: some of its prompt, and its own part of the row up to itself."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from workers.engine.packing import Group


@dataclass(frozen=True)
class Sight:
    """For each of T packed tokens the interval [first, last) of its prompt and the interval [own, itself].

    A token of a prompt sees no other prompt: its first interval is empty. Padding sees itself alone.

    Attributes:
        first, last, own: [T] int32, on the CPU.
    """

    first: Tensor
    last: Tensor
    own: Tensor

    @classmethod
    def of(cls, groups: Sequence[Group], length: int) -> "Sight":
        """Sight in a row of these groups one after the other, and padding up to `length`."""
        parts: list[tuple[int, int, int, int]] = []
        place = 0
        for group in groups:
            start, stop = place, place + len(group.prefix)
            parts.append((start, start, start, len(group.prefix)))
            place = stop
            for branch in group.branches:
                parts.append((start, stop, place, len(branch.tokens)))
                place += len(branch.tokens)
        *bounds, counts = torch.tensor(parts, dtype=torch.int32).T
        padding = torch.arange(place, length, dtype=torch.int32)
        return cls(*(torch.cat([bound.repeat_interleave(counts), padding]) for bound in bounds))

    def within(self, window: int | None) -> "Sight":
        """Sight of layers that see no further back than a sliding window of so many positions."""
        if window is None:
            return self
        places = torch.arange(len(self.own), dtype=torch.int32)
        positions = self.last - self.first + places - self.own
        hidden = (positions - window + 1).clamp(min=0)
        own = torch.maximum(self.own, places - window + 1)
        return Sight(torch.minimum(self.first + hidden, self.last), self.last, own)

    def blocks(self, size: int) -> tuple[Tensor, Tensor]:
        """Which blocks of `size` keys each block of `size` tokens has to look at.

        Returns:
            [B] int32 how many, and [B, B] int32 which, B = T / size; what stands behind those means nothing.
        """
        count = len(self.own) // size
        places = torch.arange(len(self.own))
        rows = places // size * (count + 1)
        some = self.first < self.last
        begins = torch.cat([rows + self.own // size, (rows + self.first // size)[some]])
        ends = torch.cat([rows + places // size + 1, (rows + (self.last - 1) // size + 1)[some]])
        edges = [torch.bincount(edge, minlength=count * (count + 1)).view(count, count + 1) for edge in (begins, ends)]
        needed = (edges[0] - edges[1]).cumsum(dim=1)[:, :count] > 0
        order = needed.byte().argsort(dim=1, descending=True, stable=True)
        return needed.sum(dim=1, dtype=torch.int32), order.int()
