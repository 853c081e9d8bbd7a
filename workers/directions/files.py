"""A direction as files: safetensors for its numbers, JSON for its card. Nothing is read that could run code."""

import json
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from app.registry import CARD, TENSORS
from app.schemas.directions import DirectionCard
from workers.directions.direction import PromptTerm, SafetyDirection
from workers.directions.errors import UnusableFile
from workers.engine.sites import sites_of
from workers.sealed import Format

SHIPPED = Path(__file__).with_name("shipped")
"""Directions that come with the service, a folder of files each."""

SHIPPED_DEFAULTS = SHIPPED / "default.json"
"""For each model revision, the shipped direction that is its default until another is chosen."""

FORMAT = Format("direction", DirectionCard, CARD, TENSORS, UnusableFile)


def to_files(direction: SafetyDirection) -> dict[str, bytes]:
    """Files of a direction by name."""
    return FORMAT.files(direction.card, direction.tensors)


def from_files(name: str, files: Mapping[str, bytes]) -> SafetyDirection:
    """Read a direction.

    Args:
        name: what to call it in errors.
        files: `to_files` gave them, or so they claim.

    Raises:
        UnusableFile: a part is missing or damaged, or the content does not match its digest.
    """
    return _assemble(name, *FORMAT.parsed(name, files))


def from_folder(folder: Path) -> SafetyDirection:
    """Read a direction whose files lie in a folder called by its id.

    Raises:
        UnusableFile: as `from_files`.
        OSError: a file is not there.
    """
    return from_files(folder.name, {part: (folder / part).read_bytes() for part in (CARD, TENSORS)})


def shipped_default(model_revision: str | None = None) -> SafetyDirection:
    """The shipped default of a model; of the first that has one where no model is named.

    Raises:
        UnusableFile: there is none.
    """
    defaults = json.loads(SHIPPED_DEFAULTS.read_bytes())
    name = defaults.get(model_revision) if model_revision else next(iter(defaults.values()), None)
    if name is None:
        raise UnusableFile("no direction ships for this annotator")
    return from_folder(SHIPPED / name)


def _assemble(name: str, card: DirectionCard, tensors: Mapping[str, Tensor]) -> SafetyDirection:
    if {part: tuple(tensor.shape) for part, tensor in tensors.items()} != _shapes(card, tensors):
        raise UnusableFile(f"{name}: vectors and card do not belong together")
    FORMAT.check(name, card, tensors)
    try:
        sites, prompt_sites = sites_of(card.sites, of_prompt=False), sites_of(card.prompt_sites, of_prompt=True)
    except ValueError as error:
        raise UnusableFile(f"{name}: {error}") from None
    term = None
    if prompt_sites:
        term = PromptTerm(prompt_sites, tensors["probes"], tensors["offsets"], tensors["modulation"])
    return SafetyDirection(card, sites, tensors["vectors"], term)


def _shapes(card: DirectionCard, tensors: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    """The shape that each tensor must have; width and rank are those of the first that shows them."""
    width = tensors["vectors"].shape[-1] if "vectors" in tensors and tensors["vectors"].ndim else 0
    shapes: dict[str, tuple[int, ...]] = {"vectors": (len(card.sites), width)}
    if card.prompt_sites:
        rank = len(tensors["offsets"]) if "offsets" in tensors and tensors["offsets"].ndim else 0
        shapes["offsets"] = (rank,)
        shapes["probes"] = (rank, len(card.prompt_sites), width)
        shapes["modulation"] = (rank, len(card.sites), width)
    return shapes
