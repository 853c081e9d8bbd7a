"""What the artifact store keeps by id and content digest.

    {folder}/{id}/current              the digest that the id stands for now, or `deleted`
    {folder}/{id}/{digest}/{file}      its parts; a digest's files never change

Parts are written before `current` names them, so that a reader never meets half of anything.
"""

import logging
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Generic, TypeVar, cast

from pydantic import BaseModel, ValidationError

from app.artifacts import ArtifactMissing, Artifacts

log = logging.getLogger(__name__)

Card = TypeVar("Card", bound=BaseModel)

_DELETED = "deleted"
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")


class Missing(Exception):
    """Nothing of this id, or nothing of this digest, is in the store."""


@dataclass(frozen=True)
class Shelf:
    """Things of one kind in an artifact store.

    Attributes:
        artifacts: the store.
        folder: where in it they are.
        noun: what one of them is called.
        missing: what is raised where one is not there.
    """

    artifacts: Artifacts
    folder: ClassVar[str]
    noun: ClassVar[str]
    missing: ClassVar[type[Missing]]

    def current(self) -> dict[str, str]:
        """Digest of everything by id."""
        found = {name: self._pointer(name) for name in self.artifacts.folders(self.folder)}
        return {name: digest for name, digest in found.items() if digest and _DIGEST.fullmatch(digest)}

    def knows(self, name: str) -> bool:
        """Whether an id is taken or has been; what was deleted is known still."""
        return self._pointer(name) is not None

    def holds(self, name: str) -> bool:
        """Whether an id stands for anything."""
        return _DIGEST.fullmatch(self._pointer(name) or "") is not None

    def digest(self, name: str) -> str:
        """Digest that an id stands for.

        Raises:
            missing: for none.
        """
        digest = self._pointer(name)
        if digest is None or not _DIGEST.fullmatch(digest):
            raise self.missing(f"there is no {self.noun} {name}")
        return digest

    def digests(self, name: str) -> set[str]:
        """Every digest that is kept under an id: the one that it stands for, and former ones."""
        return {f"sha256:{folder}" for folder in self.artifacts.folders(f"{self.folder}/{name}")}

    def part(self, name: str, digest: str, file: str) -> bytes:
        """One file of one digest.

        Raises:
            missing: it is not there.
        """
        try:
            return self.artifacts.read(f"{self.place(name, digest)}/{file}")
        except ArtifactMissing:
            raise self._no_part(name, digest, file) from None

    def blocks(self, name: str, digest: str, file: str) -> tuple[int, Iterator[bytes]]:
        """Size of one file of one digest, and its content, in constant memory.

        Raises:
            missing: it is not there.
        """
        try:
            return self.artifacts.blocks(f"{self.place(name, digest)}/{file}")
        except ArtifactMissing:
            raise self._no_part(name, digest, file) from None

    def publish(self, name: str, digest: str, parts: Mapping[str, bytes | Path]) -> None:
        """Store the files of a digest, then let an id stand for them.

        Args:
            name: the id.
            digest: of them.
            parts: by name: their content, or where it lies in a local file that may be large.
        """
        for file, content in parts.items():
            place = f"{self.place(name, digest)}/{file}"
            if isinstance(content, Path):
                self.artifacts.put(content, place)
            else:
                self.artifacts.write(place, content)
        self.artifacts.write(f"{self.folder}/{name}/current", digest.encode())

    def delete(self, name: str) -> None:
        """Delete what an id stands for, all its digests with it.

        Raises:
            missing: there is none.
        """
        self.digest(name)
        self.artifacts.write(f"{self.folder}/{name}/current", _DELETED.encode())
        for digest in self.artifacts.folders(f"{self.folder}/{name}"):
            self.artifacts.delete(f"{self.folder}/{name}/{digest}")

    def place(self, name: str, digest: str) -> str:
        """Where in the store the parts of a digest are."""
        return f"{self.folder}/{name}/{digest.removeprefix('sha256:')}"

    def _pointer(self, name: str) -> str | None:
        try:
            return self.artifacts.read(f"{self.folder}/{name}/current").decode(errors="replace").strip()
        except ArtifactMissing:
            return None

    def _no_part(self, name: str, digest: str, file: str) -> Missing:
        return self.missing(f"{self.noun} {name} ({digest[:19]}…) has no {file}")


@dataclass(frozen=True)
class CardShelf(Shelf, Generic[Card]):
    """Things that have a card.

    Attributes:
        schema: of the cards.
        card_file: the part that is the card.
    """

    schema: ClassVar[type[BaseModel]]
    card_file: ClassVar[str]

    def card(self, name: str) -> Card:
        """What is known of one of them.

        Raises:
            missing: there is none, or its card cannot be read.
        """
        content = self.part(name, self.digest(name), self.card_file)
        try:
            return cast(Card, self.schema.model_validate_json(content))
        except ValidationError:
            raise self.missing(f"the card of {name} cannot be read") from None

    def cards(self) -> list[Card]:
        """What is known of all of them, by id; a card that cannot be read is logged and left out."""
        cards = []
        for name in sorted(self.current()):
            try:
                cards.append(self.card(name))
            except self.missing as error:
                log.warning("not listed: %s", error)
        return cards
