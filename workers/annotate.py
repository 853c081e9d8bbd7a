"""From a chunk of pairs to its annotations."""

from collections.abc import Sequence
from dataclasses import dataclass
from http import HTTPStatus

from torch import Tensor

from app import __version__
from app.schemas.annotate import Annotation, FailedAnnotation, PairProblem, Provenance, Raw, Tokens
from app.schemas.chunk import Chunk, ChunkAnswer
from app.schemas.pairs import Pair
from workers.batcher import Batcher
from workers.directions.direction import SafetyDirection, logistic
from workers.engine.annotator import Annotator
from workers.engine.errors import PairRefused
from workers.engine.packing import Group
from workers.metrics import WorkerMetrics


class UnknownDirection(Exception):
    """The worker does not hold the direction that a chunk asks for."""


@dataclass(frozen=True)
class PairAnnotator:
    """Everything a worker needs to annotate.

    Attributes:
        annotator: the language model.
        directions: those it can project on, by id.
        batcher: the shared forward stage.
        metrics: where pairs are counted.
    """

    annotator: Annotator
    directions: dict[str, SafetyDirection]
    batcher: Batcher
    metrics: WorkerMetrics

    def annotate(self, chunk: Chunk) -> ChunkAnswer:
        """One annotation per pair, in order; a pair that cannot be read fails alone.

        Raises:
            UnknownDirection: the chunk asks for a direction that is not held.
        """
        direction = self.directions.get(chunk.options.direction)
        if direction is None:
            raise UnknownDirection(f"no direction called {chunk.options.direction} is held")
        encoded = [self._encode(pair, chunk.options.truncate) for pair in chunk.pairs]
        groups = [group for group in encoded if isinstance(group, Group)]
        scores = iter(self.batcher.score(groups, direction))
        entries: list[Annotation | FailedAnnotation] = []
        for pair, group in zip(chunk.pairs, encoded, strict=True):
            outcome = next(scores) if isinstance(group, Group) else group
            if isinstance(group, Group) and isinstance(outcome, Tensor):
                entries.append(_annotation(pair, group, outcome.tolist(), direction))
            elif isinstance(outcome, PairRefused):
                entries.append(_failure(pair, outcome))
        failed = sum(isinstance(entry, FailedAnnotation) for entry in entries)
        self.metrics.pairs.labels("annotated").inc(len(entries) - failed)
        self.metrics.pairs.labels("refused").inc(failed)
        return ChunkAnswer(annotations=entries, provenance=self.provenance(direction))

    def provenance(self, direction: SafetyDirection) -> Provenance:
        """What makes the numbers of this direction here."""
        return Provenance(
            model=self.annotator.name,
            model_revision=self.annotator.revision,
            template=self.annotator.template.digest,
            direction=direction.id,
            direction_digest=direction.card.digest,
            calibrated=direction.card.slope is not None,
            layers=sorted({site.layer for site in direction.sites}),
            pooling="+".join(dict.fromkeys(site.pooling for site in direction.sites)),
            dtype=self.annotator.dtype_name,
            version=__version__,
        )

    def _encode(self, pair: Pair, truncate: bool) -> Group | PairRefused:
        try:
            return self.annotator.template.encode(pair.messages, [pair.chosen, pair.rejected], truncate=truncate)
        except PairRefused as refusal:
            return refusal


def _annotation(pair: Pair, group: Group, scores: Sequence[float], direction: SafetyDirection) -> Annotation:
    chosen, rejected = scores
    raw = Raw(margin=chosen - rejected, chosen=chosen, rejected=rejected)
    margin = direction.calibrate(raw.margin)
    counts = [branch.content for branch in group.branches]
    return Annotation(
        id=pair.id or "",
        margin=margin,
        probability=logistic(margin),
        label_conflict=margin < 0,
        truncated=group.truncated,
        raw=raw,
        tokens=Tokens(prompt=group.prompt, chosen=counts[0], rejected=counts[1]),
    )


def _failure(pair: Pair, refusal: PairRefused) -> FailedAnnotation:
    problem = PairProblem(
        status=HTTPStatus.UNPROCESSABLE_ENTITY, code=refusal.code, detail=refusal.detail, counts=refusal.counts
    )
    return FailedAnnotation(id=pair.id or "", error=problem)
