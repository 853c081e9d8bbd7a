"""Pairs through a reward model."""

from collections import Counter
from collections.abc import Sequence

import torch
from torch import Tensor

from app.schemas.pairs import Message
from workers.directions.gather import opening
from workers.engine.errors import PairRefused
from workers.rewards.annotated import Annotated
from workers.rewards.model import RewardModel


def readable(
    model: RewardModel, pairs: Sequence[Annotated], refused: Counter[str]
) -> tuple[list[Annotated], list[list[int]]]:
    """The pairs that a model can read, and their texts: of each the chosen one's, then the rejected one's.

    Args:
        model: the model.
        pairs: any.
        refused: where it is counted why the others cannot be read.
    """
    found: list[Annotated] = []
    texts: list[list[int]] = []
    for one in pairs:
        try:
            sides = [model.encode(one.pair.messages, side) for side in (one.pair.chosen, one.pair.rejected)]
        except PairRefused as refusal:
            refused[refusal.code] += 1
            continue
        found.append(one)
        texts += sides
    return found, texts


def families_of(pairs: Sequence[Annotated]) -> Tensor:
    """[n] numbers of the pairs' prompts, as of `numbered`."""
    return numbered([one.pair.messages for one in pairs])


def numbered(prompts: Sequence[Sequence[Message]]) -> Tensor:
    """[n] numbers of prompts: conversations that begin alike have the same."""
    numbers: dict[str, int] = {}
    return torch.tensor([numbers.setdefault(opening(messages), len(numbers)) for messages in prompts])
