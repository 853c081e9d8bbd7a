"""A training in a folder, begun or gone on with.

    config.json, model.safetensors, tokenizer…   the classifier as transformers loads it; of adapters, merged
    adapter/                                     what was trained of a model with adapters, in peft's files
    reward.json                                  the card
    curves.json, curves.png                      the losses
    training/                                    checkpoints, until it is finished

A folder that holds a training with something else is refused.
"""

import hashlib
import json
import shutil
import time
import warnings
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import PreTrainedModel
from transformers.utils.logging import disable_progress_bar

from app import __version__
from app.rewards import ADAPTER, CARD, CURVES, PICTURE
from app.schemas.rewards import HeldOut, RewardCard, RewardCurves, RewardSettings, Step, TrainedOn
from workers.engine.accelerator import watched
from workers.engine.annotator import native_dtype, target_device
from workers.engine.errors import PairRefused
from workers.rewards import checkpoints
from workers.rewards.annotated import Annotated, AnnotatedFile
from workers.rewards.curves import draw
from workers.rewards.errors import OtherTraining, UnfitRows
from workers.rewards.lessons import divided, lessons
from workers.rewards.measures import held_out_figures
from workers.rewards.model import RewardModel, begun
from workers.rewards.reading import families_of, readable
from workers.rewards.trainer import HELD_OUT, Listening, Tell, Written, margin_trainer

_TRAINING, _MADE_WITH = "training", "made-with.json"
_FEWEST = 4


@dataclass(frozen=True)
class Training:
    """What is to be trained, and where.

    Attributes:
        id: of the reward model.
        base: a language model or a reward model: a folder or a Hugging Face id.
        file: annotated pairs.
        settings: how.
        folder: of what comes of it.
        home: as of `weights.locate`.
        device: as of `load_reward_model`.
        tell: told how far it is.
        note: what else to put on the card.
    """

    id: str
    base: str
    file: AnnotatedFile
    settings: RewardSettings
    folder: Path
    home: Path
    device: str = "auto"
    tell: Tell = lambda _stage, _done, _total, _loss: None
    note: Mapping[str, str | int | float | bool | None] = field(default_factory=dict)


@dataclass(frozen=True)
class _Shown:
    """What a model is shown, and what it is not."""

    written: list[Written]
    held_out: list[Annotated]
    texts: list[list[int]]
    conflicts: int
    refused: Counter[str]


def train(asked: Training) -> RewardCard:
    """Train a reward model, or go on where an earlier training in this folder was.

    Raises:
        UnfitRows: the pairs teach nothing, or lack what is asked for.
        OtherTraining: the folder holds another training.
        Diverged: the loss became no finite number.
        UnusableModel: the base is none, or rewards became no finite numbers.
        ModelNotLoaded: it cannot be loaded.
        DeviceLost: the device failed.
    """
    began = time.monotonic()
    device = target_device(asked.device)
    base = begun(asked.base, asked.home, asked.settings.seed)
    precision = native_dtype(device)
    made_with = _made_with(base, asked, precision)
    if (finished := _entered(asked.folder, made_with)) is not None:
        return finished if finished.id == asked.id else _signed(finished.model_copy(update={"id": asked.id}), asked)
    shown = _shown(base, asked)
    base.model.to(device)
    model = _trainable(base, asked.settings)
    curves = _taught(base, model, shown, asked, precision)
    _keep(base, model, asked.folder)
    (asked.folder / CURVES).write_text(curves.model_dump_json(indent=1))
    draw(curves, asked.folder / PICTURE)
    card = _card(base, shown, asked, curves, precision, time.monotonic() - began)
    shutil.rmtree(asked.folder / _TRAINING)
    return card


def _made_with(base: RewardModel, asked: Training, precision: torch.dtype) -> dict[str, Any]:
    return {
        "model": base.revision,
        "template": base.template,
        "data": asked.file.digest,
        "precision": _name(precision),
        "settings": asked.settings.model_dump(exclude={"checkpoint"}),
    }


def _entered(folder: Path, made_with: dict[str, Any]) -> RewardCard | None:
    """The card of what is finished here; else None, and the folder is this training's.

    Raises:
        OtherTraining: it is another one's.
    """
    path = folder / _TRAINING / _MADE_WITH
    if (folder / CARD).exists():
        card = RewardCard.model_validate_json((folder / CARD).read_bytes())
        before: dict[str, Any] = {
            "model": card.model_revision,
            "template": card.template,
            "data": card.data.digest,
            "precision": card.dtype,
            "settings": card.training.model_dump(exclude={"checkpoint"}),
        }
    elif path.exists():
        card, before = None, json.loads(path.read_bytes())
    else:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(made_with, indent=1))
        return None
    then, now = ({**kept["settings"], **kept, "settings": None} for kept in (before, made_with))
    differing = [name for name in now if then.get(name) != now[name]]
    if differing:
        raise OtherTraining(f"{folder} was made with other {', '.join(differing)}: choose another folder")
    return card


def _shown(base: RewardModel, asked: Training) -> _Shown:
    settings, refused = asked.settings, Counter[str]()
    reader = replace(base, window=min(base.window, settings.max_length))
    train_on, apart = divided(asked.file.pairs, settings.held_out, settings.seed)
    learnt, conflicts = lessons(train_on, settings)
    written = []
    for number, lesson in enumerate(learnt):
        asked.tell("read", number, len(learnt), None)
        try:
            written.append(Written.of(lesson, reader))
        except PairRefused as refusal:
            refused[refusal.code] += 1
    held_out, texts = readable(reader, apart, refused)
    if len(written) < _FEWEST:
        left_out = "".join(f", {count} {code}" for code, count in sorted(refused.items()))
        raise UnfitRows(
            f"{len(written)} of {len(asked.file.pairs)} pairs are left to train on, at least {_FEWEST} are needed "
            f"({len(apart)} held out, {conflicts} conflicts{left_out})"
        )
    return _Shown(written, held_out, texts, conflicts, refused)


def _trainable(base: RewardModel, settings: RewardSettings) -> PreTrainedModel:
    if settings.weights == "full":
        return base.model.requires_grad_(True)
    adapters = LoraConfig(
        task_type="SEQ_CLS", r=settings.rank, lora_alpha=2 * settings.rank, target_modules="all-linear", lora_dropout=0
    )
    with torch.random.fork_rng(devices=()), warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # peft asks transformers for something by its former name
        torch.manual_seed(settings.seed)
        return get_peft_model(base.model, adapters)


def _taught(
    base: RewardModel, model: PreTrainedModel, shown: _Shown, asked: Training, precision: torch.dtype
) -> RewardCurves:
    reading, folder = replace(base, model=model), asked.folder / _TRAINING
    families = families_of(shown.held_out)

    def measure(step: int) -> dict[str, Any]:
        model.eval()
        rewards = reading.rewards(shown.texts, lambda done, total: asked.tell("measure", done, total, None))
        model.train()
        return held_out_figures(step, rewards[::2] - rewards[1::2], families).model_dump()

    def measured(step: int) -> dict[str, Any]:
        if precision == torch.float32:
            return measure(step)
        with torch.autocast(model.device.type, precision):
            return measure(step)

    listening = Listening(asked.tell, measured if shown.texts else None)
    trainer = margin_trainer(base, model, shown.written, asked.settings, folder, precision, listening)
    checkpoint = checkpoints.latest(folder)
    with watched():
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    log = trainer.state.log_history
    return RewardCurves(
        steps=[Step.model_validate(entry) for entry in log if "loss" in entry],
        held_out=[HeldOut.model_validate(entry[HELD_OUT]) for entry in log if HELD_OUT in entry],
    )


def _keep(base: RewardModel, model: Any, folder: Path) -> None:
    """Write what anybody can load."""
    disable_progress_bar()
    if isinstance(model, PeftModel):
        model.save_pretrained(str(folder / ADAPTER))
        (folder / ADAPTER / "README.md").unlink(missing_ok=True)
        model = model.merge_and_unload()
    model.save_pretrained(folder)
    base.tokenizer.save_pretrained(folder)


def _card(
    base: RewardModel, shown: _Shown, asked: Training, curves: RewardCurves, precision: torch.dtype, seconds: float
) -> RewardCard:
    margins = [abs(one.lesson.margin) for one in shown.written]
    files = sorted(str(path.relative_to(asked.folder)) for path in asked.folder.rglob("*") if path.is_file())
    files = [name for name in files if name != CARD and not name.startswith(f"{_TRAINING}/")]
    card = RewardCard(
        id=asked.id,
        digest="",
        model=base.name,
        model_revision=base.revision,
        template=base.template,
        training=asked.settings,
        data=TrainedOn(
            data=asked.file.name,
            digest=asked.file.digest,
            calibrated=asked.file.calibrated,
            pairs=len(shown.written),
            held_out=len(shown.held_out),
            refused=dict(shown.refused),
            conflicts=shown.conflicts,
            mean_margin=sum(margins) / len(margins),
        ),
        steps=len(curves.steps),
        tokens=asked.settings.epochs * sum(one.tokens for one in shown.written),
        seconds=seconds,
        dtype=_name(precision),
        before=curves.held_out[0] if curves.held_out else None,
        after=curves.held_out[-1] if curves.held_out else None,
        files=files,
        settings=dict(asked.note),
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        version=__version__,
    )
    return _signed(card, asked)


def _signed(card: RewardCard, asked: Training) -> RewardCard:
    """Write the card with its digest."""
    content = hashlib.sha256(card.model_dump_json(exclude={"digest"}).encode())
    for name in card.files:
        with (asked.folder / name).open("rb") as file:
            content.update(hashlib.file_digest(file, "sha256").digest())
    signed = card.model_copy(update={"digest": "sha256:" + content.hexdigest()})
    (asked.folder / CARD).write_text(signed.model_dump_json(indent=1))
    return signed


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
