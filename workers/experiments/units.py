"""A unit: one arm's model with one seed, trained and measured; all that is kept of it is a JSON file."""

import fcntl
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel

from app.schemas.marginreport import Cost
from app.schemas.rewards import RewardSettings
from workers.engine.annotator import native_dtype
from workers.rewards import checkpoints
from workers.rewards.annotated import Annotated
from workers.rewards.lessons import lessons
from workers.rewards.model import RewardModel
from workers.rewards.reading import readable
from workers.rewards.trainer import Listening, Written, margin_trainer

_LAST = 10

Show = Callable[[str, int, int, float | None], None]
"""Told of a stage, its steps done of how many, and the last loss."""


class Unit(BaseModel):
    """What a model came to.

    Attributes:
        gaps: r_chosen − r_rejected of every set it read.
        pairs: trained on.
        conflicts: of them those whose margin contradicts the label.
        mean_margin: mean |m| in the loss.
        loss: mean over the last steps.
        training, reading: what that took.
    """

    gaps: dict[str, list[float]]
    pairs: int
    conflicts: int
    mean_margin: float
    loss: float
    training: Cost
    reading: Cost


@dataclass(frozen=True)
class Bench:
    """What all units have in common.

    Attributes:
        begin: a new model to train, by the seed of its head; its trained weights ask for gradients.
        forward, step: what a token counts that is read, and one that is trained on, in tokens through the annotator.
        settings: how it is trained.
        threads: to train on, on a CPU.
        tell: told how far a training is.
    """

    begin: Callable[[int], RewardModel]
    forward: float
    step: float
    settings: RewardSettings
    threads: int
    tell: Show

    def unit(
        self,
        pairs: Sequence[Annotated],
        sets: Mapping[str, Sequence[Annotated]],
        changes: Mapping[str, Any],
        seed: int,
        folder: Path,
    ) -> Unit:
        """Train on pairs and read sets.

        Args:
            pairs: with the margins of the arm.
            sets: what to read, by name.
            changes: settings other than those in common.
            seed: of the training.
            folder: of checkpoints, deleted then; an earlier, interrupted training there goes on.

        Raises:
            UnfitRows: the pairs do not teach what is asked for.
            Diverged: the loss became no finite number.
            UnusableModel: rewards became no finite numbers.
        """
        torch.set_num_threads(self.threads)
        settings = RewardSettings.model_validate(self.settings.model_dump() | dict(changes) | {"seed": seed})
        model = self.begin(seed)
        began = time.monotonic()
        learnt, conflicts = lessons(pairs, settings)
        written = [Written.of(lesson, model) for lesson in learnt]
        precision = native_dtype(model.model.device)
        trainer = margin_trainer(model, model.model, written, settings, folder, precision, Listening(self.tell, None))
        checkpoint = checkpoints.latest(folder)
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
        losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry][-_LAST:]
        training = Cost(
            seconds=time.monotonic() - began,
            tokens=settings.epochs * sum(one.tokens for one in written) * self.step,
        )
        gaps, reading = self._read(model, sets, precision)
        torch.set_num_threads(1)  # annotating makes passes side by side
        shutil.rmtree(folder, ignore_errors=True)
        return Unit(
            gaps=gaps,
            pairs=len(written),
            conflicts=conflicts,
            mean_margin=sum(abs(one.lesson.margin) for one in written) / len(written),
            loss=sum(losses) / len(losses),
            training=training,
            reading=reading,
        )

    def _read(
        self, model: RewardModel, sets: Mapping[str, Sequence[Annotated]], precision: torch.dtype
    ) -> tuple[dict[str, list[float]], Cost]:
        began, gaps, tokens = time.monotonic(), {}, 0
        model.model.eval()
        for name, pairs in sets.items():
            _, texts = readable(model, pairs, Counter())
            with torch.autocast(model.model.device.type, precision, enabled=precision != torch.float32):
                rewards = model.rewards(texts, lambda done, total: self.tell("measure", done, total, None))
            gaps[name] = (rewards[::2] - rewards[1::2]).tolist()
            tokens += sum(map(len, texts))
        return gaps, Cost(seconds=time.monotonic() - began, tokens=tokens * self.forward)


@contextmanager
def claimed(path: Path, *, wait: bool = False) -> Iterator[bool]:
    """Whether this process may make what belongs at a path; others are told no, or wait, until it ends, however."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.with_suffix(".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            yield False
            return
        yield True


def keep(path: Path, made: BaseModel) -> None:
    """Write it, complete or not at all."""
    scratch = path.with_suffix(".part")
    scratch.write_text(made.model_dump_json())
    scratch.replace(path)
