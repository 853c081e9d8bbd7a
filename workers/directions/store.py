"""Directions on disk: a folder each, holding `direction.safetensors` and `direction.json`."""

import json
import os
import shutil
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import cast, get_args

import torch
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from app.schemas.directions import DirectionCard
from workers.directions.direction import SafetyDirection, digest
from workers.directions.errors import UnusableFile
from workers.engine.sites import Pooling, Site

SHIPPED = Path(__file__).with_name("shipped")
"""Directions that come with the service."""

_TENSORS, _CARD = "direction.safetensors", "direction.json"


def save(direction: SafetyDirection, folder: Path) -> Path:
    """Write a direction below `folder` under its id, replacing one of the same id; returns where."""
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / direction.id
    scratch = Path(tempfile.mkdtemp(prefix=".saving-", dir=folder))
    try:
        save_file({"vectors": direction.vectors}, scratch / _TENSORS)
        (scratch / _TENSORS).chmod(0o644)
        card = json.dumps(direction.card.model_dump(), indent=2, ensure_ascii=False) + "\n"
        (scratch / _CARD).write_text(card, encoding="utf-8")
        scratch.chmod(0o755)
        shutil.rmtree(target, ignore_errors=True)
        os.rename(scratch, target)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return target


def load(folder: Path) -> SafetyDirection:
    """Read a direction.

    Raises:
        UnusableFile: a part is missing or damaged, or the content does not match its digest.
    """
    try:
        card = DirectionCard.model_validate_json((folder / _CARD).read_bytes())
        vectors = load_file(folder / _TENSORS)["vectors"]
    except (OSError, ValidationError, SafetensorError, KeyError) as error:
        raise UnusableFile(f"{folder.name}: unreadable direction ({type(error).__name__})") from error
    unknown = [site.pooling for site in card.sites if site.pooling not in get_args(Pooling)]
    shaped = vectors.dtype == torch.float32 and vectors.ndim == 2 and len(vectors) == len(card.sites)
    if unknown or not shaped or not torch.isfinite(vectors).all():
        raise UnusableFile(f"{folder.name}: vectors and card do not belong together")
    if card.id != folder.name:
        raise UnusableFile(f"{folder.name}: holds a direction called {card.id}")
    if digest(card, vectors) != card.digest:
        raise UnusableFile(f"{folder.name}: content does not match its digest")
    sites = tuple(Site(site.layer, cast(Pooling, site.pooling)) for site in card.sites)
    return SafetyDirection(card, sites, vectors)


def folders(roots: Iterable[Path]) -> dict[str, Path]:
    """Folders of directions below `roots` by id; a later root overrides an earlier one."""
    found = [card.parent for root in roots for card in sorted(root.glob(f"*/{_CARD}"))]
    return {folder.name: folder for folder in found if not folder.name.startswith(".")}
