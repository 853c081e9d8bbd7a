"""Rows that came of a job that annotates, good ones and errors, in the order of its lines and in constant memory."""

import heapq
from collections.abc import Iterator
from dataclasses import dataclass

import orjson

from app.datasets.exports import Exported, Format, raw_row, trainer_row
from app.jobs.collect import Answered, Answers
from app.jobs.rows import PROBLEMS
from app.schemas.annotate import Annotation, FailedAnnotation
from app.schemas.jobs import RowError


@dataclass(frozen=True)
class Outcome:
    """What came of one job, as far as it is done in order.

    Attributes:
        answers: of its chunks.
    """

    answers: Answers

    def results(self, format: Format, after: int) -> Iterator[Exported]:
        """Annotated rows of lines after this one."""
        for answered in self.answers.in_order(after):
            pairs = {} if format == "raw" else {row.line: row.pair for row in answered.rows()}
            for line, entry in answered.entries(after):
                if not isinstance(entry, Annotation):
                    continue
                if format == "raw":
                    yield raw_row(line, entry, answered.answer.provenance)
                else:
                    yield trainer_row(pairs[line], entry)

    def errors(self, after: int) -> Iterator[RowError]:
        """Rows of lines after this one that were no pairs, or pairs that could not be annotated.

        No line comes before one that may yet fail, so that a reader can go on from the last one.
        """
        until = self.answers.settled_line()
        failed = _failed(self.answers.in_order(after), after)
        for error in heapq.merge(self._problems(after), failed, key=lambda error: error.line):
            if until is not None and error.line > until:
                return
            yield error

    def _problems(self, after: int) -> Iterator[RowError]:
        place = self.answers.jobs.state(self.answers.job_id).get("rows")
        for line in self.answers.artifacts.lines(f"{place}/{PROBLEMS}") if place else ():
            problem = RowError.model_validate(orjson.loads(line))
            if problem.line > after:
                yield problem


def _failed(answered: Iterator[Answered], after: int) -> Iterator[RowError]:
    for chunk in answered:
        for line, entry in chunk.entries(after):
            if isinstance(entry, FailedAnnotation):
                error = entry.error
                yield RowError(line=line, id=entry.id, code=error.code, detail=error.detail, counts=error.counts)
