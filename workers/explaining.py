"""How a worker says what every token contributes to a score.

A score is linear in the pooled activations of its response, and these are a sum over tokens: what a token contributes
is the score of its own share. The prompt's part, where a direction depends on it, is the same for all tokens.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from workers.directions.direction import SafetyDirection
from workers.engine.annotator import Annotator
from workers.engine.errors import NotFinite, PairRefused, refusal_of
from workers.engine.packing import Group
from workers.engine.shares import shares
from workers.engine.variant import Variant
from workers.entries import Item, ItemReading, Shares, responses_of
from workers.turns import ASKING, Manner

_TOKENS = 1024
"""That are scored at once: a share is as large as an activation."""


@dataclass(frozen=True)
class Explainer:
    """Explains scores by some directions, in passes of its own that hold up nobody who does not ask for it.

    Attributes:
        annotator: the language model.
        directions: D of them.
        variants: what each reads where it is not the annotator.
        manner: how the chunk is worked on.
    """

    annotator: Annotator
    directions: Sequence[SafetyDirection]
    variants: Sequence[Variant | None]
    manner: Manner

    def explained(
        self,
        items: Sequence[Item],
        groups: Sequence[Group | PairRefused],
        readings: Sequence[ItemReading | PairRefused],
    ) -> list[ItemReading | PairRefused]:
        """The readings of some items with what every token contributes; the reason where there is none.

        Their scores are the sums of that, and so of the same pass.
        """
        return [self._explained(*one) for one in zip(items, groups, readings, strict=True)]

    def _explained(
        self, item: Item, group: Group | PairRefused, reading: ItemReading | PairRefused
    ) -> ItemReading | PairRefused:
        if isinstance(reading, PairRefused) or isinstance(group, PairRefused):
            return reading
        raw = self.contributions(group)
        if isinstance(raw, PairRefused):
            return raw
        texts = [[*self.annotator.template.pieces(text), None] for text in responses_of(item)]
        shares = Shares(texts, [[own.tolist() for own in one] for one in raw])
        return replace(reading, scores=[[float(own.sum()) for own in one] for one in raw], shares=shares)

    def contributions(self, group: Group) -> list[list[Tensor]] | PairRefused:
        """[D][K] of each response the raw contributions of its t tokens, [t] float64; the reason where there are none.

        The last of them is that of the end of the turn.
        """
        self.manner.go_on()
        try:
            with ASKING.turn(urgent=self.manner.urgent):
                found = self._each(group)
        except Exception as error:
            return refusal_of(error)
        if not all(torch.isfinite(own).all() for one in found for own in one):
            return NotFinite("the annotator's activations are not finite numbers")
        return found

    def _each(self, group: Group) -> list[list[Tensor]]:
        """Every model is read once, whichever of the directions read it."""
        models = {variant.revision if variant else None: variant for variant in self.variants}
        found: dict[int, list[Tensor]] = {}
        for revision, variant in models.items():
            own = [i for i, v in enumerate(self.variants) if (v.revision if v else None) == revision]
            sites = sorted({site for i in own for site in self.directions[i].reads})
            parts = shares(variant.annotator if variant else self.annotator, group, sites)
            for i in own:
                places = [sites.index(site) for site in self.directions[i].reads]
                found[i] = [_scored(self.directions[i], part, places) for part in parts]
        return [found[i] for i in range(len(self.directions))]


def _scored(direction: SafetyDirection, parts: Tensor, places: Sequence[int]) -> Tensor:
    """[t] scores of [t, S, d] shares by a direction that reads some of the S places."""
    return torch.cat([direction.scores(some[:, places]) for some in torch.split(parts, _TOKENS)])
