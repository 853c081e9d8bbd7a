"""Orders of POST /training for rule adapters."""

from contextlib import suppress
from dataclasses import dataclass

from app.artifacts import Artifacts
from app.files import place
from app.jobs.rows import chunk_places, read_chunk
from app.ruleadapters import AdapterMissing, RuleAdapters
from app.rulebanks import CARD, TENSORS, BankMissing, RuleBanks
from app.rulepools import PoolMissing, RulePools
from app.schemas.chunk import Ref
from app.schemas.pairs import Pair
from app.schemas.rules import RulePool
from app.schemas.training import AdapterTask, TrainingAnswer
from workers.engine.annotator import Annotator
from workers.orders.order import Made, Progress
from workers.rules.adapting.adapter import to_files
from workers.rules.adapting.teach import teach
from workers.rules.bank import RuleBank, check_fits, from_files
from workers.rules.errors import UnfitExamples, UnusableBank
from workers.rules.logits import LogitRater


@dataclass(frozen=True)
class AdapterOrder:
    """A rule adapter to teach.

    Attributes:
        task: what with, and how.
        annotator: whose activations or weights are used.
        artifacts: where pairs, pool and bank are, and where the adapter goes.
    """

    task: AdapterTask
    annotator: Annotator
    artifacts: Artifacts

    @property
    def shelf(self) -> RuleAdapters:
        """The rule adapters of the artifact store."""
        return RuleAdapters(self.artifacts)

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
        with suppress(AdapterMissing):
            card = self.shelf.card(self.id)
            if card.settings.get("job") == job:
                return TrainingAnswer(id=card.id, digest=card.digest, measures=card.measures)
        return None

    def make(self, job: str, progress: Progress) -> Made:
        """Teach it with the pairs of the file.

        Raises:
            RuleError: pool or bank are gone or do not fit, or the pairs teach nothing.
            ArtifactMissing: the file was deleted.
        """
        pool = self._pool()
        rater = self._bank(self.task.bank, pool) if self.task.bank else self._logits(pool)
        adapter = teach(
            self.annotator, pool, rater, self._pairs(), self.task.options, note={"job": job}, progress=progress
        )
        card = adapter.card
        answer = TrainingAnswer(id=card.id, digest=card.digest, measures=card.measures)
        return Made(answer, card.digest, to_files(adapter))

    def published(self) -> None:
        """Workers find it in the store when a request asks for it."""

    def _pairs(self) -> list[Pair]:
        rows = place(self.task.data)
        chunks = chunk_places(self.artifacts, rows)
        return [row.pair for chunk in chunks for row in read_chunk(self.artifacts, rows, chunk)]

    def _pool(self) -> RulePool:
        try:
            return RulePools(self.artifacts).pool(self.task.pool.id, self.task.pool.digest)
        except PoolMissing:
            raise UnfitExamples(f"rule pool {self.task.pool.id} was deleted while the job used it") from None

    def _bank(self, ref: Ref, pool: RulePool) -> RuleBank:
        banks = RuleBanks(self.artifacts)
        try:
            bank = from_files(ref.id, {part: banks.part(ref.id, ref.digest, part) for part in (CARD, TENSORS)})
        except BankMissing:
            raise UnusableBank(f"rule bank {ref.id} was deleted while the job used it") from None
        check_fits(bank, self.annotator, pool)
        return bank

    def _logits(self, pool: RulePool) -> LogitRater:
        return LogitRater(self.annotator, [rule.text for rule in pool.ordered])
