"""What a packed token sees: its own part up to itself, and of its prompt what a window leaves."""

import random

import pytest
import torch
from torch import Tensor

from workers.engine.packing import Branch, Group, Layout
from workers.engine.sight import Sight

BLOCK = 4


def group(prompt: int, *responses: int) -> Group:
    branches = tuple(Branch((7,) * length, content=length - 1) for length in responses)
    return Group((5,) * prompt, branches, prompt=prompt, request=(0, 1))


def drawn(seed: int) -> list[Group]:
    """Uneven groups of one to five responses."""
    chance = random.Random(seed)
    sizes = [[chance.randint(1, 14) for _ in range(chance.randint(2, 6))] for _ in range(chance.randint(1, 6))]
    return [group(*some) for some in sizes]


def padded(groups: list[Group]) -> Layout:
    return Layout.of(groups, torch.device("cpu"), BLOCK)


def by_definition(layout: Layout, window: int | None) -> Tensor:
    """[T, T] who sees whom: each of its own group and part or prompt, not ahead, and not too far back."""
    parts: list[tuple[int, int]] = []
    for number, one in enumerate(layout.groups):
        parts += [(number, 0)] * len(one.prefix)
        for place, branch in enumerate(one.branches, 1):
            parts += [(number, place)] * len(branch.tokens)
    parts += [(-1 - place, 0) for place in range(len(layout.tokens) - len(parts))]
    positions = layout.positions.tolist()
    seen = torch.zeros(len(parts), len(parts), dtype=torch.bool)
    for q, (own, part) in enumerate(parts):
        for k, (other, which) in enumerate(parts[: q + 1]):
            near = window is None or positions[q] - positions[k] < window
            seen[q, k] = own == other and which in (0, part) and near
    return seen


def by_intervals(sight: Sight) -> Tensor:
    k = torch.arange(len(sight.own))
    q, first, last, own = (x[:, None] for x in (k, sight.first, sight.last, sight.own))
    return (k <= q) & ((k >= own) | ((k >= first) & (k < last)))


def by_blocks(sight: Sight) -> Tensor:
    counts, indices = sight.blocks(BLOCK)
    looked = torch.zeros(len(counts), len(counts), dtype=torch.bool)
    for row, count in enumerate(counts.tolist()):
        looked[row, indices[row, :count].long()] = True
    return looked


@pytest.mark.parametrize("window", [None, 1, 3, 9])
@pytest.mark.parametrize("seed", range(4))
def test_intervals_and_blocks_are_who_sees_whom(seed: int, window: int | None) -> None:
    layout = padded(drawn(seed))
    seen = by_definition(layout, window)
    sight = Sight.of(layout.groups, len(layout.tokens)).within(window)
    assert torch.equal(by_intervals(sight), seen)
    side = len(seen) // BLOCK
    assert torch.equal(by_blocks(sight), seen.view(side, BLOCK, side, BLOCK).any(dim=3).any(dim=1))


def test_many_responses_look_at_their_prompt_and_not_at_each_other() -> None:
    groups = [group(BLOCK, *[BLOCK] * 50)]
    counts, indices = Sight.of(groups, groups[0].size).blocks(BLOCK)
    assert counts.tolist() == [1] + [2] * 50
    assert indices[30, :2].tolist() == [0, 30]


def test_padding_sees_itself_alone() -> None:
    layout = padded([group(3, 2)])
    assert len(layout.tokens) == 8
    assert by_intervals(Sight.of(layout.groups, 8))[5:].nonzero().tolist() == [[0, 5], [1, 6], [2, 7]]
