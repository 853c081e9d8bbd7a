"""Groups of tokens and their layout in one packed forward pass.

A group is a prompt and the K responses that share it. In a packed batch every token appears once: the prompt of a
group, then its responses one after the other, group after group, padded only at the end. The linear layers see that
one long row; only attention needs to know who may look at whom.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Protocol

import torch
from torch import Tensor

from workers.engine.accelerator import sent


@dataclass(frozen=True, slots=True)
class Branch:
    """One response after a shared prompt.

    Attributes:
        tokens: the response's tokens and the end-of-turn token.
        content: how many of them are the response itself; 0 for an empty response.
    """

    tokens: tuple[int, ...]
    content: int


@dataclass(frozen=True)
class Group:
    """A prompt and the responses that share it.

    Attributes:
        prefix: tokens of the rendered prompt, up to and including the assistant's header.
        branches: the K responses.
        prompt: how many tokens of the prefix are the user's text rather than the template's.
        request: where in the prefix the last user turn's text begins and ends; never empty.
        truncated: whether the prompt was cut to fit.
    """

    prefix: tuple[int, ...]
    branches: tuple[Branch, ...]
    prompt: int
    request: tuple[int, int]
    truncated: bool = False

    def split(self, budget: int) -> "list[Group]":
        """The same prompt with its responses in several groups, so that many responses are not one huge pass.

        A pair is never split, and no part is smaller than four prompts: the prompt is computed again for each.
        """
        if len(self.branches) <= 2:
            return [self]
        most = max(budget, 4 * len(self.prefix)) - len(self.prefix)
        parts: list[list[Branch]] = [[]]
        room = most
        for branch in self.branches:
            if parts[-1] and len(branch.tokens) > room:
                parts.append([])
                room = most
            parts[-1].append(branch)
            room -= len(branch.tokens)
        return [replace(self, branches=tuple(part)) for part in parts]

    @cached_property
    def size(self) -> int:
        """Tokens that a forward pass computes for this group."""
        return len(self.prefix) + sum(len(branch.tokens) for branch in self.branches)


@dataclass(frozen=True)
class United:
    """Groups with everything that is the same in several of them only once.

    Attributes:
        groups: one for each different prompt, with its different responses.
        places: of each group given, which of `groups` has it, and where among that one's responses its own are.
    """

    groups: list[Group]
    places: list[tuple[int, list[int]]]

    @classmethod
    def of(cls, groups: Sequence[Group]) -> "United":
        """Unite groups of the same prompt; a response to it that occurs more than once occurs once."""
        prompts: dict[tuple[tuple[int, ...], tuple[int, int]], int] = {}
        found: list[tuple[Group, dict[Branch, int]]] = []
        places = []
        for group in groups:
            which = prompts.setdefault((group.prefix, group.request), len(found))
            if which == len(found):
                found.append((group, {}))
            branches = found[which][1]
            places.append((which, [branches.setdefault(branch, len(branches)) for branch in group.branches]))
        return cls([replace(group, branches=tuple(branches)) for group, branches in found], places)


def in_half(groups: Sequence[Group]) -> list[Sequence[Group]]:
    """Two halves of a batch; of one group, two with its prompt and half its responses; one response stays whole."""
    if len(groups) > 1:
        return [groups[: len(groups) // 2], groups[len(groups) // 2 :]]
    middle = len(groups[0].branches) // 2
    halves = (groups[0].branches[:middle], groups[0].branches[middle:])
    return [[replace(groups[0], branches=half)] for half in halves if half]


class Sized(Protocol):
    """Something that takes a number of tokens."""

    @property
    def size(self) -> int:
        """Tokens that a forward pass computes for it."""


def pack(groups: Sequence[Sized], budget: int) -> Iterator[list[int]]:
    """Cut groups into batches of at most `budget` tokens; a group larger than that is a batch of its own.

    Neighbours in length share a batch, so that attention can multiply several at once.

    Yields:
        Indices into `groups`, one list a batch; together every index exactly once.
    """
    batch: list[int] = []
    room = budget
    for index in sorted(range(len(groups)), key=lambda i: groups[i].size):
        size = groups[index].size
        if batch and size > room:
            yield batch
            batch, room = [], budget
        batch.append(index)
        room -= size
    if batch:
        yield batch


@dataclass(frozen=True)
class Layout:
    """Where everything is in a packed batch of T tokens, g groups and n responses.

    Attributes:
        groups: what is laid out.
        multiple: T is one of this.
        tokens: [T] token ids, those of padding at the end included.
        positions: [T] positions; every response continues from the end of its own prompt.
        prefix_rows: [g, P] packed index of each prompt token, padded on the right with 0.
        branch_rows: [n, R] packed index of each response token, padded on the right with 0.
        parents: [n] group of each response.
        prefix_lengths, branch_lengths: [g] and [n] true lengths.
        contents: [n] length of each response without its end of turn.
        requests: [g, 2] where in its prefix each group's last user turn begins and ends.
    """

    groups: Sequence[Group]
    multiple: int
    tokens: Tensor
    positions: Tensor
    prefix_rows: Tensor
    branch_rows: Tensor
    parents: Tensor
    prefix_lengths: Tensor
    branch_lengths: Tensor
    contents: Tensor
    requests: Tensor

    @classmethod
    def of(cls, groups: Sequence[Group], device: torch.device, multiple: int = 1) -> "Layout":
        """Lay out `groups` in the order given.

        Padding of the row repeats the first token, and comes to numbers as finite as those of real ones.

        Args:
            groups: of any number and length.
            device: where everything is.
            multiple: T will be one of this.
        """
        tokens: list[int] = []
        positions: list[int] = []
        prefixes, branches, parents, contents = [], [], [], []
        for parent, group in enumerate(groups):
            depth = len(group.prefix)
            prefixes.append((len(tokens), depth))
            tokens.extend(group.prefix)
            positions.extend(range(depth))
            for branch in group.branches:
                branches.append((len(tokens), len(branch.tokens)))
                parents.append(parent)
                contents.append(branch.content)
                tokens.extend(branch.tokens)
                positions.extend(range(depth, depth + len(branch.tokens)))
        padding = -len(tokens) % multiple
        tokens.extend(tokens[:1] * padding)
        positions.extend([0] * padding)
        prefix_rows, prefix_lengths = _rows(prefixes)
        branch_rows, branch_lengths = _rows(branches)
        parts = [torch.tensor(tokens), torch.tensor(positions), prefix_rows, branch_rows, torch.tensor(parents)]
        parts += [prefix_lengths, branch_lengths, torch.tensor(contents)]
        parts.append(torch.tensor([group.request for group in groups]))
        return cls(groups, multiple, *(sent(part, device) for part in parts))

    @cached_property
    def answers(self) -> Tensor:
        """[m] packed index of every response token; the first occurs more than once to make m a multiple as T is."""
        rows = self.branch_rows[self.branch_real]
        return torch.cat([rows, rows[:1].expand(-len(rows) % self.multiple)])

    @cached_property
    def branch_real(self) -> Tensor:
        """[n, R] True where a response row holds a token rather than padding."""
        return torch.arange(self.branch_rows.shape[1], device=self.tokens.device) < self.branch_lengths[:, None]


def _rows(spans: Sequence[tuple[int, int]]) -> tuple[Tensor, Tensor]:
    """[rows, longest] packed indices of `(start, length)` spans, padded on the right with 0, and the lengths."""
    starts, lengths = (torch.tensor(column) for column in zip(*spans, strict=True))
    steps = torch.arange(int(lengths.max()))
    rows = starts[:, None] + steps
    return rows.masked_fill(steps >= lengths[:, None], 0), lengths
