"""What travels through the queue: a chunk of a job out, its answers back."""

from pydantic import BaseModel, Field

from app.schemas.annotate import Annotation, FailedAnnotation, Provenance
from app.schemas.pairs import Pair
from app.schemas.score import Candidates, ScoredCandidates


class DirectionRef(BaseModel):
    """A direction by its name and by its content, so that what a name stands for can change under running work."""

    id: str
    digest: str


class Chunk(BaseModel):
    """Pairs, or responses to order, that a worker reads together; every one carries an id."""

    directions: list[DirectionRef] = Field(min_length=1)
    truncate: bool
    items: list[Pair | Candidates]


class ChunkAnswer(BaseModel):
    """Answers to a chunk in the order of its items."""

    entries: list[Annotation | ScoredCandidates | FailedAnnotation]
    provenance: Provenance

    def counts(self) -> tuple[int, int]:
        """How many items were answered, and how many failed."""
        failed = sum(isinstance(entry, FailedAnnotation) for entry in self.entries)
        return len(self.entries) - failed, failed
