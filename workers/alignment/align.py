"""The last stage: an adapter that makes the model's activity what the preference would add to it (eq. 6).

An adapter is trained so that h = h_base + α v at the target layers, where h_base is what the model has there without it
and v is the pattern. Nothing behind the last target layer is run, and no block behind it has an adapter.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from app.schemas.alignment import AlignSettings
from workers.alignment.batches import Item, Showing
from workers.alignment.descent import Descent, Tell, batch_of
from workers.alignment.learner import Learner
from workers.alignment.losses import misalignment
from workers.alignment.patterns import Patterns
from workers.engine.packing import pack


@dataclass(frozen=True)
class Goal:
    """What a model is to be aligned to.

    Attributes:
        base: the model that it begins as.
        showing: how items are shown to both: without an instruction.
        items: whose patterns there are.
        patterns: of the items.
        blocks: L target layers.
    """

    base: Learner
    showing: Showing
    items: Sequence[Item]
    patterns: Patterns
    blocks: Sequence[int]


def align(learner: Learner, goal: Goal, settings: AlignSettings, *, seed: int, folder: Path, tell: Tell) -> list[float]:
    """Train a learner's adapter; arguments and errors as of `instruct.teach`.

    Returns:
        Of every step the mean distance ‖h − (h_base + α v)‖₂ over layers, items and response tokens.
    """

    def gradients(step: int) -> float:
        places = batch_of(len(goal.items), settings.batch, step, seed)
        shown = [goal.showing.show(goal.items[place]) for place in places]
        terms, total = len(goal.blocks) * sum(one.answers for one in shown), 0.0
        for some in pack(shown, settings.budget):
            groups = [shown[place].groups[0] for place in some]
            patterns = torch.cat([goal.patterns.of(places[place]) for place in some]).to(learner.annotator.device)
            with torch.no_grad():
                base = goal.base.hidden(groups, goal.blocks)
            loss = misalignment(learner.hidden(groups, goal.blocks), base, patterns, settings.alpha) / terms
            torch.autograd.backward(loss)
            total += float(loss.detach())
        return total

    return Descent(learner.weights, settings, settings.steps, folder, learner.source).run(gradients, tell)
