"""Predictions for every task of a Label Studio project that has none of today's: read, annotate, add."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import orjson

from app.client import Client
from app.labelstudio.predictions import TaskRefused, pair_of, prediction_of, version_of
from app.labelstudio.template import Template, template_of
from app.schemas.annotate import DEFAULT, ResultRow
from app.schemas.directions import DirectionCard
from app.schemas.jobs import Job
from cli.studio import Studio, TaskPrediction

_BATCH = 1_000
"""Label Studio counts the tasks of the whole project anew for every batch."""


class PushFailed(Exception):
    """The service could not annotate the tasks."""


@dataclass
class Push:
    """The predictions of one direction on their way to one project.

    What is there already is left alone, so that a push that was cut off is taken up by another one.

    Attributes:
        client: the service.
        studio: Label Studio.
        project: which project.
        direction: which direction.
        truncate: whether prompts that do not fit are cut.
        say: is told what happens.
        show: is shown the job every few seconds.
        made: predictions added.
        failures: tasks without a margin: `task`, `code`, `detail`.
    """

    client: Client
    studio: Studio
    project: int
    direction: str
    truncate: bool
    say: Callable[[str], object]
    show: Callable[[Job], object]
    made: int = 0
    failures: list[dict[str, Any]] = field(default_factory=list)
    _waiting: list[TaskPrediction] = field(default_factory=list)
    _line: int = 0

    def push(self) -> None:
        """Add what is missing.

        Raises:
            TemplateRefused: the project does not compare two answers.
            PushFailed: the job failed, or the direction is not there, or not the same any more.
            StudioRefused, ServiceError, Unreachable: the one or the other refuses or does not answer.
        """
        project = self.studio.project(self.project)
        template = template_of(project.label_config)
        card = self._card()
        version = version_of(card.id, card.digest, card.model)
        with TemporaryDirectory(prefix="safemargin-push-") as folder:
            pairs = Path(folder) / "pairs.jsonl"
            count = self._write(pairs, template, version)
            if count:
                self._annotate(pairs, template, card, version)
        if self.made and not project.shown:
            self.studio.show(self.project, version)
        elif self.made and project.shown != version:
            self.say(f"the project shows predictions of {project.shown}: choose {version} in its annotation settings")

    def _card(self) -> DirectionCard:
        held = self.client.directions()
        wanted = held.default if self.direction == DEFAULT else self.direction
        found = next((card for card in held.directions if card.id == wanted), None)
        if found is None:
            raise PushFailed(f"no worker holds a direction {self.direction}")
        return found

    def _write(self, path: Path, template: Template, version: str) -> int:
        """The pairs of tasks without a prediction as a file to upload; returns how many."""
        there = count = 0
        with path.open("wb") as out:
            for task in self.studio.tasks(self.project):
                if task.has(version):
                    there += 1
                    continue
                try:
                    pair = pair_of(task.data, template, str(task.id))
                except TaskRefused as refusal:
                    self._failed(task.id, refusal.problem.code, refusal.problem.detail)
                    continue
                out.write(orjson.dumps(pair.model_dump()) + b"\n")
                count += 1
        self.say(f"{count} tasks to predict as {version}; {there} have that, {len(self.failures)} are no pairs")
        return count

    def _annotate(self, pairs: Path, template: Template, card: DirectionCard, version: str) -> None:
        file = self.client.upload(pairs)
        job = self.client.submit(file.id, direction=card.id, truncate=self.truncate)

        def advance(job: Job) -> None:
            self.show(job)
            self._take(job.id, template, card, version)

        job = self.client.wait(job.id, advance)
        self._add()
        for row in self.client.errors(job.id):
            self._failed(int(row["id"]), row["code"], row["detail"])
        if job.status != "completed":
            raise PushFailed(f"job {job.id} {job.status}" + (f": {job.error}" if job.error else ""))

    def _take(self, job_id: str, template: Template, card: DirectionCard, version: str) -> None:
        """Make predictions of the rows that are ready."""
        for found in self.client.result_lines(job_id, self._line):
            row, self._line = ResultRow.model_validate(found.row), found.line
            if row.provenance.direction_digest != card.digest:
                raise PushFailed(f"direction {card.id} was replaced meanwhile; run the same command again")
            made = prediction_of(row.annotation, template, version, row.provenance)
            assert made is not None  # only a pair without a margin has no prediction
            self._waiting.append(TaskPrediction(task=int(row.annotation.id), **dict(made)))
            if len(self._waiting) == _BATCH:
                self._add()

    def _add(self) -> None:
        batch, self._waiting = sorted(self._waiting, key=lambda one: one.task), []
        if batch:
            self.studio.add(self.project, batch)
            self.made += len(batch)

    def _failed(self, task: int, code: str, detail: str) -> None:
        self.failures.append({"task": task, "code": code, "detail": detail})
