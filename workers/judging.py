"""How a worker asks the rules about pairs: by probes in the shared pass, or by the annotator's answers."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from app.schemas.chunk import Judging, Reading
from app.schemas.pairs import Pair
from workers.engine.annotator import Annotator
from workers.engine.errors import NotFinite, PairRefused, TooLong, refusal_of
from workers.pending import Scorer, Scores
from workers.registry import Holdings
from workers.rules.adapting.adapter import HeadAdapter, RuleAdapter
from workers.rules.adapting.classifier import Classifier
from workers.rules.bank import ratings_of
from workers.rules.judge import Judge, Judgement
from workers.rules.logits import LogitRater
from workers.rules.rating import Answered, Ratings
from workers.rules.selection import top
from workers.turns import ASKING, Manner


@dataclass(frozen=True)
class PairJudge:
    """Judges the pairs of a chunk.

    Attributes:
        judge: makes judgements of ratings.
        holdings: where banks and adapters are.
        annotator: who is asked, for the rater `logits`.
        adapter: says which rules are critical, for the policy `adapter`.
        truncate: whether prompts that do not fit are cut.
        optional: whether a pair that cannot be asked about has a margin all the same.
        manner: how the chunk is worked on.
    """

    judge: Judge
    holdings: Holdings
    annotator: Annotator
    adapter: RuleAdapter | None
    truncate: bool
    optional: bool
    manner: Manner

    @classmethod
    def of(
        cls, reading: Reading, judging: Judging, annotator: Annotator, holdings: Holdings, manner: Manner
    ) -> "PairJudge":
        """As a chunk asks for.

        Raises:
            NotHeld: pool, bank or adapter is not to be had.
        """
        pool = holdings.pools.get(judging.pool)
        bank = holdings.banks.get(judging.bank) if judging.bank else None
        adapter = holdings.adapters.get(judging.adapter) if judging.adapter else None
        judge = Judge(judging, pool, bank, adapter.card if adapter else None)
        return cls(judge, holdings, annotator, adapter, reading.truncate, reading.method == "margin", manner)

    @property
    def scorers(self) -> tuple[Scorer, ...]:
        """What it needs from the pass that reads the pairs: of the bank first, of an adapter's head last."""
        head = self.adapter if isinstance(self.adapter, HeadAdapter) else None
        return tuple(scorer for scorer in (self.judge.bank, head) if scorer is not None)

    def judgements(self, pairs: Sequence[Pair], scores: Sequence[Scores]) -> list[Judgement | PairRefused]:
        """A judgement of every pair; the reason instead where it could not be asked about.

        Args:
            pairs: P of them.
            scores: of each, what the `scorers` made of its two responses.

        Raises:
            CannotAsk: the annotator has no words to answer with.
        """
        if not pairs:
            return []
        likely = self._likely(pairs, scores)
        rated = self._rated(pairs, scores, likely)
        fine = [place for place, ratings in enumerate(rated) if isinstance(ratings, Ratings)]
        ratings = [ratings for ratings in rated if isinstance(ratings, Ratings)]
        known = [own for own in (likely[place] for place in fine) if isinstance(own, Tensor)]
        some = torch.stack(known) if known else None
        found = iter(self.judge.judge([pairs[place] for place in fine], ratings, some))
        return [next(found) if isinstance(one, Ratings) else self._unrated(one) for one in rated]

    def _unrated(self, refusal: PairRefused) -> Judgement | PairRefused:
        """The question about a pair is longer than the pair, whose margin does not depend on it."""
        return Judgement.unasked() if self.optional and isinstance(refusal, TooLong) else refusal

    def _likely(self, pairs: Sequence[Pair], scores: Sequence[Scores]) -> list[Tensor | PairRefused | None]:
        """[R] what the adapter says of each pair; the reason instead where it fails, None without an adapter."""
        if self.adapter is None:
            return [None] * len(pairs)
        if isinstance(self.adapter, HeadAdapter):
            return list(self.adapter.likely(torch.stack([own[-1] for own in scores])))
        classifier = self.holdings.adapters.classifier(self.adapter)
        found: list[Tensor | PairRefused | None] = []
        for pair in pairs:
            self.manner.go_on()
            with ASKING.turn(urgent=self.manner.urgent):
                found.append(_classified(classifier, pair))
        return found

    def _rated(
        self, pairs: Sequence[Pair], scores: Sequence[Scores], likely: Sequence[Tensor | PairRefused | None]
    ) -> list[Ratings | PairRefused]:
        """Ratings by all rules; by those alone that can be critical where that is known and rating is dear."""
        if self.judge.bank:
            rated: list[Ratings | PairRefused] = [ratings_of(own[0]) for own in scores]
            return [own if isinstance(own, PairRefused) else one for one, own in zip(rated, likely, strict=True)]
        rater = LogitRater(self.annotator, [rule.text for rule in self.judge.pool.ordered])
        return [self._asked(rater, pair, own) for pair, own in zip(pairs, likely, strict=True)]

    def _asked(self, rater: LogitRater, pair: Pair, likely: Tensor | PairRefused | None) -> Ratings | PairRefused:
        if isinstance(likely, PairRefused):
            return likely
        rules = [self.judge.fixed] if self.judge.fixed else None
        if likely is not None:
            rules = top(likely[None], self.judge.judging.k).tolist()
        self.manner.go_on()
        with ASKING.turn(urgent=self.manner.urgent):
            item = Answered(pair.messages, [pair.chosen, pair.rejected])
            return rater.rate([item], truncate=self.truncate, rules=rules)[0]


def _classified(classifier: Classifier, pair: Pair) -> Tensor | PairRefused:
    """[R] what a classifier says of one pair, which fails alone."""
    try:
        (likely,) = classifier.likely([pair])
    except Exception as error:
        return refusal_of(error)
    return likely if torch.isfinite(likely).all() else NotFinite("the rule adapter's numbers are not finite")
