"""How a worker asks the rules about pairs: by probes in the shared pass, or by the annotator's answers."""

import threading
from collections.abc import Sequence
from dataclasses import dataclass

from app.schemas.chunk import Judging
from app.schemas.pairs import Pair
from workers.batcher import Scorer, Scores
from workers.engine.annotator import Annotator
from workers.engine.errors import PairRefused
from workers.registry import Holdings
from workers.rules.bank import ratings_of
from workers.rules.judge import Judge, Judgement
from workers.rules.logits import LogitRater
from workers.rules.rating import Answered, Ratings

_asking = threading.Lock()
"""Held while the annotator is asked, which keeps every core busy: one chunk at a time, beside what others read."""


@dataclass(frozen=True)
class PairJudge:
    """Judges the pairs of a chunk.

    Attributes:
        judge: makes judgements of ratings.
        annotator: who is asked, for the rater `logits`.
        truncate: whether prompts that do not fit are cut.
    """

    judge: Judge
    annotator: Annotator
    truncate: bool

    @classmethod
    def of(cls, judging: Judging, annotator: Annotator, holdings: Holdings, *, truncate: bool) -> "PairJudge":
        """As a chunk asks for.

        Raises:
            NotHeld: pool or bank is not to be had.
        """
        pool = holdings.pools.get(judging.pool)
        bank = holdings.banks.get(judging.bank) if judging.bank else None
        return cls(Judge(judging, pool, bank), annotator, truncate)

    @property
    def scorers(self) -> tuple[Scorer, ...]:
        """What it needs from the pass that reads the pairs."""
        return (self.judge.bank,) if self.judge.bank else ()

    def judgements(self, pairs: Sequence[Pair], scores: Sequence[Scores]) -> list[Judgement | PairRefused]:
        """A judgement of every pair; the reason instead where it could not be asked about.

        Args:
            pairs: P of them.
            scores: of each, what the `scorers` made of its two responses.

        Raises:
            CannotAsk: the annotator has no words to answer with.
        """
        rated = self._rated(pairs, scores)
        fine = [place for place, ratings in enumerate(rated) if isinstance(ratings, Ratings)]
        ratings = [ratings for ratings in rated if isinstance(ratings, Ratings)]
        found = iter(self.judge.judge([pairs[place] for place in fine], ratings, None))
        return [one if isinstance(one, PairRefused) else next(found) for one in rated]

    def _rated(self, pairs: Sequence[Pair], scores: Sequence[Scores]) -> list[Ratings | PairRefused]:
        if self.judge.bank:
            return [ratings_of(own[0]) for own in scores]
        rater = LogitRater(self.annotator, [rule.text for rule in self.judge.pool.ordered])
        items = [Answered(pair.messages, [pair.chosen, pair.rejected]) for pair in pairs]
        with _asking:
            return rater.rate(items, truncate=self.truncate)
