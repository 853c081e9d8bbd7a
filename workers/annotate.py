"""From a chunk of pairs, or of responses to order, to its answer."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from app import __version__
from app.schemas.annotate import Provenance
from app.schemas.chunk import Chunk, ChunkAnswer
from app.schemas.pairs import Pair
from workers.batcher import Batcher, Scorer
from workers.directions.direction import SafetyDirection
from workers.engine.annotator import Annotator
from workers.engine.errors import PairRefused
from workers.engine.packing import Group
from workers.engine.sites import Site
from workers.entries import Entry, Item, ItemReading, entry, failure, responses_of
from workers.judging import PairJudge
from workers.metrics import WorkerMetrics
from workers.registry import Holdings
from workers.rules.judge import Judgement
from workers.score_cache import Known, ScoreCache
from workers.turns import URGENT, Manner


class Fatal(PairRefused):
    """Workers that read this item died."""

    code = "worker_died"


@dataclass(frozen=True)
class _Asked:
    """What a chunk asks for: directions to project on, the rules, or both."""

    directions: Sequence[SafetyDirection]
    judge: PairJudge | None

    @property
    def scorers(self) -> tuple[Scorer, ...]:
        return (*self.directions, *(self.judge.scorers if self.judge else ()))


@dataclass(frozen=True)
class PairAnnotator:
    """Everything a worker needs to annotate.

    Attributes:
        annotator: the language model.
        holdings: directions that it can project on, rules that it can judge by.
        batcher: the shared forward stage.
        cache: scores computed before, if they are kept.
        metrics: where items are counted.
    """

    annotator: Annotator
    holdings: Holdings
    batcher: Batcher
    metrics: WorkerMetrics
    cache: ScoreCache | None = None

    def annotate(self, chunk: Chunk, manner: Manner = URGENT) -> ChunkAnswer:
        """One entry per item, in order; an item that cannot be read fails alone.

        Args:
            chunk: what to read.
            manner: how to work on it.

        Raises:
            NotHeld: a direction, pool or bank that the chunk asks for is not to be had.
            RuleError: the annotator cannot be asked about rules.
        """
        asked = self._asked(chunk, manner)
        keys = self._keys(chunk, asked)
        entries = self._known(chunk, asked.directions, keys)
        new = [i for i, known in enumerate(entries) if known is None]
        readings = self._read([chunk.items[i] for i in new], asked, chunk.truncate, manner)
        fresh: list[tuple[bytes, Known]] = []
        for i, reading in zip(new, readings, strict=True):
            if isinstance(reading, PairRefused):
                entries[i] = failure(chunk.items[i], reading)
                continue
            entries[i] = entry(chunk.items[i], reading, asked.directions)
            if keys and not reading.truncated:
                fresh += zip(keys[i], reading.known(), strict=True)
        if self.cache:
            self.cache.put(fresh)
        return self._answered(chunk, [made for made in entries if made is not None], asked)

    def refused(self, chunk: Chunk) -> ChunkAnswer:
        """The answer to a chunk no item of which can be tried: each has ended workers before.

        Raises:
            NotHeld: a direction, pool or bank that the chunk asks for is not to be had.
        """
        entries: list[Entry] = [failure(item, Fatal("workers that read it died")) for item in chunk.items]
        return self._answered(chunk, entries, self._asked(chunk, URGENT))

    def _asked(self, chunk: Chunk, manner: Manner) -> _Asked:
        directions = [self.holdings.directions.get(ref) for ref in chunk.directions]
        if chunk.judging is None:
            return _Asked(directions, None)
        return _Asked(directions, PairJudge.of(chunk, chunk.judging, self.annotator, self.holdings, manner))

    def _keys(self, chunk: Chunk, asked: _Asked) -> list[list[bytes]]:
        """Where each item's scores are kept; nothing is kept of what the rules say."""
        if self.cache is None or asked.judge is not None:
            return []
        return [self.cache.keys(item.messages, responses_of(item), asked.directions) for item in chunk.items]

    def _known(
        self, chunk: Chunk, directions: Sequence[SafetyDirection], keys: Sequence[Sequence[bytes]]
    ) -> list[Entry | None]:
        """Entries of the items whose every score is in the cache; None where one is not."""
        if self.cache is None or not keys:
            return [None] * len(chunk.items)
        found = iter(self.cache.get([key for own in keys for key in own]))
        entries: list[Entry | None] = []
        for item, own in zip(chunk.items, keys, strict=True):
            scores = [score for score in (next(found) for _ in own) if score is not None]
            complete = len(scores) == len(own)
            entries.append(entry(item, ItemReading.again(scores, len(directions)), directions) if complete else None)
            self.metrics.cached.labels("hit" if complete else "miss").inc()
        return entries

    def _read(
        self, items: Sequence[Item], asked: _Asked, truncate: bool, manner: Manner
    ) -> list[ItemReading | PairRefused]:
        """What is read of every item in one forward pass, and judged of it; the reason instead where it cannot be."""
        encoded = [self._encode(item, truncate) for item in items]
        groups = [group for group in encoded if isinstance(group, Group)]
        scores = iter(self.batcher.score(groups, asked.scorers, urgent=manner.urgent))
        readings: list[ItemReading | PairRefused] = []
        for group in encoded:
            outcome = next(scores) if isinstance(group, Group) else group
            if isinstance(group, Group) and isinstance(outcome, tuple):
                readings.append(ItemReading.of(group, outcome, len(asked.directions)))
            elif isinstance(outcome, PairRefused):
                readings.append(outcome)
        return readings if asked.judge is None else _judged(items, readings, asked.judge)

    def _answered(self, chunk: Chunk, entries: list[Entry], asked: _Asked) -> ChunkAnswer:
        answer = ChunkAnswer(
            entries=entries, lines=chunk.lines, provenance=self.provenance(asked.directions, asked.judge)
        )
        done, failed = answer.counts()
        self.metrics.pairs.labels("annotated").inc(done)
        self.metrics.pairs.labels("refused").inc(failed)
        return answer

    def provenance(self, directions: Sequence[SafetyDirection], judge: PairJudge | None = None) -> Provenance:
        """What makes the numbers here: the first direction, or the rules where there is none."""
        rules = judge.judge.provenance if judge else None
        if not directions and judge:
            return self._made(
                [site for scorer in judge.scorers for site in scorer.reads],
                calibrated=judge.judge.provenance.calibrated,
                unreliable=judge.judge.unreliable,
            ).model_copy(update={"method": "rules", "rules": rules})
        main, *others = [self._of_direction(direction) for direction in directions]
        return main.model_copy(update={"others": others or None, "rules": rules})

    def _of_direction(self, direction: SafetyDirection) -> Provenance:
        card = direction.card
        made = self._made(direction.sites, calibrated=card.slope is not None, unreliable=card.unreliable)
        return made.model_copy(update={"direction": direction.id, "direction_digest": card.digest})

    def _made(self, sites: Sequence[Site], *, calibrated: bool, unreliable: bool) -> Provenance:
        return Provenance(
            model=self.annotator.name,
            model_revision=self.annotator.revision,
            template=self.annotator.template.digest,
            calibrated=calibrated,
            unreliable=unreliable,
            layers=sorted({site.layer for site in sites}),
            pooling="+".join(dict.fromkeys(site.pooling for site in sites)),
            dtype=self.annotator.dtype_name,
            version=__version__,
        )

    def _encode(self, item: Item, truncate: bool) -> Group | PairRefused:
        try:
            return self.annotator.template.encode(item.messages, responses_of(item), truncate=truncate)
        except PairRefused as refusal:
            return refusal


def _judged(
    items: Sequence[Item], readings: Sequence[ItemReading | PairRefused], judge: PairJudge
) -> list[ItemReading | PairRefused]:
    """The readings with what the rules say of each; only pairs are judged."""
    read = [(item, reading) for item, reading in zip(items, readings, strict=True) if isinstance(item, Pair)]
    fine = [(item, reading) for item, reading in read if isinstance(reading, ItemReading)]
    found = iter(judge.judgements([item for item, _ in fine], [reading.rest for _, reading in fine]))
    judged: list[ItemReading | PairRefused] = []
    for reading in readings:
        if isinstance(reading, PairRefused):
            judged.append(reading)
            continue
        judgement = next(found)
        if isinstance(judgement, Judgement):
            cut = reading.truncated or judgement.truncated
            judged.append(replace(reading, judgement=judgement, truncated=cut))
        else:
            judged.append(judgement)
    return judged
