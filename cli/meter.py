"""How far a job is, on stderr: a live bar on a terminal, elsewhere a line now and then."""

import time
from collections.abc import Callable
from datetime import timedelta
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from app.schemas.jobs import Job

_LINE_SECONDS = 15.0


class Meter:
    """Shows a job.

    Args:
        console: where.
        before: rows that were done before the job began.
        live: whether to draw a bar; there is no thread that draws it.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        console: Console,
        *,
        live: bool,
        before: Callable[[], int] = lambda: 0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._console, self._before, self._clock = console, before, clock
        self._last = -_LINE_SECONDS
        columns = (BarColumn(), MofNCompleteColumn(), TextColumn("rows{task.fields[pace]}"))
        self._bar = Progress(*columns, console=console, auto_refresh=False) if live else None

    def show(self, job: Job) -> None:
        """Show how far it is."""
        counts, before = job.request_counts, self._before()
        done, total = before + counts.completed + counts.failed, before + counts.total
        if self._bar is not None:
            if not self._bar.task_ids:
                self._bar.add_task("", total=total, pace="")
            self._bar.update(self._bar.task_ids[0], completed=done, total=total, pace=_pace(job), refresh=True)
        elif self._clock() - self._last >= _LINE_SECONDS or job.status != "in_progress":
            self._last = self._clock()
            self.say(f"{done}/{total} rows{_pace(job)}")

    def say(self, text: str) -> None:
        """Print a line above the bar."""
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)

    def __enter__(self) -> Self:
        """Begin to draw."""
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Leave the bar as it is."""
        if self._bar is not None:
            self._bar.stop()


def _pace(job: Job) -> str:
    pace = "" if job.throughput is None else f", {job.throughput:.1f} pairs/s"
    if job.eta_seconds is None or job.status != "in_progress":
        return pace
    return f"{pace}, {timedelta(seconds=round(job.eta_seconds))} left"
