"""What `safemargin annotate` keeps beside its output, so that it can be stopped at any moment and go on later.

`margins.jsonl.part` holds the rows so far, `margins.jsonl.state` says where they came from and up to where they are
safe. A row counts once the state names its end; whatever lies behind that in the part file is cut off.
"""

import fcntl
import hashlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self

import orjson
from pydantic import BaseModel, Field, ValidationError

from app.client import Format


class WorkRefused(Exception):
    """The files beside the output do not allow to begin or to go on."""


class Order(BaseModel):
    """What was asked for; another order does not go on with the files of this one."""

    input: str
    bytes: int
    sha256: str
    url: str | None = Field(description="The service; null for the embedded one.")
    direction: str | list[str]
    truncate: bool
    judging: dict[str, Any] = Field(
        default_factory=dict, description="`method`, `alignment`, `reward_model`, `explain`, `rules`, where given."
    )
    format: Format
    parquet: bool


class Mark(BaseModel):
    """A place up to which everything is known: a line of the input, and where its row ends in the part file."""

    line: int = 0
    rows: int = 0
    bytes: int = 0


class State(BaseModel):
    """How far an order is.

    Attributes:
        reached: up to here rows are in the part file.
        settled: up to here, rows that failed are in the errors file, too: all that is needed of a job that is lost.
        skipped: lines that the file of this job leaves empty, because they were done before.
        before: rows in the part file that are not of this job.
        provenance: what made the rows.
        shape: types of the fields of a row.
    """

    order: Order
    file: str | None = None
    job: str | None = None
    reached: Mark = Mark()
    settled: Mark = Mark()
    skipped: int = 0
    before: int = 0
    provenance: dict[str, Any] | None = None
    shape: dict[str, str] | None = None

    @property
    def begun(self) -> bool:
        """Whether there is anything to go on with: a run that was refused at once leaves no job and no rows."""
        return self.job is not None or self.reached.line > 0 or self.settled.line > 0


class WorkFile:
    """The growing output of an order with its state, held by one process at a time.

    Args:
        output: where the rows go in the end; None writes them to stdout at once, and nothing can be resumed.
        order: what was asked for.
        restart: forget what an earlier run left.

    Raises:
        WorkRefused: another process or another order holds the files, or they are damaged.
        OSError: they cannot be written.
    """

    def __init__(self, output: Path | None, order: Order, *, restart: bool = False) -> None:
        self._output = output
        self.state = State(order=order)
        if output is None:
            self.part: BinaryIO = sys.stdout.buffer
            return
        self._part_path, self._state_path = beside(output, "part"), beside(output, "state")
        self.part = os.fdopen(os.open(self._part_path, os.O_RDWR | os.O_CREAT, 0o666), "r+b")
        try:
            _lock(self.part, self._part_path)
            self.state = State(order=order) if restart else self._found(order)
            self.cut(self.state.reached)
        except BaseException:
            self.part.close()
            raise

    def append(self, line: int, row: dict[str, Any]) -> None:
        """Write the row of a line."""
        text = orjson.dumps(row) + b"\n"
        self.part.write(text)
        reached = self.state.reached
        self.state.reached = Mark(line=line, rows=reached.rows + 1, bytes=reached.bytes + len(text))

    def save(self) -> None:
        """Make everything so far survive this process and the machine."""
        self.part.flush()
        if self._output is None:
            return
        os.fsync(self.part.fileno())
        replace(self._state_path, [self.state.model_dump_json(indent=2).encode(), b"\n"])

    def cut(self, mark: Mark) -> None:
        """Drop what the part file holds behind a mark, and go on from there.

        Raises:
            WorkRefused: it ends before the mark.
        """
        if self._output is None:
            return
        if self.part.seek(0, os.SEEK_END) < mark.bytes:
            raise WorkRefused(f"{self._part_path} is shorter than {self._state_path.name} says; --restart starts over")
        self.part.seek(mark.bytes)
        self.part.truncate()
        self.state.reached = mark

    def finish(self) -> None:
        """Put the rows in the place of the output, and leave nothing else behind."""
        self.part.flush()
        if self._output is not None:
            os.fsync(self.part.fileno())
            self._part_path.replace(self._output)
            self._state_path.unlink(missing_ok=True)

    def __enter__(self) -> Self:
        """The work file itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Let go of the files; what is not saved is lost."""
        if self._output is not None:
            try:
                self.part.close()
            except OSError:
                if error is None:
                    raise

    def _found(self, order: Order) -> State:
        try:
            state = State.model_validate_json(self._state_path.read_bytes())
        except FileNotFoundError:
            return State(order=order)
        except ValidationError:
            raise WorkRefused(f"{self._state_path} cannot be read; --restart starts over") from None
        if not state.begun and state.order != order:
            return State(order=order)
        moved = {"input"}
        ours, theirs = order.model_dump(exclude=moved), state.order.model_dump(exclude=moved)
        other = [
            "input" if name in {"bytes", "sha256"} else name for name, value in ours.items() if theirs[name] != value
        ]
        if other:
            names = ", ".join(dict.fromkeys(other))
            raise WorkRefused(
                f"{self._state_path} is of a run with another {names}; run it as before to go on, or start over with "
                "--restart"
            )
        return state


def beside(path: Path, suffix: str) -> Path:
    """The working file of a path."""
    return path.with_name(f"{path.name}.{suffix}")


def replace(path: Path, pieces: "Iterator[bytes] | list[bytes]") -> None:
    """Write a file as a whole or not at all."""
    new = beside(path, "new")
    with new.open("wb") as file:
        file.writelines(pieces)
        file.flush()
        os.fsync(file.fileno())
    new.replace(path)


def digest(path: Path) -> str:
    """SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _lock(file: BinaryIO, path: Path) -> None:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise WorkRefused(f"{path} is being written by another process") from None
