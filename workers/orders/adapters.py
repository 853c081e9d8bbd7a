"""Orders of POST /training for rule adapters."""

from dataclasses import dataclass
from functools import partial

from app.artifacts import Artifacts
from app.ruleadapters import RuleAdapters
from app.schemas.rules import RulePool
from app.schemas.training import AdapterTask, TrainingAnswer
from workers.engine.annotator import Annotator
from workers.orders.order import Made, Progress, Step, put_by
from workers.orders.pairs import pairs_of
from workers.registry import Holdings
from workers.rules.adapting.adapter import to_files
from workers.rules.adapting.teach import teach
from workers.rules.logits import LogitRater


@dataclass(frozen=True)
class AdapterOrder:
    """A rule adapter to teach.

    Attributes:
        task: what with, and how.
        annotator: whose activations or weights are used.
        holdings: what this worker holds: pools and banks, and the new adapter, which goes into their store.
    """

    task: AdapterTask
    annotator: Annotator
    holdings: Holdings

    @property
    def shelves(self) -> tuple[RuleAdapters]:
        """The rule adapters of the artifact store."""
        return (RuleAdapters(self.artifacts),)

    @property
    def artifacts(self) -> Artifacts:
        """The store."""
        return self.holdings.directions.registry.artifacts

    @property
    def id(self) -> str:
        """Of the new rule adapter."""
        return self.task.options.id

    @property
    def replace(self) -> bool:
        """Whether another one may be replaced."""
        return self.task.options.replace

    def made_by(self, job: str) -> TrainingAnswer | None:
        """The answer of a job that has published already."""
        card = put_by(job, self.shelves[0], self.id)
        return TrainingAnswer(id=card.id, digest=card.digest, measures=card.measures) if card else None

    def make(self, job: str, progress: Progress) -> Made:
        """Teach it with the pairs of the file.

        Raises:
            NotHeld: pool or bank are gone or do not fit.
            RuleError: the pairs teach nothing.
            ArtifactMissing: the file was deleted.
        """
        pool = self.holdings.pools.get(self.task.pool)
        rater = self.holdings.banks.get(self.task.bank) if self.task.bank else self._logits(pool)
        adapter = teach(
            self.annotator,
            pool,
            rater,
            pairs_of(self.artifacts, self.task.data),
            self.task.options,
            note={"job": job},
            progress=lambda done, total: progress(Step("teach", done, total)),
        )
        card, parts = adapter.card, to_files(adapter)
        answer = TrainingAnswer(id=card.id, digest=card.digest, measures=card.measures)
        return Made(answer, partial(self.shelves[0].publish, card.id, card.digest, parts))

    def published(self) -> None:
        """Hold it from now on."""
        self.holdings.adapters.refresh()

    def _logits(self, pool: RulePool) -> LogitRater:
        return LogitRater(self.annotator, [rule.text for rule in pool.ordered])
