"""From a chunk of pairs, or of responses to order, to its answer."""

from collections.abc import Sequence
from dataclasses import dataclass
from http import HTTPStatus

from torch import Tensor

from app import __version__
from app.schemas.annotate import Annotation, FailedAnnotation, Margin, PairProblem, Provenance, Raw, Tokens
from app.schemas.chunk import Chunk, ChunkAnswer
from app.schemas.pairs import Pair
from app.schemas.score import Candidates, Ranking, Score, ScoredCandidates
from workers.batcher import Batcher
from workers.directions.direction import SafetyDirection, logistic
from workers.engine.annotator import Annotator
from workers.engine.errors import PairRefused
from workers.engine.packing import Group
from workers.metrics import WorkerMetrics
from workers.registry import HeldDirections

Item = Pair | Candidates
Entry = Annotation | ScoredCandidates | FailedAnnotation


@dataclass(frozen=True)
class PairAnnotator:
    """Everything a worker needs to annotate.

    Attributes:
        annotator: the language model.
        directions: those it can project on.
        batcher: the shared forward stage.
        metrics: where items are counted.
    """

    annotator: Annotator
    directions: HeldDirections
    batcher: Batcher
    metrics: WorkerMetrics

    def annotate(self, chunk: Chunk) -> ChunkAnswer:
        """One entry per item, in order; an item that cannot be read fails alone.

        Raises:
            UnknownDirection: a direction that the chunk asks for is not to be had.
        """
        directions = [self.directions.get(ref) for ref in chunk.directions]
        encoded = [self._encode(item, chunk.truncate) for item in chunk.items]
        groups = [group for group in encoded if isinstance(group, Group)]
        scores = iter(self.batcher.score(groups, directions))
        entries: list[Entry] = []
        for item, group in zip(chunk.items, encoded, strict=True):
            outcome = next(scores) if isinstance(group, Group) else group
            if isinstance(group, Group) and isinstance(outcome, Tensor):
                entries.append(_entry(item, group, outcome.tolist(), directions))
            elif isinstance(outcome, PairRefused):
                entries.append(_failure(item, outcome))
        main, *others = [self.provenance(direction) for direction in directions]
        answer = ChunkAnswer(entries=entries, provenance=main.model_copy(update={"others": others or None}))
        done, failed = answer.counts()
        self.metrics.pairs.labels("annotated").inc(done)
        self.metrics.pairs.labels("refused").inc(failed)
        return answer

    def provenance(self, direction: SafetyDirection) -> Provenance:
        """What makes the numbers of this direction here."""
        return Provenance(
            model=self.annotator.name,
            model_revision=self.annotator.revision,
            template=self.annotator.template.digest,
            direction=direction.id,
            direction_digest=direction.card.digest,
            calibrated=direction.card.slope is not None,
            unreliable=direction.card.unreliable,
            layers=sorted({site.layer for site in direction.sites}),
            pooling="+".join(dict.fromkeys(site.pooling for site in direction.sites)),
            dtype=self.annotator.dtype_name,
            version=__version__,
        )

    def _encode(self, item: Item, truncate: bool) -> Group | PairRefused:
        responses = [item.chosen, item.rejected] if isinstance(item, Pair) else item.responses
        try:
            return self.annotator.template.encode(item.messages, responses, truncate=truncate)
        except PairRefused as refusal:
            return refusal


def _entry(
    item: Item, group: Group, scores: Sequence[Sequence[float]], directions: Sequence[SafetyDirection]
) -> Annotation | ScoredCandidates:
    """An item's entry from its scores, [D][K]."""
    counts = [branch.content for branch in group.branches]
    names = [direction.id for direction in directions]
    if isinstance(item, Pair):
        margins = [_margin(own, direction) for own, direction in zip(scores, directions, strict=True)]
        return Annotation(
            **dict(margins[0]),
            id=item.id or "",
            truncated=group.truncated,
            tokens=Tokens(prompt=group.prompt, chosen=counts[0], rejected=counts[1]),
            directions=dict(zip(names, margins, strict=True)) if len(margins) > 1 else None,
        )
    rankings = [_ranking(own, direction, counts) for own, direction in zip(scores, directions, strict=True)]
    return ScoredCandidates(
        **dict(rankings[0]),
        id=item.id or "",
        truncated=group.truncated,
        directions=dict(zip(names, rankings, strict=True)) if len(rankings) > 1 else None,
    )


def _margin(scores: Sequence[float], direction: SafetyDirection) -> Margin:
    chosen, rejected = scores
    raw = Raw(margin=chosen - rejected, chosen=chosen, rejected=rejected)
    margin = direction.calibrate(raw.margin)
    return Margin(
        margin=margin,
        probability=logistic(margin),
        level=direction.level(margin),
        label_conflict=margin < 0,
        raw=raw,
    )


def _ranking(scores: Sequence[float], direction: SafetyDirection, tokens: Sequence[int]) -> Ranking:
    order = sorted(range(len(scores)), key=lambda i: (-scores[i], i))
    rank = [1 + sum(other > own for other in scores) for own in scores]
    listed = [
        Score(index=i, rank=rank[i], score=direction.calibrate(raw), raw=raw, tokens=tokens[i])
        for i, raw in enumerate(scores)
    ]
    return Ranking(scores=listed, order=order)


def _failure(item: Item, refusal: PairRefused) -> FailedAnnotation:
    problem = PairProblem(
        status=HTTPStatus.UNPROCESSABLE_ENTITY, code=refusal.code, detail=refusal.detail, counts=refusal.counts
    )
    return FailedAnnotation(id=item.id or "", error=problem)
