"""Gradient descent that can be killed: AdamW, a rate that warms up and falls, checkpoints, and the same numbers after.

What a step does follows from its number and from the state in the checkpoint alone.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from app.schemas.alignment import DescentSettings
from workers.alignment import checkpoints
from workers.alignment.errors import Diverged

Tell = Callable[[int, int, float | None], None]
"""Told how many steps of how many are done, and the loss of the last one; may raise to end it."""

_MOMENTS = ("step", "exp_avg", "exp_avg_sq")
_SOURCE = "source"


@dataclass(frozen=True)
class Descent:
    """A descent and where its checkpoints are.

    Attributes:
        weights: what is trained, by name.
        settings: how.
        steps: how many to take.
        folder: of the checkpoints.
        source: the generator that the steps draw from, if they do.
    """

    weights: Mapping[str, nn.Parameter]
    settings: DescentSettings
    steps: int
    folder: Path
    source: torch.Generator | None = None

    def run(self, gradients: Callable[[int], float], tell: Tell) -> list[float]:
        """Take the steps that are left since the last checkpoint.

        Args:
            gradients: adds the gradients of a step, by its number from 0, to the weights' and says its loss.
            tell: told of every step.

        Returns:
            The losses of all steps.

        Raises:
            Diverged: a loss is no finite number.
        """
        optimizer = torch.optim.AdamW(
            self.weights.values(), lr=self.settings.learning_rate, weight_decay=self.settings.weight_decay
        )
        losses = self._resume(optimizer)
        tell(len(losses), self.steps, losses[-1] if losses else None)
        for step in range(len(losses), self.steps):
            optimizer.param_groups[0]["lr"] = self.settings.learning_rate * rate(self.settings, step, self.steps)
            losses.append(gradients(step))
            if not math.isfinite(losses[-1]):
                raise Diverged(f"the loss is no finite number at step {step + 1}: try a lower learning rate")
            nn.utils.clip_grad_norm_(self.weights.values(), self.settings.clip)
            optimizer.step()
            optimizer.zero_grad()
            if (step + 1) % self.settings.checkpoint == 0 or step + 1 == self.steps:
                checkpoints.save(self.folder, step + 1, losses, self._state(optimizer))
            tell(step + 1, self.steps, losses[-1])
        return losses

    def _state(self, optimizer: torch.optim.AdamW) -> dict[str, Tensor]:
        tensors = {f"weights/{name}": weight.detach() for name, weight in self.weights.items()}
        for name, weight in self.weights.items():
            state = optimizer.state.get(weight, {})
            tensors |= {f"{moment}/{name}": state[moment] for moment in _MOMENTS if moment in state}
        if self.source is not None:
            tensors[_SOURCE] = self.source.get_state()
        return tensors

    def _resume(self, optimizer: torch.optim.AdamW) -> list[float]:
        """Become what the last checkpoint holds; the losses of the steps that led there."""
        found = checkpoints.latest(self.folder)
        if found is None:
            return []
        with torch.no_grad():
            for name, weight in self.weights.items():
                weight.copy_(found.tensors[f"weights/{name}"])
                state: dict[str, Any] = {}
                for moment in _MOMENTS:
                    if (kept := found.tensors.get(f"{moment}/{name}")) is not None:
                        state[moment] = kept if moment == "step" else kept.to(weight.device)
                if state:
                    optimizer.state[weight] = state
        if self.source is not None:
            self.source.set_state(found.tensors[_SOURCE])
        return found.losses


def rate(settings: DescentSettings, step: int, steps: int) -> float:
    """Share of the learning rate at a step, from 0: up in a straight line, then as the schedule says."""
    warm = round(settings.warmup * steps)
    if step < warm:
        return (step + 1) / warm
    done = (step - warm) / (steps - warm)
    falling = {"constant": 1.0, "linear": 1 - done, "cosine": 0.5 * (1 + math.cos(math.pi * done))}
    return falling[settings.schedule]


def batch_of(count: int, size: int, step: int, seed: int) -> Sequence[int]:
    """Places of a step's items: every epoch is a permutation of its own, and its last batch may be smaller."""
    epoch, place = divmod(step, steps_of(count, size))
    source = torch.Generator().manual_seed((seed << 20) + epoch)
    return torch.randperm(count, generator=source)[place * size : (place + 1) * size].tolist()


def steps_of(count: int, size: int) -> int:
    """How many batches of a size there are in an epoch."""
    return -(-count // size)
