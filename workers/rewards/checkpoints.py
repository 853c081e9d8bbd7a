"""Checkpoints of a training: safetensors and JSON, complete or not there."""

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

STATE = "trainer_state.json"
"""What transformers' trainer calls its own state."""

_WEIGHTS, _OPTIMIZER, _RATES = "weights.safetensors", "optimizer.safetensors", "rates.json"
_PREFIX = "checkpoint-"


def trained(model: nn.Module) -> dict[str, nn.Parameter]:
    """Weights that are trained, by name."""
    return {name: weight for name, weight in model.named_parameters() if weight.requires_grad}


def save(
    folder: Path, step: int, model: nn.Module, optimizer: Optimizer, schedule: LRScheduler, state: Mapping[str, Any]
) -> None:
    """Keep a checkpoint in place of those that are in the folder."""
    scratch, path = folder / f".{step}.part", folder / f"{_PREFIX}{step}"
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True)
    _save_tensors(trained(model), scratch / _WEIGHTS)
    known = optimizer.state_dict()
    _save_tensors(
        {f"{place}.{name}": part for place, own in known["state"].items() for name, part in own.items()},
        scratch / _OPTIMIZER,
    )
    rates = {name: value for name, value in schedule.state_dict().items() if name != "lr_lambdas"}
    (scratch / _RATES).write_text(json.dumps({"groups": known["param_groups"], "schedule": rates}))
    (scratch / STATE).write_text(json.dumps(state))
    shutil.rmtree(path, ignore_errors=True)
    os.rename(scratch, path)
    for older in folder.glob(f"{_PREFIX}*"):
        if older != path:
            shutil.rmtree(older)


def latest(folder: Path) -> Path | None:
    """The last checkpoint, if there is one."""
    return max(folder.glob(f"{_PREFIX}*"), key=lambda path: int(path.name.removeprefix(_PREFIX)), default=None)


def load_weights(path: Path, model: nn.Module) -> None:
    """Put the weights of a checkpoint into the model that it was made of."""
    weights = trained(model)
    for name, part in load_file(path / _WEIGHTS).items():
        weights[name].data.copy_(part)


def load_optimizer(path: Path, optimizer: Optimizer, schedule: LRScheduler) -> None:
    """Put the rest of a checkpoint into what steps."""
    state: dict[int, dict[str, Tensor]] = {}
    for key, part in load_file(path / _OPTIMIZER).items():
        place, name = key.split(".")
        state.setdefault(int(place), {})[name] = part
    rates = json.loads((path / _RATES).read_bytes())
    optimizer.load_state_dict({"state": state, "param_groups": rates["groups"]})
    schedule.load_state_dict(schedule.state_dict() | rates["schedule"])


def _save_tensors(tensors: Mapping[str, Tensor], path: Path) -> None:
    save_file({name: part.detach().cpu().contiguous() for name, part in tensors.items()}, path)
