"""Directions in the artifact store, by id and content digest.

directions/                shelf of directions
default-directions.json    for each model revision, the id that `default` stands for
"""

import json
from dataclasses import dataclass
from typing import ClassVar

from pydantic import TypeAdapter, ValidationError

from app.artifacts import ArtifactMissing
from app.schemas.directions import DirectionCard
from app.shelf import CardShelf, Missing

CARD, TENSORS = "direction.json", "direction.safetensors"
CONTROL_VECTOR = "direction.gguf"
REPORT, PAGE = "report.json", "report.html"

_DEFAULTS = "default-directions.json"
_IDS = TypeAdapter(dict[str, str])


class DirectionMissing(Missing):
    """No direction of this id, or none of this digest, is in the store."""


@dataclass(frozen=True)
class Registry(CardShelf[DirectionCard]):
    """The directions of one artifact store; `DirectionMissing` where one is not there."""

    folder: ClassVar[str] = "directions"
    noun: ClassVar[str] = "direction"
    missing: ClassVar[type[Missing]] = DirectionMissing
    schema: ClassVar[type[DirectionCard]] = DirectionCard
    card_file: ClassVar[str] = CARD

    def defaults(self) -> dict[str, str]:
        """Id that `default` stands for, by model revision."""
        try:
            return _IDS.validate_json(self.artifacts.read(_DEFAULTS))
        except (ArtifactMissing, ValidationError):
            return {}

    def set_default(self, model_revision: str, direction_id: str) -> None:
        """Let `default` stand for this id on this model."""
        known = self.defaults() | {model_revision: direction_id}
        self.artifacts.write(_DEFAULTS, json.dumps(known, indent=2, sort_keys=True).encode())
