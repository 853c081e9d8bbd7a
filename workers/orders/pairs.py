"""The pairs of an uploaded file, as orders of POST /training learn from them."""

from app.artifacts import Artifacts
from app.files import place
from app.jobs.rows import chunk_places, read_chunk
from app.schemas.pairs import Pair


def pairs_of(artifacts: Artifacts, file_id: str) -> list[Pair]:
    """All of them, in the order of the file.

    Raises:
        ArtifactMissing: the file was deleted.
    """
    rows = place(file_id)
    return [row.pair for chunk in chunk_places(artifacts, rows) for row in read_chunk(artifacts, rows, chunk)]
