"""The first stage: a model is taught what is preferred (arXiv 2312.15997, section 3.1).

SCIT teaches one model both instructions; Dual teaches a model the chosen responses and another one the rejected ones,
without any instruction. A step's loss is the equations' sum over its items, per response token of these items.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from app.schemas.alignment import InstructSettings
from workers.alignment.batches import Item, Showing, Shown
from workers.alignment.descent import Descent, Tell, batch_of, steps_of
from workers.alignment.learner import Learner
from workers.alignment.losses import negative_likelihood, scit
from workers.engine.packing import pack

Loss = Callable[[Learner, Sequence[Shown]], Tensor]
"""The loss of what one pass holds, a sum over its items."""


def contrast_loss(learner: Learner, shown: Sequence[Shown]) -> Tensor:
    """Eq. 1 of pairs shown under both instructions, both responses each."""
    likelihoods = learner.log_likelihoods([group for one in shown for group in one.groups])
    return scit(likelihoods.view(len(shown), 2, 2))


def likelihood_loss(learner: Learner, shown: Sequence[Shown]) -> Tensor:
    """Eq. 2 and 3 of single responses."""
    return negative_likelihood(learner.log_likelihoods([group for one in shown for group in one.groups]))


@dataclass(frozen=True)
class Lessons:
    """What a model is taught with.

    Attributes:
        showing: how items are shown.
        items: all of which can be.
        loss: of a pass.
    """

    showing: Showing
    items: Sequence[Item]
    loss: Loss

    def batch(self, settings: InstructSettings) -> int:
        """How many of `items` make a step: the batch is counted in responses."""
        return max(1, settings.batch // len(self.items[0].responses))

    def steps(self, settings: InstructSettings) -> int:
        """Of all epochs."""
        return settings.epochs * steps_of(len(self.items), self.batch(settings))


def teach(
    learner: Learner, lessons: Lessons, settings: InstructSettings, *, seed: int, folder: Path, tell: Tell
) -> list[float]:
    """Train what of a learner is to be trained.

    Args:
        learner: changed in place.
        lessons: what with.
        settings: how.
        seed: of the order.
        folder: of the checkpoints; where there is one, what is left since then is done.
        tell: told of every step.

    Returns:
        The loss of every step.

    Raises:
        Diverged: a loss is no finite number.
    """
    size = lessons.batch(settings)

    def gradients(step: int) -> float:
        places = batch_of(len(lessons.items), size, step, seed)
        shown = [lessons.showing.show(lessons.items[place]) for place in places]
        tokens, total = sum(one.answers for one in shown), 0.0
        for some in pack(shown, settings.budget):
            loss = lessons.loss(learner, [shown[place] for place in some]) / tokens
            torch.autograd.backward(loss)
            total += float(loss.detach())
        return total

    return Descent(learner.weights, settings, lessons.steps(settings), folder, learner.source).run(gradients, tell)
