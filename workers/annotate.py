"""From a chunk of pairs, of responses to order, or of whole dialogues, to its answer."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from app import __version__
from app.schemas.alignment import AlignmentCard
from app.schemas.annotate import Provenance
from app.schemas.chunk import Chunk, ChunkAnswer
from app.schemas.names import Ref
from app.schemas.pairs import Pair
from app.schemas.rewarding import Query
from app.schemas.rewards import RewardCard
from workers.batcher import Batcher
from workers.contrasting import PairContrast
from workers.directions.direction import SafetyDirection
from workers.engine.annotator import Annotator
from workers.engine.errors import PairRefused
from workers.engine.packing import Group
from workers.engine.sites import Site
from workers.engine.variant import Variant
from workers.entries import Entry, Item, ItemReading, Scale, entry, failure, responses_of
from workers.explaining import Explainer
from workers.judging import PairJudge
from workers.metrics import WorkerMetrics
from workers.pending import Scorer, Scores
from workers.registry import Holdings
from workers.rewards.serving import ServedReward
from workers.rules.judge import Judgement
from workers.score_cache import Known, ScoreCache
from workers.turns import URGENT, Manner


class Fatal(PairRefused):
    """Workers that read this item died."""

    code = "worker_died"


@dataclass(frozen=True)
class _Asked:
    """What a chunk asks for: directions to project on, the rules, or both; or what a model says that was taught.

    That is how likely a taught model finds responses, or the reward of a reward model.
    """

    directions: Sequence[SafetyDirection] = ()
    variants: Sequence[Variant | None] = ()
    judge: PairJudge | None = None
    contrast: PairContrast | None = None
    reward: ServedReward | None = None

    @property
    def scored(self) -> "Sequence[SafetyDirection | ServedReward]":
        """What gives every response one score from a pass."""
        return [self.reward] if self.reward else self.directions

    @property
    def scorers(self) -> list[tuple[Scorer, Variant | None]]:
        """What makes numbers of activations, the directions first, and of which model's."""
        if self.reward is not None:
            return [(self.reward, self.reward.variant)]
        judges: tuple[Scorer, ...] = self.judge.scorers if self.judge else ()
        return [*zip(self.directions, self.variants, strict=True), *((scorer, None) for scorer in judges)]

    @property
    def scales(self) -> Sequence[Scale]:
        return [self.contrast.alignment] if self.contrast else self.scored


@dataclass(frozen=True)
class PairAnnotator:
    """Everything a worker needs to annotate.

    Attributes:
        annotator: the language model.
        holdings: directions that it can project on, rules that it can judge by, models that it can ask.
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
            NotHeld: a direction, pool, bank, taught model or reward model that the chunk asks for is not to be had.
            RuleError: the annotator cannot be asked about rules.
        """
        asked = self._asked(chunk, manner)
        keys = self._keys(chunk, asked)
        entries = self._known(chunk, asked, keys)
        new = [i for i, known in enumerate(entries) if known is None]
        readings = self._read([chunk.items[i] for i in new], asked, chunk.truncate, manner)
        if chunk.contributions:
            explainer = Explainer(self.annotator, asked.directions, asked.variants, manner)
            groups = [self._encode(item, asked, chunk.truncate) for item in chunk.items]
            readings = explainer.explained(chunk.items, groups, readings)
        fresh: list[tuple[bytes, Known]] = []
        for i, reading in zip(new, readings, strict=True):
            if isinstance(reading, PairRefused):
                entries[i] = failure(chunk.items[i], reading)
                continue
            entries[i] = entry(chunk.items[i], reading, asked.scales)
            if keys and not reading.truncated:
                fresh += zip(keys[i], reading.known(), strict=True)
        if self.cache:
            self.cache.put(fresh)
        return self._answered(chunk, [made for made in entries if made is not None], asked)

    def refused(self, chunk: Chunk) -> ChunkAnswer:
        """The answer to a chunk no item of which can be tried: each has ended workers before.

        Raises:
            NotHeld: as `annotate`.
        """
        entries: list[Entry] = [failure(item, Fatal("workers that read it died")) for item in chunk.items]
        return self._answered(chunk, entries, self._asked(chunk, URGENT))

    def _asked(self, chunk: Chunk, manner: Manner) -> _Asked:
        if chunk.contrasting is not None:
            contrast = PairContrast.of(chunk.contrasting, self.holdings, chunk.truncate, manner)
            return _Asked(contrast=contrast)
        if chunk.reward_model is not None:
            return _Asked(reward=self.holdings.rewards.served(chunk.reward_model))
        directions = [self.holdings.directions.get(ref) for ref in chunk.directions]
        variants = [self.holdings.directions.variant(direction) for direction in directions]
        if chunk.judging is None:
            return _Asked(directions, variants)
        return _Asked(directions, variants, PairJudge.of(chunk, chunk.judging, self.annotator, self.holdings, manner))

    def _keys(self, chunk: Chunk, asked: _Asked) -> list[list[bytes]]:
        """Where each item's scores are kept; nothing is kept of what the rules or taught models say, or of tokens."""
        if self.cache is None or chunk.contributions or asked.judge is not None or asked.contrast is not None:
            return []
        return [self.cache.keys(item.messages, responses_of(item), asked.scored) for item in chunk.items]

    def _known(self, chunk: Chunk, asked: _Asked, keys: Sequence[Sequence[bytes]]) -> list[Entry | None]:
        """Entries of the items whose every score is in the cache; None where one is not."""
        if self.cache is None or not keys:
            return [None] * len(chunk.items)
        found = iter(self.cache.get([key for own in keys for key in own]))
        entries: list[Entry | None] = []
        for item, own in zip(chunk.items, keys, strict=True):
            scores = [score for score in (next(found) for _ in own) if score is not None]
            complete = len(scores) == len(own)
            again = ItemReading.again(scores, len(asked.scored)) if complete else None
            entries.append(entry(item, again, asked.scales) if again else None)
            self.metrics.cached.labels("hit" if complete else "miss").inc()
        return entries

    def _read(
        self, items: Sequence[Item], asked: _Asked, truncate: bool, manner: Manner
    ) -> list[ItemReading | PairRefused]:
        """What is read of every item in one forward pass, and judged of it; the reason instead where it cannot be."""
        if asked.contrast is not None:
            self.batcher.appetite.brought(0)  # no pass waits for this chunk: others may bring what the stage can read
            return asked.contrast.readings([item for item in items if isinstance(item, Pair)])
        with self.metrics.tokenise.time():
            encoded = [self._encode(item, asked, truncate) for item in items]
        groups = [group for group in encoded if isinstance(group, Group)]
        scores = iter(self._scores(groups, asked.scorers, manner))
        readings: list[ItemReading | PairRefused] = []
        for group in encoded:
            outcome = next(scores) if isinstance(group, Group) else group
            if isinstance(group, Group) and isinstance(outcome, tuple):
                readings.append(ItemReading.of(group, outcome, len(asked.scored)))
            elif isinstance(outcome, PairRefused):
                readings.append(outcome)
        return readings if asked.judge is None else _judged(items, readings, asked.judge)

    def _scores(
        self, groups: Sequence[Group], scorers: Sequence[tuple[Scorer, Variant | None]], manner: Manner
    ) -> list[Scores | PairRefused]:
        """What all scorers make of each group, each model's from one forward pass."""
        if not scorers:
            return self.batcher.score(groups, (), urgent=manner.urgent)
        by_model: dict[str | None, list[int]] = {}
        for place, (_, variant) in enumerate(scorers):
            by_model.setdefault(variant.revision if variant else None, []).append(place)
        parts = []
        for places in by_model.values():
            own, (_, variant) = [scorers[place][0] for place in places], scorers[places[0]]
            parts.append((places, self.batcher.score(groups, own, variant=variant, urgent=manner.urgent)))
        return [_together([(places, outcomes[i]) for places, outcomes in parts]) for i in range(len(groups))]

    def _answered(self, chunk: Chunk, entries: list[Entry], asked: _Asked) -> ChunkAnswer:
        return ChunkAnswer(entries=entries, lines=chunk.lines, provenance=self._provenance(asked))

    def _provenance(self, asked: _Asked) -> Provenance:
        """What makes the numbers: the first direction, or what is asked where there is none."""
        if asked.contrast is not None:
            return self._of_taught(asked.contrast.alignment.card)
        if asked.reward is not None:
            return self._of_reward(asked.reward.card)
        judge = asked.judge
        rules = judge.judge.provenance if judge else None
        if not asked.directions and judge:
            return self._made(
                [site for scorer in judge.scorers for site in scorer.reads],
                calibrated=judge.judge.provenance.calibrated,
                unreliable=judge.judge.unreliable,
            ).model_copy(update={"method": "rules", "rules": rules})
        main, *others = [self._of_direction(direction) for direction in asked.directions]
        return main.model_copy(update={"others": others or None, "rules": rules})

    def _of_direction(self, direction: SafetyDirection) -> Provenance:
        card = direction.card
        made = self._made(direction.sites, calibrated=card.slope is not None, unreliable=card.unreliable)
        read = {"model_revision": card.model_revision, "alignment": card.alignment}
        return made.model_copy(update=read | {"direction": direction.id, "direction_digest": card.digest})

    def _of_taught(self, card: AlignmentCard) -> Provenance:
        """Of what a taught model says itself, after its last layer."""
        made = self._made((), calibrated=card.slope is not None, unreliable=card.unreliable)
        read = {"model_revision": card.taught_revisions[0], "alignment": Ref(id=card.id, digest=card.digest)}
        return made.model_copy(update=read | {"method": "rahf"})

    def _of_reward(self, card: RewardCard) -> Provenance:
        """Of a reward model, by what it was made of."""
        made = self._made((), calibrated=card.calibrated, unreliable=card.unreliable)
        base = {"model": card.model, "model_revision": card.model_revision, "template": card.template}
        read = {"method": "reward", "reward_model": Ref(id=card.id, digest=card.digest)}
        return made.model_copy(update=base | read)

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

    def _encode(self, item: Item, asked: _Asked, truncate: bool) -> Group | PairRefused:
        try:
            if isinstance(item, Query):
                assert asked.reward is not None
                return asked.reward.whole(item.text, item.prompt, truncate=truncate)
            if asked.reward is not None:
                return asked.reward.group(item.messages, responses_of(item), truncate=truncate)
            return self.annotator.template.encode(item.messages, responses_of(item), truncate=truncate)
        except PairRefused as refusal:
            return refusal


def _together(parts: Sequence[tuple[list[int], Scores | PairRefused]]) -> Scores | PairRefused:
    """A group's scores in the order of the scorers, from those of each model; a refusal of one is one of all."""
    refused = [outcome for _, outcome in parts if isinstance(outcome, PairRefused)]
    if refused:
        return refused[0]
    found = {
        place: scores
        for places, outcome in parts
        if isinstance(outcome, tuple)
        for place, scores in zip(places, outcome, strict=True)
    }
    return tuple(found[place] for place in sorted(found))


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
