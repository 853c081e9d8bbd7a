"""Annotated pairs as what a reward model is trained on: sides, margins and weights."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from app.schemas.pairs import Message
from app.schemas.rewards import MarginSettings
from workers.directions.gather import opening
from workers.rewards.annotated import Annotated
from workers.rewards.errors import UnfitRows

_LEVEL = 1 / 3


@dataclass(frozen=True, slots=True)
class Lesson:
    """A pair to train on.

    Attributes:
        messages: the prompt.
        preferred, other: responses; of a flipped pair, the other way round.
        margin: m of the loss.
        weight: w of the loss.
    """

    messages: Sequence[Message]
    preferred: str
    other: str
    margin: float
    weight: float


def lessons(pairs: Sequence[Annotated], settings: MarginSettings) -> tuple[list[Lesson], int]:
    """What is to be learnt of each pair, in order, and how many conflicted; `MarginSettings` says what that means.

    Raises:
        UnfitRows: a pair lacks the margin or level that is asked for; names its line.
    """
    made = [_lesson(one, settings) for one in pairs]
    return [lesson for lesson in made if lesson is not None], sum(_conflicts(one) for one in pairs)


def _lesson(one: Annotated, settings: MarginSettings) -> Lesson | None:
    needed = settings.margin == "margin" or settings.conflicts != "keep"
    if needed and one.margin is None:
        raise UnfitRows(
            f"line {one.line} has no margin: annotate the file and train on what comes of it, or ask for `margin` "
            "`none`, with `conflicts` `keep`"
        )
    if settings.margin == "level" and one.level is None:
        raise UnfitRows(f"line {one.line} has no level; rows of format raw have, of a direction that is calibrated")
    pair = one.pair
    plain = Lesson(pair.messages, pair.chosen, pair.rejected, _margin(one, settings), 1.0)
    if not _conflicts(one) or settings.conflicts == "keep":
        return plain
    if settings.conflicts == "drop":
        return None
    if settings.conflicts == "down-weight":
        return Lesson(pair.messages, pair.chosen, pair.rejected, 0.0, settings.conflict_weight)
    margin = 0.0 if settings.margin == "level" else abs(plain.margin)
    return Lesson(pair.messages, pair.rejected, pair.chosen, margin, 1.0)


def _margin(one: Annotated, settings: MarginSettings) -> float:
    found = {"none": 0.0, "margin": one.margin or 0.0, "level": (one.level or 0) * _LEVEL}[settings.margin]
    margin = found * settings.margin_scale
    return margin if settings.margin_clip is None else max(-settings.margin_clip, min(settings.margin_clip, margin))


def _conflicts(one: Annotated) -> bool:
    return one.margin is not None and one.margin < 0


def divided(pairs: Sequence[Annotated], share: float, seed: int) -> tuple[list[Annotated], list[Annotated]]:
    """Pairs to train on, and those of about this share of the prompts; no conversation's beginning is in both."""
    openings = list(dict.fromkeys(opening(one.pair.messages) for one in pairs))
    order = torch.randperm(len(openings), generator=torch.Generator().manual_seed(seed)).tolist()
    apart = {openings[place] for place in order[: round(len(openings) * share)]}
    sides: tuple[list[Annotated], list[Annotated]] = ([], [])
    for one in pairs:
        sides[opening(one.pair.messages) in apart].append(one)
    return sides
