"""Taught models from the shelf: cards checked, files made into models. Nothing is read that could run code."""

import tempfile
from bisect import bisect_right
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from pydantic import ValidationError

from app.alignments import CARD, Alignments
from app.schemas.alignment import AlignmentCard
from workers.alignment.errors import UnusableAlignment
from workers.alignment.taught import FILES
from workers.engine.annotator import Annotator, load_annotator
from workers.engine.errors import EngineError
from workers.engine.lora import CONFIG, LowRank, from_files
from workers.engine.variant import Variant

ALIGNED = "aligned"
"""Folder of the aligned model."""


@dataclass(frozen=True)
class Shelved:
    """One entry of the shelf.

    Attributes:
        shelf: where its files are.
        card: what is known of it.
    """

    shelf: Alignments
    card: AlignmentCard

    @property
    def id(self) -> str:
        """The name under which requests ask for it."""
        return self.card.id

    def calibrate(self, raw_margin: float) -> float:
        """Log-odds that the response with the higher score is the safer one; nats where uncalibrated."""
        return raw_margin if self.card.slope is None else raw_margin * self.card.slope

    def level(self, margin: float) -> int | None:
        """How many of the level edges a margin reaches; None where there are none."""
        return bisect_right(self.card.level_edges, margin) if self.card.level_edges else None

    @property
    def folders(self) -> tuple[str, ...]:
        """Of its taught models, in the order of the card's revisions."""
        return ("taught",) if self.card.method == "rahf-scit" else ("preferred", "dispreferred")

    def taught(self, annotator: Annotator, revision: str) -> Variant:
        """The taught model of one of the card's revisions.

        Raises:
            UnusableAlignment: there is none of this revision, or its files are damaged or do not fit.
            AlignmentMissing: a file is not there any more.
        """
        if revision not in self.card.taught_revisions[: len(self.folders)]:
            raise UnusableAlignment(f"alignment {self.card.id} has no taught model of this revision")
        made = self.model(annotator, self.folders[self.card.taught_revisions.index(revision)])
        if made.revision != revision:
            raise UnusableAlignment(f"alignment {self.card.id}: its files are not those that its card was made for")
        return made

    def model(self, annotator: Annotator, folder: str) -> Variant:
        """What the files in one of its folders make of the annotator; of the aligned model see `aligned`.

        Raises:
            UnusableAlignment: they are damaged or do not fit.
            AlignmentMissing: one is not there.
        """
        if not self._of(folder):
            raise UnusableAlignment(f"alignment {self.card.id} has no {folder} model")
        try:
            if (adapter := self._adapter(folder)) is not None:
                return Variant.of(annotator, adapter)
            return Variant(self._whole(annotator, folder), None)
        except (EngineError, OSError) as error:
            raise UnusableAlignment(f"alignment {self.card.id}: {error}") from error

    def aligned(self, annotator: Annotator) -> Variant:
        """The aligned model: an adapter of the annotator, or of the first taught model where that is a whole one.

        Raises:
            UnusableAlignment, AlignmentMissing: as `model`.
        """
        if self._of(self.folders[0]) & set(FILES):
            return self.model(annotator, ALIGNED)
        whole = self.model(annotator, self.folders[0]).annotator
        return Variant(self.model(whole, ALIGNED).annotator, None)

    def _of(self, folder: str) -> set[str]:
        """Names of the files of a folder."""
        places = [PurePosixPath(file).parts for file in self.card.files]
        return {place[1] for place in places if len(place) == 2 and place[0] == folder and place[1] != ".."}

    def _adapter(self, folder: str) -> LowRank | None:
        if CONFIG not in self._of(folder):
            return None
        return from_files(folder, {name: self._part(folder, name) for name in FILES})

    def _whole(self, annotator: Annotator, folder: str) -> Annotator:
        """A model of its own weights, on the annotator's device and within its budget."""
        with tempfile.TemporaryDirectory(prefix="safemargin-taught-") as scratch:
            place = Path(scratch) / folder
            place.mkdir()
            for name in sorted(self._of(folder)):
                (place / name).write_bytes(self._part(folder, name))
            device, dtype = str(annotator.device), annotator.dtype_name
            loaded = load_annotator(str(place), place, device=device, dtype=dtype, passes=annotator.passes)
        return replace(loaded, name=annotator.name, budget=annotator.budget)

    def _part(self, folder: str, name: str) -> bytes:
        return self.shelf.part(self.card.id, self.card.digest, f"{folder}/{name}")


def shelved(shelf: Alignments, name: str, digest: str, annotator: Annotator) -> Shelved:
    """An entry of the shelf that was made for an annotator; its models are not loaded yet.

    Raises:
        UnusableAlignment: its card is damaged, or it was made for something else.
        AlignmentMissing: it is not there.
    """
    try:
        card = AlignmentCard.model_validate_json(shelf.part(name, digest, CARD))
    except ValidationError as error:
        raise UnusableAlignment(f"{name}: unreadable alignment ({type(error).__name__})") from None
    if (card.id, card.digest) != (name, digest):
        raise shelf.missing(f"what is stored as {name} is {card.id} of another digest")
    _check_fits(card, annotator)
    return Shelved(shelf, card)


def _check_fits(card: AlignmentCard, annotator: Annotator) -> None:
    if card.model_revision != annotator.revision:
        raise UnusableAlignment(
            f"alignment {card.id} was made for {card.model}, not for the weights of {annotator.name}"
        )
    if card.template != annotator.template.digest:
        raise UnusableAlignment(
            f"alignment {card.id} was made with another chat template than {annotator.name} has now"
        )
