"""The taught models that fit a worker's annotator: known by their cards, loaded when they are asked for."""

from app.alignments import Alignments
from app.schemas.names import Ref
from app.shelf import Missing
from workers.alignment.errors import AlignmentError
from workers.alignment.margins import Contrast
from workers.alignment.shelved import Shelved, shelved
from workers.engine.annotator import Annotator
from workers.engine.lastused import LastUsed
from workers.engine.variant import Variant
from workers.holding import Holding, NotHeld

_MODELS = 3
"""Taught models that are kept: the two of Dual, and one beside them."""

_CONTRASTS = 2


class HeldAlignments(Holding[Shelved]):
    """The alignments that were made for one annotator.

    Args:
        alignments: those of the artifact store.
        annotator: what they must fit.
    """

    def __init__(self, alignments: Alignments, annotator: Annotator) -> None:
        super().__init__(alignments, lambda name, digest: shelved(alignments, name, digest, annotator), AlignmentError)
        self._alignments = alignments
        self._annotator = annotator
        self._models = LastUsed[Variant](_MODELS)
        self._contrasts = LastUsed[Contrast](_CONTRASTS)

    def on_shelf(self, name: str) -> bool:
        """Whether the store has an alignment of this id now."""
        return self._alignments.holds(name)

    def model(self, ref: Ref, revision: str) -> Variant:
        """The taught model of a revision; of those asked for, the last few are kept.

        Raises:
            NotHeld: the alignment was deleted, is damaged, or has no such model.
        """
        found = self.get(ref)

        def make() -> Variant:
            try:
                return found.taught(self._annotator, revision)
            except Missing:
                raise NotHeld(f"{self.noun} {ref.id} was deleted while the job used it") from None
            except AlignmentError as error:
                raise NotHeld(str(error)) from error

        return self._models.get(revision, make)

    def contrast(self, ref: Ref) -> Contrast:
        """What the taught model itself says of responses.

        Raises:
            NotHeld: as `model`.
        """
        card = self.get(ref).card

        def make() -> Contrast:
            models = [self.model(ref, revision).annotator for revision in card.taught_revisions]
            return Contrast.of_scit(*models) if card.method == "rahf-scit" else Contrast.of_dual(*models)

        return self._contrasts.get(ref.digest, make)
