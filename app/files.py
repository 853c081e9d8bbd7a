"""Uploaded files of pairs: checked row by row, cut into chunks, kept in the artifact store.

    files/{id}/file.json       what users see, and whose it is
    files/{id}/rows.jsonl      the good rows; with chunks.bin as `jobs.rows` describes
    files/{id}/problems.jsonl  what is wrong with the others, a line each

An id is a digest of owner and content, so that the same file sent again is the same file.
"""

import hashlib
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import orjson
from redis import Redis

from app.artifacts import ArtifactMissing, Artifacts
from app.datasets.lines import Line
from app.datasets.reading import read_rows
from app.datasets.rows import Row, find_kind, parse
from app.jobs import keys
from app.jobs.paging import page, strike_off_oldest
from app.jobs.rows import PROBLEMS, store_rows
from app.schemas.files import File, RowProblem
from app.settings import Settings

_FILE = "file.json"
_SHOWN = 20
_MOST_LINE_BYTES = 16 << 20
_DIGEST_CHARACTERS = 32


class NoRows(Exception):
    """Not one row of the file is a pair.

    Attributes:
        problems: what is wrong with the first ones.
    """

    def __init__(self, problems: list[RowProblem]) -> None:
        super().__init__("no row of the file is a pair")
        self.problems = problems


class StoredFile(File):
    """A file as it is stored.

    Attributes:
        owner: whose it is.
        chunks: into how many its rows are cut.
    """

    owner: str
    chunks: int

    def public(self) -> File:
        """What users see of it."""
        return File.model_validate(self.model_dump(include=set(File.model_fields)))


def place(file_id: str) -> str:
    """Where in the artifact store a file lies."""
    return f"files/{file_id}"


@dataclass(frozen=True)
class Files:
    """The uploaded files.

    Attributes:
        artifacts: where they are.
        redis: what there is, by owner, and until when.
        settings: how large, and for how long.
    """

    artifacts: Artifacts
    redis: Redis
    settings: Settings

    def add(self, upload: Path, owner: str, name: str | None) -> StoredFile:
        """Check and store an upload, in constant memory; the same one again is found as it is.

        Raises:
            UnreadableFile: it is not JSONL, Parquet, or either packed with gzip.
            FileTooLarge: it unpacks to more than is allowed.
            NoRows: none of its rows is a pair.
        """
        digest = hashlib.sha256(f"{owner}\n".encode())
        with upload.open("rb") as content:
            while block := content.read(1 << 20):
                digest.update(block)
        file_id = "file-" + digest.hexdigest()[:_DIGEST_CHARACTERS]
        file = self.get(file_id, owner)
        if file is None:
            file = self._store(upload, file_id, owner, name)
        else:
            file = self.keep(file, time.time() + self.settings.file_seconds)
        with self.redis.pipeline(transaction=True) as pipe:
            pipe.zadd(keys.files_of(owner), {file_id: file.created_at})
            pipe.zadd(keys.EXPIRING, {f"file:{file_id}": file.expires_at}, gt=True)
            pipe.execute()
        strike_off_oldest(self.redis, keys.files_of(owner), lambda old: self.get(old, owner))
        return file

    def get(self, file_id: str, owner: str | None) -> StoredFile | None:
        """A file that this owner has, or anybody where no owner is named."""
        try:
            found = StoredFile.model_validate_json(self.artifacts.read(f"{place(file_id)}/{_FILE}"))
        except ArtifactMissing:
            return None
        return found if owner in (None, found.owner) and found.expires_at > time.time() else None

    def listed(self, owner: str, after: str | None, limit: int) -> list[StoredFile]:
        """Files of an owner, the newest first, after the one named.

        Raises:
            PageMissing: that one is not among them.
        """
        return page(self.redis, keys.files_of(owner), after, limit, lambda file_id: self.get(file_id, owner))

    def delete(self, file: StoredFile) -> None:
        """Delete a file; a job that still reads it fails."""
        self.artifacts.delete(f"{place(file.id)}/{_FILE}")  # first: what is half deleted must not be taken for whole
        self.artifacts.delete(place(file.id))
        with self.redis.pipeline(transaction=True) as pipe:
            pipe.zrem(keys.files_of(file.owner), file.id)
            pipe.zrem(keys.EXPIRING, f"file:{file.id}")
            pipe.execute()

    def keep(self, file: StoredFile, until: float) -> StoredFile:
        """Keep a file at least until then, because a job needs it, or because it was sent again."""
        if until <= file.expires_at:
            return file
        longer = file.model_copy(update={"expires_at": until})
        self.redis.zadd(keys.EXPIRING, {f"file:{file.id}": until}, gt=True)
        self.artifacts.write(f"{place(file.id)}/{_FILE}", longer.model_dump_json().encode())
        return longer

    def _store(self, upload: Path, file_id: str, owner: str, name: str | None) -> StoredFile:
        with tempfile.TemporaryDirectory(prefix="safemargin-file-") as folder:
            scratch = Path(folder)
            sieve = _Sieve(upload, scratch / PROBLEMS, self.settings.max_file_bytes)
            stored = store_rows(self.artifacts, place(file_id), sieve.rows(), self.settings.chunk_tokens, scratch)
            if not stored.rows or sieve.kind is None:
                self.artifacts.delete(place(file_id))
                raise NoRows(sieve.shown)
            self.artifacts.put(scratch / PROBLEMS, f"{place(file_id)}/{PROBLEMS}")
        now = time.time()
        file = StoredFile(
            id=file_id,
            name=name,
            format=sieve.kind,
            rows=stored.rows,
            bad_rows=sieve.bad_rows,
            tokens=stored.tokens,
            bytes=upload.stat().st_size,
            created_at=now,
            expires_at=now + self.settings.file_seconds,
            problems=sieve.shown,
            owner=owner,
            chunks=stored.chunks,
        )
        self.artifacts.write(f"{place(file_id)}/{_FILE}", file.model_dump_json().encode())
        return file


class _Sieve:
    """Lets the good rows of an upload pass, writes down what is wrong with the others, and counts."""

    def __init__(self, upload: Path, problems: Path, max_bytes: int) -> None:
        self._upload = upload
        self._problems = problems
        self._max_bytes = max_bytes
        self.kind = find_kind(self._lines())
        self.bad_rows = 0
        self.shown: list[RowProblem] = []

    def rows(self) -> Iterator[Row]:
        """The good rows."""
        with self._problems.open("wb") as problems:
            for row in parse(self._lines(), self.kind):
                if isinstance(row, RowProblem):
                    self.bad_rows += 1
                    problems.write(orjson.dumps(asdict(row)) + b"\n")
                    if len(self.shown) < _SHOWN:
                        self.shown.append(row)
                else:
                    yield row

    def _lines(self) -> Iterator[Line | RowProblem]:
        return read_rows(self._upload, max_bytes=self._max_bytes, max_line_bytes=_MOST_LINE_BYTES)
