"""Pairs as what a model is shown, packed so that nothing is computed twice and nothing is padding.

The paper pads prompts on the left and responses on the right, so that the tokens of a response stand in the same places
under both instructions. A packed pass (`workers.engine.packing`) has the same by construction: its responses continue
from the end of their own prompts, and those of all responses, one after another, are the same m tokens whatever the
prompts and the model are. Each prompt is computed once for all its responses.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from app.schemas.pairs import Message, Pair
from workers.alignment.instructions import instructed
from workers.engine.errors import PairRefused
from workers.engine.packing import Group, Layout
from workers.engine.template import ChatTemplate


@dataclass(frozen=True)
class Item:
    """A conversation and the responses to it that a model is shown.

    Attributes:
        messages: the conversation.
        responses: at least one.
    """

    messages: Sequence[Message]
    responses: tuple[str, ...]


def both(pairs: Iterable[Pair]) -> list[Item]:
    """Both responses of every pair, the chosen one first."""
    return [Item(pair.messages, (pair.chosen, pair.rejected)) for pair in pairs]


def chosen(pairs: Iterable[Pair]) -> list[Item]:
    """The chosen responses alone."""
    return [Item(pair.messages, (pair.chosen,)) for pair in pairs]


def rejected(pairs: Iterable[Pair]) -> list[Item]:
    """The rejected responses alone."""
    return [Item(pair.messages, (pair.rejected,)) for pair in pairs]


def either(pairs: Iterable[Pair], seed: int) -> list[Item]:
    """One response of every pair, by lot."""
    source = torch.Generator().manual_seed(seed)
    items = both(pairs)
    sides = torch.randint(2, (len(items),), generator=source).tolist()
    return [Item(item.messages, (item.responses[side],)) for item, side in zip(items, sides, strict=True)]


@dataclass(frozen=True)
class Shown:
    """An item as tokens, under each of some instructions.

    Attributes:
        groups: one for each instruction, with the same branches.
    """

    groups: tuple[Group, ...]

    @cached_property
    def size(self) -> int:
        """Tokens of a pass that holds all of it."""
        return sum(group.size for group in self.groups)

    @cached_property
    def answers(self) -> int:
        """Tokens of its responses, under one instruction."""
        return sum(len(branch.tokens) for branch in self.groups[0].branches)


@dataclass(frozen=True)
class Admitted:
    """Items that can be shown.

    Attributes:
        items: those.
        answers: tokens of the responses of each.
        refused: how many others there were: too long even when cut, or of roles that the template does not take.
        cut: of how many the conversation was cut.
    """

    items: list[Item]
    answers: list[int]
    refused: int
    cut: int


@dataclass(frozen=True)
class Showing:
    """How items are shown.

    Attributes:
        template: of the annotator.
        instructions: one, or several that are to be compared; None is none.
        query: tokens of a conversation at most, its oldest words cut first, the instruction never.
        response: tokens of a response at most.
    """

    template: ChatTemplate
    instructions: tuple[str | None, ...]
    query: int | None
    response: int | None

    def show(self, item: Item) -> Shown:
        """An item as tokens.

        Raises:
            PairRefused: it cannot be shown.
        """
        groups = []
        for instruction in self.instructions:
            told = instructed(self.template, item.messages, instruction)
            groups.append(
                self.template.fit(
                    told.messages, item.responses, kept=told.kept, query=self.query, response=self.response
                )
            )
        return Shown(tuple(groups))

    def admit(self, items: Iterable[Item]) -> Admitted:
        """The items that `show` takes."""
        admitted, answers, refused, cut = [], [], 0, 0
        for item in items:
            try:
                shown = self.show(item)
            except PairRefused:
                refused += 1
                continue
            admitted.append(item)
            answers.append(shown.answers)
            cut += any(group.truncated for group in shown.groups)
        return Admitted(admitted, answers, refused, cut)


@dataclass(frozen=True)
class Predictions:
    """Every token of the responses of a packed pass as something to predict.

    Attributes:
        before: [m] packed index of the token before each: of a response's first one, its prompt's last.
        tokens: [m] what comes there.
        owners: [m] which of the n responses it belongs to.
    """

    before: Tensor
    tokens: Tensor
    owners: Tensor

    @classmethod
    def of(cls, layout: Layout) -> "Predictions":
        """Those of a layout, response after response."""
        last = layout.prefix_rows.gather(1, layout.prefix_lengths[:, None] - 1)[layout.parents]
        before = torch.cat([last, layout.branch_rows[:, :-1]], dim=1)
        owners = torch.arange(len(layout.parents), device=last.device)[:, None].expand_as(before)
        real = layout.branch_real
        return cls(before[real], layout.tokens[layout.branch_rows[real]], owners[real])


def answer_rows(layout: Layout) -> Tensor:
    """[m] packed index of every token of the responses, response after response."""
    return layout.branch_rows[layout.branch_real]
