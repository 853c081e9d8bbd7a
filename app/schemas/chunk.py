"""What travels through the queue: a chunk of a job out, its answers back."""

from pydantic import BaseModel

from app.schemas.annotate import AnnotateOptions, Annotation, FailedAnnotation, Provenance
from app.schemas.pairs import Pair


class Chunk(BaseModel):
    """Pairs that a worker annotates together; every pair carries an id."""

    options: AnnotateOptions
    pairs: list[Pair]


class ChunkAnswer(BaseModel):
    """Annotations of a chunk in the order of its pairs."""

    annotations: list[Annotation | FailedAnnotation]
    provenance: Provenance
