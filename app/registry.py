"""Directions in the artifact store, by id and content digest.

    directions/{id}/current              the digest that the id stands for now, or `deleted`
    directions/{id}/{digest}/{file}      its parts; a digest's files never change
    default-directions.json              for each model revision, the id that `default` stands for

Parts are written before `current` names them, so that a reader never meets half a direction.
"""

import json
import re
from dataclasses import dataclass

from pydantic import TypeAdapter, ValidationError

from app.artifacts import ArtifactMissing, Artifacts
from app.schemas.directions import DirectionCard

CARD, TENSORS = "direction.json", "direction.safetensors"
CONTROL_VECTOR = "direction.gguf"
REPORT, PAGE = "report.json", "report.html"

_FOLDER = "directions"
_DEFAULTS = "default-directions.json"
_DELETED = "deleted"
_IDS = TypeAdapter(dict[str, str])
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")


class DirectionMissing(Exception):
    """No direction of this id, or none of this digest, is in the store."""


@dataclass(frozen=True)
class Registry:
    """The directions of one artifact store.

    Attributes:
        artifacts: the store.
    """

    artifacts: Artifacts

    def current(self) -> dict[str, str]:
        """Digest of every direction by id."""
        found = {name: self._pointer(name) for name in self.artifacts.folders(_FOLDER)}
        return {name: digest for name, digest in found.items() if digest and _DIGEST.fullmatch(digest)}

    def knows(self, direction_id: str) -> bool:
        """Whether an id is taken or has been; a deleted direction is known still."""
        return self._pointer(direction_id) is not None

    def holds(self, direction_id: str) -> bool:
        """Whether an id stands for a direction."""
        return _DIGEST.fullmatch(self._pointer(direction_id) or "") is not None

    def digest(self, direction_id: str) -> str:
        """Digest that an id stands for.

        Raises:
            DirectionMissing: for none.
        """
        digest = self._pointer(direction_id)
        if digest is None or not _DIGEST.fullmatch(digest):
            raise DirectionMissing(f"there is no direction {direction_id}")
        return digest

    def card(self, direction_id: str) -> DirectionCard:
        """What is known of a direction.

        Raises:
            DirectionMissing: there is none, or its card cannot be read.
        """
        try:
            return DirectionCard.model_validate_json(self.part(direction_id, self.digest(direction_id), CARD))
        except ValidationError:
            raise DirectionMissing(f"the card of {direction_id} cannot be read") from None

    def part(self, direction_id: str, digest: str, name: str) -> bytes:
        """One file of a direction.

        Raises:
            DirectionMissing: it is not there.
        """
        try:
            return self.artifacts.read(f"{_place(direction_id, digest)}/{name}")
        except ArtifactMissing:
            raise DirectionMissing(f"direction {direction_id} ({digest[:19]}…) has no {name}") from None

    def publish(self, direction_id: str, digest: str, parts: dict[str, bytes]) -> None:
        """Store a direction's files, then let its id stand for them."""
        for name, content in parts.items():
            self.artifacts.write(f"{_place(direction_id, digest)}/{name}", content)
        self.artifacts.write(f"{_FOLDER}/{direction_id}/current", digest.encode())

    def delete(self, direction_id: str) -> None:
        """Delete a direction, all its digests with it.

        Raises:
            DirectionMissing: there is none.
        """
        self.digest(direction_id)
        self.artifacts.write(f"{_FOLDER}/{direction_id}/current", _DELETED.encode())
        for name in self.artifacts.folders(f"{_FOLDER}/{direction_id}"):
            self.artifacts.delete(f"{_FOLDER}/{direction_id}/{name}")

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

    def _pointer(self, direction_id: str) -> str | None:
        try:
            return self.artifacts.read(f"{_FOLDER}/{direction_id}/current").decode(errors="replace").strip()
        except ArtifactMissing:
            return None


def _place(direction_id: str, digest: str) -> str:
    return f"{_FOLDER}/{direction_id}/{digest.removeprefix('sha256:')}"
