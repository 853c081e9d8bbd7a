"""Checkpoints of a descent: safetensors and JSON, complete or not there."""

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor

_TENSORS, _STATE = "tensors.safetensors", "state.json"


@dataclass(frozen=True)
class Checkpoint:
    """What a descent was at some step.

    Attributes:
        step: how many steps had been taken.
        losses: of each.
        tensors: everything else, by name.
    """

    step: int
    losses: list[float]
    tensors: dict[str, Tensor]


def save(folder: Path, step: int, losses: list[float], tensors: Mapping[str, Tensor]) -> None:
    """Keep a checkpoint in place of those that are in the folder."""
    scratch, path = folder / f".{step}.part", folder / f"checkpoint-{step}"
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True)
    save_file({name: part.contiguous() for name, part in tensors.items()}, scratch / _TENSORS)
    (scratch / _STATE).write_text(json.dumps({"step": step, "losses": losses}))
    shutil.rmtree(path, ignore_errors=True)
    os.rename(scratch, path)
    for older in _all(folder):
        if older != path:
            shutil.rmtree(older)


def latest(folder: Path) -> Checkpoint | None:
    """The last checkpoint, if there is one."""
    paths = sorted(_all(folder), key=_step)
    if not paths:
        return None
    state: dict[str, Any] = json.loads((paths[-1] / _STATE).read_bytes())
    return Checkpoint(state["step"], state["losses"], load_file(paths[-1] / _TENSORS))


def drop(folder: Path) -> None:
    """Remove all of them: what came of them is kept."""
    for path in [*_all(folder), *folder.glob(".*.part")]:
        shutil.rmtree(path)


def _all(folder: Path) -> list[Path]:
    return list(folder.glob("checkpoint-*"))


def _step(path: Path) -> int:
    return int(path.name.removeprefix("checkpoint-"))
