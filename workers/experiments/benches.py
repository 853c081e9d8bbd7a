"""The models that all arms begin with."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import nn

from app.schemas.rewards import RewardSettings
from workers.engine.annotator import Annotator, native_dtype, target_device
from workers.experiments.trunk import shorten, store, stored
from workers.experiments.units import Bench, Show, claimed
from workers.rewards.model import RewardModel, Tokens, begun


@dataclass(frozen=True)
class Base:
    """What reward models are made of.

    Attributes:
        name: a language model or a reward model: a folder or an id.
        home: as of `weights.locate`.
        device: as of `load_reward_model`.
        blocks: how many of its first blocks are used; all where left out.
        trained: how many of the last of these are trained; where left out every weight is.
    """

    name: str
    home: Path
    device: str = "auto"
    blocks: int | None = None
    trained: int | None = None

    def model(self, seed: int, longest: int) -> RewardModel:
        """A new model with a head by lot, which reads dialogues of so many tokens at most.

        Raises:
            ModelNotLoaded: it is not there or cannot be loaded.
            UnusableModel: it cannot be trained, or not like this.
        """
        made = begun(self.name, self.home, seed)
        if self.blocks is not None:
            shorten(made, self.blocks)
        made.model.to(target_device(self.device))
        return replace(made, window=min(made.window, longest))


def bench(
    base: Base,
    annotator: Annotator,
    texts: Sequence[Tokens],
    settings: RewardSettings,
    folder: Path,
    *,
    threads: int,
    tell: Show,
) -> Bench:
    """What units are trained on.

    Args:
        base: what of.
        annotator: what their costs are in.
        texts: every dialogue that is trained on or measured.
        settings: of training.
        folder: of the experiment.
        threads: to train on.
        tell: told how far anything is.

    Raises:
        UnusableModel: it has no so many blocks, or they cannot be trained by themselves.
    """
    path = folder / "trunk.safetensors"

    def begin(seed: int) -> RewardModel:
        model = base.model(seed, settings.max_length)
        model.model.requires_grad_(True)
        if base.trained is None:
            return model
        _store_once(model, texts, base.trained, path, lambda done, total: tell("store", done, total, None))
        return stored(model, texts, base.trained, path)

    blocks = list(base.model(0, settings.max_length).model.base_model.layers)
    trained = _weights(blocks[-(base.trained or len(blocks)) :]) / _weights(annotator.blocks)
    return Bench(begin, trained, 3 * trained, settings, threads, tell)


def _store_once(
    model: RewardModel, texts: Sequence[Tokens], trained: int, path: Path, progress: Callable[[int, int], None]
) -> None:
    with claimed(path, wait=True):
        if path.exists():
            return
        kind, precision = model.model.device.type, native_dtype(model.model.device)
        model.model.eval()
        with torch.autocast(kind, precision, enabled=precision != torch.float32):
            store(model, texts, trained, path, progress)


def _weights(blocks: Iterable[nn.Module]) -> int:
    return sum(weight.numel() for block in blocks for weight in block.parameters())
