"""What a taught model itself says of responses: how much likelier the good instruction makes them than the bad one.

s(r) = log π(r | p+, x) − log π(r | p−, x), and a margin is s(chosen) − s(rejected). For Dual it is log π_h(r | x) −
log π_l(r | x). One scalar a response, as of directions; of each prompt its responses are branches of one pass.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from workers.alignment.batches import Item, Showing, Shown
from workers.alignment.instructions import DISPREFERRED, PREFERRED
from workers.alignment.learner import Learner
from workers.engine.accelerator import watched
from workers.engine.annotator import Annotator
from workers.engine.errors import NotFinite, PairRefused, refusal_of
from workers.engine.packing import pack
from workers.engine.process import side_by_side


@dataclass(frozen=True)
class Scored:
    """What came of an item.

    Attributes:
        scores: [K] float64 of its responses, in nats.
        prompt: tokens of its conversation, the instruction left out.
        responses: [K] tokens of each response.
        truncated: whether its conversation was cut.
    """

    scores: Tensor
    prompt: int
    responses: tuple[int, ...]
    truncated: bool


@dataclass(frozen=True)
class Contrast:
    """Two views of a response: one model under two instructions, or two models.

    Attributes:
        sides: who says how likely a response is if it is good, and who if it is bad.
        instructions: under which instruction each of them does.
    """

    sides: tuple[Learner, Learner]
    instructions: tuple[str | None, str | None]

    @classmethod
    def of_scit(cls, taught: Annotator) -> "Contrast":
        """One model that was taught both instructions, or that was taught nothing, to compare with."""
        learner = Learner.reading(taught)
        return cls((learner, learner), (PREFERRED, DISPREFERRED))

    @classmethod
    def of_dual(cls, preferred: Annotator, dispreferred: Annotator) -> "Contrast":
        """Two models that were taught one side each."""
        return cls((Learner.reading(preferred), Learner.reading(dispreferred)), (None, None))

    def scores(
        self,
        items: Sequence[Item],
        *,
        truncate: bool = False,
        progress: Callable[[int], None] = lambda _done: None,
    ) -> list[Scored | PairRefused]:
        """Scores of the K responses of each item; the reason instead where there are none.

        Args:
            items: what to score.
            truncate: cut the oldest words of conversations that do not fit.
            progress: told after every pass how many parts of items are scored.
        """
        shown = [self._show(item, truncate=truncate) for item in items]
        annotator = self.sides[0].annotator
        parts = [
            (place, part)
            for place, one in enumerate(shown)
            if isinstance(one, Shown)
            for part in _parts(one, annotator.budget.tokens)
        ]
        batches = list(pack([part for _, part in parts], annotator.budget.tokens))
        found: dict[int, Tensor | PairRefused] = {}
        with side_by_side(annotator.passes) as pool:
            read = pool.map(lambda batch: self._score([parts[i][1] for i in batch]), batches)
            for batch, scores in zip(batches, read, strict=True):
                found.update(zip(batch, scores, strict=True))
                progress(len(found))
        by_item: dict[int, list[Tensor | PairRefused]] = {}
        for index, (place, _) in enumerate(parts):
            by_item.setdefault(place, []).append(found[index])
        return [_joined(one, by_item[i]) if isinstance(one, Shown) else one for i, one in enumerate(shown)]

    def _show(self, item: Item, *, truncate: bool) -> Shown | PairRefused:
        """An item under both instructions, the same of its conversation cut."""
        template = self.sides[0].annotator.template
        try:
            if not truncate:
                return Showing(template, self.instructions, template.window, None).show(item)
            least = min(group.prompt for group in Showing(template, self.instructions, None, None).show(item).groups)
            return Showing(template, self.instructions, least, None).show(item)
        except PairRefused as refusal:
            return refusal

    def _score(self, shown: Sequence[Shown]) -> list[Tensor | PairRefused]:
        """[K] of every part of a pass; one that fails is tried by halves, so that only the guilty part fails."""
        try:
            with torch.no_grad(), watched():
                good, bad = (
                    side.log_likelihoods([one.groups[which] for one in shown]).double().cpu()
                    for which, side in enumerate(self.sides)
                )
            scores = good - bad
            if not torch.isfinite(scores).all():
                raise NotFinite("the likelihoods of a response are not finite numbers")
        except Exception as error:
            if len(shown) == 1:
                return [refusal_of(error)]
            middle = len(shown) // 2
            return self._score(shown[:middle]) + self._score(shown[middle:])
        return list(torch.split(scores, [len(one.groups[0].branches) for one in shown]))


def _parts(shown: Shown, budget: int) -> Iterator[Shown]:
    """An item in parts of so many responses as one pass should hold."""
    start = 0
    for part in shown.groups[0].split(budget):
        stop = start + len(part.branches)
        yield Shown(tuple(replace(group, branches=group.branches[start:stop]) for group in shown.groups))
        start = stop


def _joined(shown: Shown, scores: Sequence[Tensor | PairRefused]) -> Scored | PairRefused:
    if refused := [part for part in scores if isinstance(part, PairRefused)]:
        return refused[0]
    first, *_ = shown.groups
    return Scored(
        torch.cat([part for part in scores if isinstance(part, Tensor)]),
        first.prompt,
        tuple(branch.content for branch in first.branches),
        any(group.truncated for group in shown.groups),
    )
