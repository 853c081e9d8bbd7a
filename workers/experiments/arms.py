"""The arms of the comparison: where each one's margins come from, and what becomes of them in the loss."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from app.schemas.marginreport import SourceName
from workers.directions.evaluation import level_edges

LEVELS = 4

Shape = Callable[[Tensor, int], Tensor]
"""[n] margins and a seed → [n] margins."""


def as_they_are(margins: Tensor, _seed: int) -> Tensor:
    """Unchanged."""
    return margins


def in_levels(margins: Tensor, _seed: int) -> Tensor:
    """0, ⅓, ⅔ and 1 by quarters: the lowest margins, negative ones among them, become 0."""
    edges = torch.tensor(level_edges(margins, LEVELS), dtype=margins.dtype)
    return torch.bucketize(margins, edges, right=True).to(margins.dtype) / (LEVELS - 1)


def permuted(margins: Tensor, seed: int) -> Tensor:
    """Each pair's margin is another's."""
    return margins[torch.randperm(len(margins), generator=torch.Generator().manual_seed(seed))]


def all_alike(margins: Tensor, _seed: int) -> Tensor:
    """One margin for every pair."""
    return torch.ones_like(margins)


@dataclass(frozen=True)
class Arm:
    """A treatment.

    Attributes:
        name: as tables call it.
        about: what it is, in a few words.
        source: where its margins come from; None where there are none.
        shape: what becomes of them before they are scaled.
        size: their mean |m| relative to the experiment's.
        settings: of `RewardSettings`, other than all arms have.
    """

    name: str
    about: str
    source: SourceName | None = None
    shape: Shape = as_they_are
    size: float = 1.0
    settings: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))

    def margins(self, found: Tensor, mean: float, seed: int) -> Tensor:
        """[n] margins as they enter the loss, from those of its source: their mean |m| is `size` times `mean`."""
        shaped = self.shape(found, seed)
        scale = float(shaped.abs().mean())
        return shaped * (self.size * mean / scale) if scale > 0 else shaped


PLAIN = "none"
_NONE = MappingProxyType({"margin": "none"})

_ALL = (
    Arm(PLAIN, "no margin", settings=_NONE),
    Arm("legend", "projection on a Legend direction, as published", "legend"),
    Arm("legend-levels", "the same in four levels", "legend", in_levels),
    Arm("default", "calibrated margin of the default's recipe", "default"),
    Arm("rules", "margin of the rule bank", "rules"),
    Arm("rule-labels", "sides by the sign of the rule margin (RAMO)", "rules", settings={**_NONE, "conflicts": "flip"}),
    Arm("ensemble", "mean difference of three plain reward models", "ensemble"),
    Arm("smoothing", "control: no margin, label smoothing 0.1", settings={**_NONE, "label_smoothing": 0.1}),
    Arm("shuffled", "control: the default's margins, dealt out at random", "default", permuted),
    Arm("constant", "control: the same margin for every pair", "default", all_alike),
    Arm("default-drop", "the default's, conflicts left out", "default", settings={"conflicts": "drop"}),
    Arm("default-flip", "the default's, conflicts flipped", "default", settings={"conflicts": "flip"}),
    Arm("default-down", "the default's, conflicts at half weight", "default", settings={"conflicts": "down-weight"}),
    Arm("default-half", "the default's, half as large", "default", size=0.5),
    Arm("default-double", "the default's, twice as large", "default", size=2.0),
    Arm("default-quadruple", "the default's, four times as large", "default", size=4.0),
    Arm("default-levels", "the default's in four levels", "default", in_levels),
)  # fmt: skip

ARMS: Mapping[str, Arm] = MappingProxyType({arm.name: arm for arm in _ALL})
"""By name, in the order in which they are tried."""
