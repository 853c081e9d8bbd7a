"""TRL's RewardTrainer with weights, label smoothing, passes of a bounded size and checkpoints without pickle."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from datasets import Dataset
from numpy.typing import NDArray
from torch import Tensor
from transformers import PreTrainedModel, TrainerCallback
from transformers.trainer_callback import PrinterCallback
from trl import RewardConfig, RewardTrainer
from trl.trainer.reward_trainer import DataCollatorForPreference

from app.schemas.rewards import RewardSettings
from workers.rewards import checkpoints
from workers.rewards.errors import Diverged
from workers.rewards.lessons import Lesson
from workers.rewards.losses import off_centre, pair_losses
from workers.rewards.model import RewardModel, by_length

Stage = Literal["read", "train", "measure"]

Tell = Callable[[Stage, int, int, float | None], None]
"""Told of pairs read, steps of training, or held-out dialogues measured how many of how many are done.

And the loss of a step; may raise to end the training.
"""

HELD_OUT = "held_out"
"""Key of the trainer's log under which it has how the held-out pairs are read."""


@dataclass(frozen=True)
class Written:
    """A lesson as tokens."""

    lesson: Lesson
    preferred: NDArray[np.int32]
    other: NDArray[np.int32]

    @classmethod
    def of(cls, lesson: Lesson, model: RewardModel) -> "Written":
        """A lesson as a model reads it.

        Raises:
            PairRefused: it cannot.
        """
        sides = (lesson.preferred, lesson.other)
        return cls(lesson, *(np.array(model.encode(lesson.messages, side), np.int32) for side in sides))

    @property
    def tokens(self) -> int:
        """Of both dialogues."""
        return len(self.preferred) + len(self.other)


@dataclass(frozen=True)
class Listening:
    """Whom a training tells what.

    Attributes:
        tell: of every step.
        measure: called before training and after every epoch for what to note of the held-out pairs, by the step.
    """

    tell: Tell
    measure: Callable[[int], dict[str, Any]] | None


def margin_trainer(
    reward_model: RewardModel,
    model: PreTrainedModel,
    written: Sequence[Written],
    settings: RewardSettings,
    folder: Path,
    precision: torch.dtype,
    listening: Listening,
) -> "MarginTrainer":
    """A trainer of a model.

    Args:
        reward_model: what is trained, on the device where it is trained.
        model: the same as it is trained: perhaps with adapters.
        written: what is learnt.
        settings: how.
        folder: of checkpoints.
        precision: in which matrices are multiplied.
        listening: who listens.
    """
    on_cpu = model.device.type == "cpu"
    config = RewardConfig(
        str(folder),
        num_train_epochs=settings.epochs,
        per_device_train_batch_size=settings.batch,
        learning_rate=settings.rate,
        warmup_steps=settings.warmup,
        weight_decay=settings.weight_decay,
        center_rewards_coefficient=settings.center_rewards_coefficient or None,
        max_length=None,
        seed=settings.seed,
        save_steps=settings.checkpoint,
        use_cpu=on_cpu,
        bf16=False,  # TRL's default rounds rewards, too: this trainer casts by itself
        activation_checkpointing=False,
        dataloader_pin_memory=not on_cpu,
        logging_steps=1,
        logging_nan_inf_filter=False,
        remove_unused_columns=False,
        report_to="none",
        disable_tqdm=True,
    )
    config._n_gpu = min(1, config.n_gpu)  # others of this machine are not this training's
    rows = Dataset.from_dict(
        {
            "chosen_ids": [one.preferred for one in written],
            "rejected_ids": [one.other for one in written],
            "margin": [one.lesson.margin for one in written],
            "weight": [one.lesson.weight for one in written],
        }
    )
    tokenizer = reward_model.tokenizer
    trainer = MarginTrainer(
        model,
        config,
        data_collator=_Collator(int(tokenizer.pad_token_id)),
        train_dataset=rows,
        processing_class=tokenizer,
        callbacks=[_Ear(listening)],
    )
    trainer.remove_callback(PrinterCallback)
    trainer.settings, trainer.precision, trainer.folder = settings, precision, folder
    return trainer


class _Collator(DataCollatorForPreference):  # type: ignore[misc]
    def torch_call(self, examples: list[dict[str, Any]]) -> dict[str, Any]:
        weights = torch.tensor([example["weight"] for example in examples], dtype=torch.float)
        return {**super().torch_call(examples), "weight": weights}


class MarginTrainer(RewardTrainer):  # type: ignore[misc]
    """TRL's trainer, whose loss it is where all weights are one and nothing is smoothed.

    Attributes:
        settings: how it is trained.
        precision: in which matrices are multiplied.
        folder: of checkpoints.
    """

    settings: RewardSettings
    precision: torch.dtype
    folder: Path

    def training_step(self, model: Any, inputs: dict[str, Tensor], num_items_in_batch: Any = None) -> Tensor:
        """Gradients of a batch's loss, in passes of bounded size; a batch that fits one is passed on as it is."""
        model.train()
        inputs = self._prepare_inputs(inputs)
        count, right = len(inputs["margin"]), 0
        total = torch.zeros((), device=self.args.device)
        for part in _parts(inputs, self.settings.budget):
            mean, outputs = self.compute_loss(model, part, return_outputs=True)
            loss = mean * (len(part["margin"]) / count)
            self.accelerator.backward(loss)
            total += loss.detach()
            chosen, rejected = outputs.logits.detach().squeeze(-1).chunk(2)
            right += int((chosen > rejected).sum())
        self._metrics["train"]["accuracy"] = [right / count]
        if not bool(torch.isfinite(total)):
            raise Diverged(f"the loss of step {self.state.global_step + 1} is no finite number")
        return total

    def compute_loss(
        self, model: Any, inputs: dict[str, Tensor], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """The mean loss of some pairs, as `MarginSettings` says; forward pass and log are TRL's."""
        weights = inputs["weight"]
        given = {name: part for name, part in inputs.items() if name != "weight"}
        with self._casting():
            _, outputs = super().compute_loss(model, given, return_outputs=True)
        chosen, rejected = outputs.logits.squeeze(-1).chunk(2)
        smoothing, centring = self.settings.label_smoothing, self.settings.center_rewards_coefficient
        loss = pair_losses(chosen - rejected, inputs["margin"], weights, smoothing).mean()
        if centring:
            loss = loss + centring * off_centre(chosen, rejected).mean()
        return (loss, outputs) if return_outputs else loss

    def _casting(self) -> AbstractContextManager[object]:
        """Weights are float32; where that pays, products are of half their precision, but for the head's."""
        kind = self.args.device.type
        return nullcontext() if self.precision == torch.float32 else torch.autocast(kind, self.precision)

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        if self.state.global_step < self.state.max_steps:
            state = asdict(self.state) | {"stateful_callbacks": {}}
            step = self.state.global_step
            checkpoints.save(self.folder, step, self.model, self.optimizer, self.lr_scheduler, state)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        checkpoints.load_weights(Path(resume_from_checkpoint), self.model)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if checkpoint is not None:
            checkpoints.load_optimizer(Path(checkpoint), self.optimizer, self.lr_scheduler)

    def _load_rng_state(self, checkpoint: str | None) -> None:
        """Nothing is drawn while it trains: TRL switches dropout off, and the order of pairs is the seed's."""

    def _send_telemetry(self) -> None:
        """Nobody is told."""


def _parts(inputs: dict[str, Tensor], budget: int) -> list[dict[str, Tensor]]:
    """A batch in parts whose dialogues take at most so many tokens with their padding, or of one pair."""
    count = len(inputs["margin"])
    lengths = inputs["attention_mask"].sum(dim=1).view(2, count).amax(dim=0).tolist()
    parts = []
    for places in by_length(lengths, budget // 2):
        here = sorted(places)
        longest = max(lengths[place] for place in here)
        rows = torch.tensor(here + [count + place for place in here], device=inputs["input_ids"].device)
        some = {name: inputs[name][rows, :longest] for name in ("input_ids", "attention_mask")}
        parts.append(some | {name: inputs[name][rows[: len(here)]] for name in ("margin", "weight")})
    return parts


class _Ear(TrainerCallback):  # type: ignore[misc]
    """Passes on what happens, and has the held-out pairs read."""

    def __init__(self, listening: Listening) -> None:
        self._listening = listening

    def on_train_begin(self, args: Any, state: Any, control: Any, **_others: Any) -> None:
        if state.global_step == 0:
            self._measure(state)

    def on_step_end(self, args: Any, state: Any, control: Any, **_others: Any) -> None:
        if state.global_step % (state.max_steps // int(args.num_train_epochs)) == 0:
            self._measure(state)

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float], **_others: Any) -> None:
        if "loss" in logs:
            self._listening.tell("train", state.global_step, state.max_steps, logs["loss"])

    def _measure(self, state: Any) -> None:
        if self._listening.measure is not None:
            state.log_history.append({HELD_OUT: self._listening.measure(state.global_step)})
