"""Orders of POST /training for reward models."""

from dataclasses import dataclass
from pathlib import Path

from app.artifacts import Artifacts
from app.datasets.exports import margin_of
from app.files import place
from app.jobs.collect import answer_path
from app.jobs.rows import chunk_places, read_chunk
from app.rewards import CARD, RewardModels
from app.schemas.annotate import Annotation
from app.schemas.chunk import ChunkAnswer
from app.schemas.rewards import RewardCard
from app.schemas.training import RewardAnswer, RewardTask
from workers.orders.order import Made, Progress, Step, put_by
from workers.registry import Holdings
from workers.rewards.annotated import Annotated, AnnotatedFile


@dataclass(frozen=True)
class Base:
    """What the weights of a new reward model are.

    Attributes:
        model: what `weights.locate` takes.
        home: as of it.
        device: as of `load_annotator`.
    """

    model: str
    home: Path
    device: str


@dataclass(frozen=True)
class RewardOrder:
    """A reward model to train.

    Attributes:
        task: what on, and how.
        base: what of.
        holdings: what this worker holds; the reward model goes into its store.
        runs: folder of the folders of trainings.
    """

    task: RewardTask
    base: Base
    holdings: Holdings
    runs: Path

    @property
    def shelves(self) -> tuple[RewardModels]:
        """The reward models of the artifact store."""
        return (RewardModels(self._artifacts),)

    @property
    def id(self) -> str:
        """Of the new reward model."""
        return self.task.id

    @property
    def replace(self) -> bool:
        """Whether another one may be replaced."""
        return self.task.replace

    def made_by(self, job: str) -> RewardAnswer | None:
        """The answer of a job that has published already."""
        card = put_by(job, self.shelves[0], self.id)
        return _answer(card) if card else None

    def make(self, job: str, progress: Progress) -> Made:
        """Train it on the pairs of the file, going on where this job was when its worker died.

        Raises:
            RewardError: the pairs teach nothing, or the loss became no finite number.
            EngineError: the base cannot be loaded.
            ArtifactMissing: file or annotations were deleted.
        """
        from workers.rewards.run import Training, train  # here, as a worker starts sooner without trl

        folder = self.runs / job
        card = train(
            Training(
                id=self.id,
                base=self.base.model,
                file=annotated_of(self._artifacts, self.task.file, self.task.job),
                settings=self.task.settings,
                folder=folder,
                home=self.base.home,
                device=self.base.device,
                tell=lambda stage, done, total, loss: progress(Step(stage, done, total, loss)),
                note={"job": job},
            )
        )
        parts = {name: folder / name for name in (*card.files, CARD)}
        return Made(_answer(card), lambda: self.shelves[0].publish(card.id, card.digest, parts))

    def published(self) -> None:
        """No worker holds it."""

    @property
    def _artifacts(self) -> Artifacts:
        return self.holdings.directions.registry.artifacts


def _answer(card: RewardCard) -> RewardAnswer:
    return RewardAnswer.model_validate(card.model_dump(include=set(RewardAnswer.model_fields)))


def annotated_of(artifacts: Artifacts, file_id: str, job_id: str | None) -> AnnotatedFile:
    """The pairs of an uploaded file with the margins of its rows, or those that a job has annotated with what it said.

    Raises:
        ArtifactMissing: the file, or the results of the job, were deleted.
    """
    found: list[Annotated] = []
    calibrated: bool | None = None if job_id is None else True
    rows = place(file_id)
    for number, chunk in enumerate(chunk_places(artifacts, rows)):
        pairs = read_chunk(artifacts, rows, chunk)
        if job_id is None:
            found += [Annotated(row.line, row.pair, row.margin) for row in pairs]
            continue
        answer = ChunkAnswer.model_validate_json(artifacts.read(answer_path(job_id, number)))
        calibrated = calibrated and answer.provenance.calibrated
        said = dict(zip(answer.lines, answer.entries, strict=True))
        for row in pairs:
            if isinstance(entry := said.get(row.line), Annotation):
                found.append(Annotated(row.line, row.pair, margin_of(entry), entry.level))
    return AnnotatedFile(file_id if job_id is None else job_id, found, calibrated)
