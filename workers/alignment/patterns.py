"""The second stage: activity patterns v = A(p+) − A(p−) at every token of a response (arXiv 2312.15997, eq. 4, 5).

They are written to shards of so many tokens as they are read, so that memory does not grow with the data, and a killed
run goes on with the shard it was at.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from app.schemas.alignment import CollectSettings
from workers.alignment.batches import Admitted, Item, Showing
from workers.alignment.descent import Tell
from workers.alignment.learner import Learner
from workers.engine.packing import pack

_PATTERNS, _SUM = "patterns", "sum"


@dataclass(frozen=True)
class Patterns:
    """The patterns of items in a folder of shards.

    Attributes:
        folder: where they are.
        answers: how many response tokens each item has.
        shard: tokens of a shard; an item is in one shard as a whole.
    """

    folder: Path
    answers: Sequence[int]
    shard: int

    @cached_property
    def shards(self) -> list[range]:
        """Items of each shard."""
        starts, room = [0], self.shard
        for item, tokens in enumerate(self.answers):
            if room < tokens and item > starts[-1]:
                starts.append(item)
                room = self.shard
            room -= tokens
        return [range(start, stop) for start, stop in pairwise([*starts, len(self.answers)])]

    def of(self, item: int) -> Tensor:
        """[m, L, d] patterns of an item, as they are stored."""
        shard, start, stop = self._places[item]
        found: Tensor = self._open(shard).get_slice(_PATTERNS)[start:stop]
        return found

    def mean(self) -> Tensor:
        """[L, d] float64 mean over all response tokens of all items."""
        sums: list[Tensor] = [self._open(shard).get_tensor(_SUM) for shard in range(len(self.shards))]
        return torch.stack(sums).sum(dim=0) / sum(self.answers)

    def path(self, shard: int) -> Path:
        """File of a shard."""
        return self.folder / f"patterns-{shard:05d}.safetensors"

    @cached_property
    def _places(self) -> list[tuple[int, int, int]]:
        """Shard, and first and last token in it, of every item."""
        places = []
        for shard, items in enumerate(self.shards):
            ends = [0, *accumulate(self.answers[item] for item in items)]
            places += [(shard, start, stop) for start, stop in pairwise(ends)]
        return places

    @cached_property
    def _open(self) -> Any:
        return lru_cache(maxsize=64)(lambda shard: safe_open(self.path(shard), framework="pt"))


def collect(
    sides: tuple[Learner, Learner],
    showing: Showing,
    admitted: Admitted,
    blocks: Sequence[int],
    settings: CollectSettings,
    folder: Path,
    tell: Tell,
) -> Patterns:
    """Read the patterns of items, or of those whose shards are not there yet.

    Args:
        sides: who reads them under the first of the two instructions of `showing`, and who under the second: one model
            for SCIT, the preferred and the dispreferred model for Dual.
        showing: how items are shown.
        admitted: the items.
        blocks: L target layers.
        settings: how many tokens of what.
        folder: of the shards.
        tell: told how many items of how many are read; may raise to end it.
    """
    patterns = Patterns(folder, admitted.answers, settings.shard)
    folder.mkdir(parents=True, exist_ok=True)
    total = len(admitted.items)
    for shard, items in enumerate(patterns.shards):
        path = patterns.path(shard)
        if not path.exists():
            parts: dict[int, Tensor] = {}
            for place, part in _read(sides, showing, [admitted.items[i] for i in items], blocks, settings.budget):
                parts[place] = part
                tell(items.start + len(parts), total, None)
            whole = torch.cat([parts[place] for place in range(len(items))])
            scratch = path.with_suffix(".part")
            save_file({_PATTERNS: whole.to(sides[0].precision), _SUM: whole.double().sum(dim=0)}, scratch)
            scratch.replace(path)
        tell(items.stop, total, None)
    return patterns


@torch.no_grad()
def _read(
    sides: tuple[Learner, Learner], showing: Showing, items: Sequence[Item], blocks: Sequence[int], budget: int
) -> Iterator[tuple[int, Tensor]]:
    """Place and [m, L, d] float32 pattern of every item."""
    shown = [showing.show(item) for item in items]
    for some in pack(shown, budget):
        good, bad = (
            side.hidden([shown[place].groups[which] for place in some], blocks) for which, side in enumerate(sides)
        )
        yield from zip(some, torch.split((good - bad).cpu(), [shown[place].answers for place in some]), strict=True)
