"""What a job is before it exists."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from app.log import request_id
from app.schemas.jobs import JobKind

_TOMBSTONE_SECONDS = 7 * 86_400


class QueueFull(Exception):
    """As many tokens wait as may wait.

    Attributes:
        seconds: after how long it is worth trying again.
    """

    def __init__(self, seconds: float) -> None:
        super().__init__("the queue is full")
        self.seconds = seconds


@dataclass(frozen=True)
class Submission:
    """A job to be.

    Attributes:
        kind: what it does.
        owner: who may see it.
        queue: where it waits.
        work: one payload a chunk; empty where the chunks lie in the artifact store.
        chunks: how many there are.
        total: rows in all of them, with the `failed` ones that are not even work.
        failed: rows found bad before.
        tokens: estimated tokens of all chunks.
        keep_seconds: how long results are kept after the end.
        rows: where in the artifact store the rows lie, if they do.
        options: what workers need beside the rows, as JSON.
        file: id of the file that the rows came with.
        webhook: whom to tell of the end.
        request: id of the request that it comes of.
    """

    kind: JobKind
    queue: str
    chunks: int
    total: int
    tokens: int
    keep_seconds: int
    owner: str = ""
    work: Sequence[bytes] = ()
    failed: int = 0
    rows: str | None = None
    options: str | None = None
    file: str | None = None
    webhook: str | None = None
    request: str = field(default_factory=request_id.get)

    def fields(self, now: float) -> dict[str, str | int | float]:
        """The hash of the job as it begins."""
        given = {"rows": self.rows, "options": self.options, "file": self.file, "webhook": self.webhook}
        return {
            "kind": self.kind,
            "owner": self.owner,
            "request": self.request,
            "queue": self.queue,
            "status": "in_progress",
            "total": self.total,
            "completed": 0,
            "failed": self.failed,
            "bad": self.failed,
            "chunks": self.chunks,
            "next": 0,
            "open": self.chunks,
            "tokens_left": self.tokens,
            "created_at": now,
            "keep_seconds": self.keep_seconds,
            "tombstone_seconds": _TOMBSTONE_SECONDS,
            **{name: value for name, value in given.items() if value is not None},
        }
