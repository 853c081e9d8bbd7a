"""Pairs whose true utilities are known: a response is worth what its words are worth, nothing else."""

import torch
from torch import Tensor

from app.schemas.pairs import Pair
from workers.rewards.annotated import Annotated

PROMPT = "Say something."
WORDS = (
    *("amber", "basil", "cedar", "delta", "ember", "fable", "grove", "haven"),
    *("ivory", "jolly", "karma", "lemon", "mango", "noble", "ocean", "pearl"),
)
BEST, WORST, REACH = "best", "worst", 4.0
"""Two words more, and what they are worth: so much, and so much less than nothing."""


def utilities(seed: int) -> Tensor:
    """[W] of the words: spread evenly, dealt out by lot."""
    order = torch.randperm(len(WORDS), generator=torch.Generator().manual_seed(seed))
    return torch.linspace(-3, 3, len(WORDS), dtype=torch.double)[order]


def everything(worth: Tensor) -> list[Annotated]:
    """Every pair of words, labelled by what they are worth, its margin the true gap."""
    pairs: list[Annotated] = []
    for a in range(len(WORDS)):
        for b in range(a):
            good, bad = (a, b) if worth[a] > worth[b] else (b, a)
            pair = Pair(prompt=PROMPT, chosen=WORDS[good], rejected=WORDS[bad])
            pairs.append(Annotated(len(pairs) + 1, pair, float(worth[good] - worth[bad])))
    return pairs


def anchored(worth: Tensor) -> list[Annotated]:
    """Every word above the worst and below the best: the labels tell no two words apart, the margins do."""
    pairs: list[Annotated] = []
    for word, value in zip(WORDS, worth.tolist(), strict=True):
        above, below = (Pair(prompt=PROMPT, chosen=a, rejected=b) for a, b in ((word, WORST), (BEST, word)))
        pairs += [Annotated(len(pairs) + 1, above, REACH + value), Annotated(len(pairs) + 2, below, REACH - value)]
    return pairs


def some(pairs: list[Annotated], count: int, seed: int) -> list[Annotated]:
    """A few of them by lot."""
    order = torch.randperm(len(pairs), generator=torch.Generator().manual_seed(seed))
    return [pairs[place] for place in order[:count].tolist()]


def wrong(pairs: list[Annotated], share: float) -> list[Annotated]:
    """The first of them with the label of the other response; the margin knows better and is negative."""
    count = round(share * len(pairs))
    turned = [
        Annotated(one.line, Pair(prompt=PROMPT, chosen=one.pair.rejected, rejected=one.pair.chosen), -(one.margin or 0))
        for one in pairs[:count]
    ]
    return turned + pairs[count:]


def shuffled(pairs: list[Annotated], seed: int) -> list[Annotated]:
    """The same pairs with one another's margins."""
    order = torch.randperm(len(pairs), generator=torch.Generator().manual_seed(seed)).tolist()
    return [Annotated(one.line, one.pair, pairs[place].margin) for one, place in zip(pairs, order, strict=True)]
