"""What travels through the queue: a chunk of a job out, its answers back."""

from pydantic import BaseModel, Field

from app.schemas.annotate import Annotation, FailedAnnotation, Provenance
from app.schemas.pairs import Pair
from app.schemas.score import Candidates, ScoredCandidates


class DirectionRef(BaseModel):
    """A direction by its name and by its content, so that what a name stands for can change under running work."""

    id: str
    digest: str


class Reading(BaseModel):
    """How the rows of a job are read; the same for every chunk."""

    directions: list[DirectionRef] = Field(min_length=1)
    truncate: bool


class Chunk(Reading):
    """Pairs, or responses to order, that a worker reads together; every one carries an id.

    Attributes:
        items: what to read.
        lines: where each stands in what the user sent, from 1.
        tokens: estimated tokens of all of them.
    """

    items: list[Pair | Candidates]
    lines: list[int]
    tokens: int

    def part(self, rows: range) -> "Chunk":
        """Some of its items."""
        inside = slice(rows.start, rows.stop)
        return self.model_copy(update={"items": self.items[inside], "lines": self.lines[inside]})


class ChunkAnswer(BaseModel):
    """Answers to a chunk in the order of its items."""

    entries: list[Annotation | ScoredCandidates | FailedAnnotation]
    lines: list[int]
    provenance: Provenance

    def counts(self) -> tuple[int, int]:
        """How many items were answered, and how many failed."""
        failed = sum(isinstance(entry, FailedAnnotation) for entry in self.entries)
        return len(self.entries) - failed, failed
