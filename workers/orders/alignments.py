"""Orders of POST /training for alignments."""

from dataclasses import dataclass
from pathlib import Path

from app.alignments import Alignments
from app.artifacts import Artifacts
from app.registry import Registry
from app.schemas.alignment import AlignmentStage
from app.schemas.names import Ref
from app.schemas.training import AlignmentAnswer, AlignmentTask
from workers.alignment.publishing import course, product_of, publish
from workers.alignment.run import Run
from workers.engine.annotator import Annotator
from workers.orders.order import Made, Progress, Step, put_by
from workers.orders.pairs import pairs_of
from workers.registry import Holdings


@dataclass(frozen=True)
class AlignmentOrder:
    """A model to teach and to align.

    Attributes:
        task: what with, and how.
        annotator: the model.
        holdings: what this worker holds; alignment and direction go into its store.
        runs: folder of the folders of runs.
    """

    task: AlignmentTask
    annotator: Annotator
    holdings: Holdings
    runs: Path

    @property
    def shelves(self) -> tuple[Alignments, Registry]:
        """The alignments and the directions of the artifact store."""
        return Alignments(self._artifacts), self.holdings.directions.registry

    @property
    def id(self) -> str:
        """Of the new alignment and its direction."""
        return self.task.id

    @property
    def replace(self) -> bool:
        """Whether others may be replaced."""
        return self.task.replace

    def made_by(self, job: str) -> AlignmentAnswer | None:
        """The answer of a job that has published both already."""
        alignments, directions = self.shelves
        card, direction = put_by(job, alignments, self.id), put_by(job, directions, self.id)
        if card is None or direction is None or direction.alignment != Ref(id=card.id, digest=card.digest):
            return None
        return AlignmentAnswer(id=card.id, digest=card.digest, direction=Ref(id=direction.id, digest=direction.digest))

    def make(self, job: str, progress: Progress) -> Made:
        """Teach, read and align with the pairs of the file, going on where this job was when its worker died.

        Raises:
            AlignmentError: the pairs teach nothing, or a loss became no finite number.
            UnusableAdapter: the annotator has no modules of the names that the settings have.
            ArtifactMissing: the file was deleted.
        """
        method, settings = self.task.method, self.task.settings
        taught_with, others = course(self.annotator, pairs_of(self._artifacts, self.task.data), method, settings)

        def tell(stage: AlignmentStage, done: int, total: int, loss: float | None) -> None:
            progress(Step(stage, done, total, loss))

        run = Run(method, self.annotator, taught_with, others, settings, self.runs / job, tell)
        run.all()
        product = product_of(
            run, self.id, note={"job": job}, progress=lambda done, total: progress(Step("measure", done, total))
        )
        made, direction = product.card, product.direction.card
        answer = AlignmentAnswer(
            id=made.id, digest=made.digest, direction=Ref(id=direction.id, digest=direction.digest)
        )
        return Made(answer, lambda: publish(product, *self.shelves))

    def published(self) -> None:
        """Hold both from now on."""
        self.holdings.alignments.refresh()
        self.holdings.directions.refresh()

    @property
    def _artifacts(self) -> Artifacts:
        return self.holdings.directions.registry.artifacts
