"""From a chunk of pairs, or of responses to order, to its answer."""

from collections.abc import Sequence
from dataclasses import dataclass

from app import __version__
from app.schemas.annotate import Provenance
from app.schemas.chunk import Chunk, ChunkAnswer
from workers.batcher import Batcher
from workers.directions.direction import SafetyDirection
from workers.engine.annotator import Annotator
from workers.engine.errors import PairRefused
from workers.engine.packing import Group
from workers.entries import Entry, Item, ItemReading, entry, failure, responses_of
from workers.metrics import WorkerMetrics
from workers.registry import HeldDirections
from workers.score_cache import Known, ScoreCache


class Fatal(PairRefused):
    """Workers that read this item died."""

    code = "worker_died"


@dataclass(frozen=True)
class PairAnnotator:
    """Everything a worker needs to annotate.

    Attributes:
        annotator: the language model.
        directions: those it can project on.
        batcher: the shared forward stage.
        cache: scores computed before, if they are kept.
        metrics: where items are counted.
    """

    annotator: Annotator
    directions: HeldDirections
    batcher: Batcher
    metrics: WorkerMetrics
    cache: ScoreCache | None = None

    def annotate(self, chunk: Chunk, *, urgent: bool = True) -> ChunkAnswer:
        """One entry per item, in order; an item that cannot be read fails alone.

        Args:
            chunk: what to read.
            urgent: whether somebody waits for it, so that it overtakes what nobody waits for.

        Raises:
            UnknownDirection: a direction that the chunk asks for is not to be had.
        """
        directions = [self.directions.get(ref) for ref in chunk.directions]
        keys = (
            [self.cache.keys(item.messages, responses_of(item), directions) for item in chunk.items]
            if self.cache
            else []
        )
        entries = self._known(chunk, directions, keys)
        new = [i for i, known in enumerate(entries) if known is None]
        encoded = [self._encode(chunk.items[i], chunk.truncate) for i in new]
        groups = [group for group in encoded if isinstance(group, Group)]
        scores = iter(self.batcher.score(groups, directions, urgent=urgent))
        fresh: list[tuple[bytes, Known]] = []
        for i, group in zip(new, encoded, strict=True):
            outcome = next(scores) if isinstance(group, Group) else group
            if isinstance(outcome, PairRefused):
                entries[i] = failure(chunk.items[i], outcome)
            elif isinstance(group, Group):
                reading = ItemReading.of(group, outcome)
                entries[i] = entry(chunk.items[i], reading, directions)
                if keys and not reading.truncated:
                    fresh += zip(keys[i], reading.known(), strict=True)
        if self.cache:
            self.cache.put(fresh)
        return self._answered(chunk, [made for made in entries if made is not None], directions)

    def refused(self, chunk: Chunk) -> ChunkAnswer:
        """The answer to a chunk no item of which can be tried: each has ended workers before.

        Raises:
            UnknownDirection: a direction that the chunk asks for is not to be had.
        """
        return self._answered(
            chunk,
            [failure(item, Fatal("workers that read it died")) for item in chunk.items],
            [self.directions.get(ref) for ref in chunk.directions],
        )

    def _known(
        self, chunk: Chunk, directions: Sequence[SafetyDirection], keys: Sequence[Sequence[bytes]]
    ) -> list[Entry | None]:
        """Entries of the items whose every score is in the cache; None where one is not."""
        if self.cache is None:
            return [None] * len(chunk.items)
        found = iter(self.cache.get([key for own in keys for key in own]))
        entries: list[Entry | None] = []
        for item, own in zip(chunk.items, keys, strict=True):
            scores = [score for score in (next(found) for _ in own) if score is not None]
            complete = len(scores) == len(own)
            entries.append(entry(item, ItemReading.again(scores, len(directions)), directions) if complete else None)
            self.metrics.cached.labels("hit" if complete else "miss").inc()
        return entries

    def _answered(self, chunk: Chunk, entries: list[Entry], directions: Sequence[SafetyDirection]) -> ChunkAnswer:
        main, *others = [self.provenance(direction) for direction in directions]
        provenance = main.model_copy(update={"others": others or None})
        answer = ChunkAnswer(entries=entries, lines=chunk.lines, provenance=provenance)
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
        try:
            return self.annotator.template.encode(item.messages, responses_of(item), truncate=truncate)
        except PairRefused as refusal:
            return refusal
