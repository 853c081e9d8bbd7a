"""Taught models in the artifact store, by id and content digest: `alignments/{id}/{digest}/`.

    alignment.json                             the card
    taught/, preferred/, dispreferred/         peft's files of the taught model, or of Dual's two
    aligned/                                   those of the aligned model
    report.json, curves.png                    how it went

A taught model all of whose weights were trained is a folder of transformers' files instead.
"""

from dataclasses import dataclass
from typing import ClassVar

from app.schemas.alignment import AlignmentCard
from app.shelf import CardShelf, Missing

CARD = "alignment.json"
REPORT, CURVES = "report.json", "curves.png"


class AlignmentMissing(Missing):
    """No alignment of this id, or none of this digest, is in the store."""


@dataclass(frozen=True)
class Alignments(CardShelf[AlignmentCard]):
    """The alignments of one artifact store; `AlignmentMissing` where one is not there."""

    folder: ClassVar[str] = "alignments"
    noun: ClassVar[str] = "alignment"
    missing: ClassVar[type[Missing]] = AlignmentMissing
    schema: ClassVar[type[AlignmentCard]] = AlignmentCard
    card_file: ClassVar[str] = CARD
