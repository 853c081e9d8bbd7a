"""Annotating one dataset through the API: upload, follow the job, take rows as they are ready, go on later."""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from app.client import Client, ResultLine, ServiceError
from app.schemas.jobs import Job
from cli.failures import Failures
from cli.remainder import remainder
from cli.workfile import State, WorkFile

_SAVE_ROWS = 2_000


class DatasetFailed(Exception):
    """The service could not annotate the dataset."""


class _OtherShape(Exception):
    """Rows of the remainder alone look different from those so far."""


@dataclass
class Dataset:
    """One dataset on its way through a service.

    Attributes:
        client: the service.
        path: the input.
        work: the output so far, and how far that is.
        failures: rows that failed so far.
        show: is shown the job every few seconds.
    """

    client: Client
    path: Path
    work: WorkFile
    failures: Failures
    show: Callable[[Job], object]
    _compared: bool = False
    _noted: int | None = field(default=None)

    @property
    def state(self) -> State:
        """How far it is."""
        return self.work.state

    def annotate(self) -> None:
        """Annotate what is not annotated yet, and put output and errors in their places.

        Raises:
            DatasetFailed: the job failed, or the rest would not match the rows so far.
            ServiceError, Unreachable: the service refuses or does not answer.
            OSError: the disk refuses.
        """
        try:
            if not self._resumed() and self._submitted(whole=False):
                self._follow_as_one()
            self.failures.finish()
            self.work.finish()
        except BaseException:
            with suppress(OSError):
                self.work.save()
            raise

    def _resumed(self) -> bool:
        """Whether the job of an earlier run still stands and could be followed to its end."""
        if self.state.job is None:
            return False
        try:
            if self.client.job(self.state.job).status not in {"failed", "cancelled"}:
                self._follow_as_one()
                return True
        except ServiceError as error:
            if not _gone(error):
                raise
        self.state.file = self.state.job = None
        return False

    def _follow_as_one(self) -> None:
        """Follow the job; where its rows look different by themselves, another one of the whole input instead."""
        assert self.state.job is not None
        try:
            self._follow(self.state.job)
        except _OtherShape:
            self.client.cancel(self.state.job)
            self.state.file = None
            self._submitted(whole=True)
            try:
                self._follow(self.state.job)
            except _OtherShape:
                raise DatasetFailed("rows now look different from those so far; --restart starts over") from None

    def _submitted(self, *, whole: bool) -> bool:
        """Submit what is not settled yet; false if that is nothing."""
        state, order = self.state, self.state.order
        known = state.file
        if known is None:
            self.work.cut(state.settled)
            rest = remainder(self.path, state.settled.line) if state.settled.line and not whole else None
            if rest and not any(piece.strip() for piece in rest()):
                self.failures.record(iter(()), state.settled.line)
                return False
            state.skipped, state.before = (state.settled.line, state.settled.rows) if rest else (0, 0)
            state.file = self.client.upload(rest or self.path).id
            self.work.save()
        assert state.file is not None
        try:
            options = {"direction": order.direction, "truncate": order.truncate, **order.judging}
            state.job = self.client.submit(state.file, **options).id
        except ServiceError as error:
            if known is None or not _gone(error):
                raise
            state.file = None
            return self._submitted(whole=whole)
        self.work.save()
        return True

    def _follow(self, job_id: str) -> None:
        self._compared, self._noted = False, None
        job = self.client.wait(job_id, self._advance)
        self._settle(job)
        if job.status != "completed":
            raise DatasetFailed(f"job {job_id} {job.status}" + (f": {job.error}" if job.error else ""))
        if self.state.order.parquet:
            first = next(self.client.result_lines(job_id), None)
            self.state.provenance = first.provenance if first else None
            self.client.parquet(job_id, self.work.part, self.state.order.format)
        elif self.state.reached.rows != self.state.before + job.request_counts.completed:
            raise DatasetFailed(
                f"job {job_id} annotated {job.request_counts.completed} rows, but "
                f"{self.state.reached.rows - self.state.before} came"
            )

    def _advance(self, job: Job) -> None:
        """Settle the rows that came before this look at the job, then take those that are ready."""
        self.show(job)
        if job.request_counts.failed != self._noted:
            self._settle(job)
        else:
            self.state.settled = self.state.reached
        if not self.state.order.parquet:
            self._take_rows(job.id)
        self.work.save()

    def _settle(self, job: Job) -> None:
        reached = self.state.reached
        self.failures.record(self.client.errors(job.id), self.state.skipped)
        self.state.settled, self._noted = reached, job.request_counts.failed

    def _take_rows(self, job_id: str) -> None:
        for found in self.client.result_lines(job_id, self.state.reached.line, self.state.order.format):
            if not self._compared:
                self._compare(found)
            self.work.append(found.line, found.row)
            if self.state.reached.rows % _SAVE_ROWS == 0:
                self.work.save()

    def _compare(self, found: ResultLine) -> None:
        """Refuse to mix rows that something else made, or that look different."""
        state, shape = self.state, _shape(found.row)
        if state.provenance is not None and state.provenance != found.provenance:
            raise DatasetFailed(
                "the service now annotates with another model, direction or version than the rows so far; --restart "
                "starts over"
            )
        if state.shape is not None and state.shape != shape:
            raise _OtherShape
        state.provenance, state.shape, self._compared = found.provenance, shape, True


def _gone(error: ServiceError) -> bool:
    return error.status in {404, 410}


def _shape(row: dict[str, Any]) -> dict[str, str]:
    return {name: type(value).__name__ for name, value in row.items()}
