"""From what was read of an item to its entry in an answer."""

from collections.abc import Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import Protocol

from app.schemas.annotate import Annotation, FailedAnnotation, Margin, PairProblem, Raw, Tokens
from app.schemas.contributions import PairContributions, TokenShare
from app.schemas.pairs import Pair
from app.schemas.rewarding import Query, Rewarded
from app.schemas.score import Candidates, Ranking, Score, ScoredCandidates
from workers.directions.direction import logistic
from workers.engine.errors import PairRefused
from workers.engine.packing import Group
from workers.pending import Scores
from workers.rules.judge import Judgement
from workers.score_cache import Known

Item = Pair | Candidates | Query
Entry = Annotation | ScoredCandidates | Rewarded | FailedAnnotation


class Scale(Protocol):
    """What scores are on: that of a safety direction, of a taught model or of a reward model."""

    @property
    def id(self) -> str:
        """What it is called."""

    def calibrate(self, raw_margin: float) -> float:
        """Log-odds of a raw margin; the raw margin where uncalibrated."""

    def level(self, margin: float) -> int | None:
        """The margin in steps, if there are any."""


@dataclass(frozen=True, slots=True)
class Shares:
    """What every token of an item contributes.

    Attributes:
        texts: [K][t] what each stands for; None is the end of the turn.
        raw: [D][K][t] raw contributions on D scales.
    """

    texts: Sequence[Sequence[str | None]]
    raw: Sequence[Sequence[Sequence[float]]]

    def on(self, scale: int) -> list[list[tuple[str | None, float]]]:
        """Of every response, its tokens with what each contributes on one scale."""
        return [list(zip(*own, strict=True)) for own in zip(self.texts, self.raw[scale], strict=True)]


@dataclass(frozen=True, slots=True)
class ItemReading:
    """What was read of one item.

    Attributes:
        scores: [D][K] raw scores of its K responses on D scales; of a query, of itself.
        prompt: tokens of the prompt.
        responses: [K] tokens of each response.
        truncated: whether the prompt was cut.
        rest: what the scorers after the directions made of the responses.
        judgement: what the rules say of it, where they are asked.
        shares: what every token contributes, where that is asked.
    """

    scores: Sequence[Sequence[float]]
    prompt: int
    responses: Sequence[int]
    truncated: bool
    rest: Scores = ()
    judgement: Judgement | None = None
    shares: Shares | None = None

    @classmethod
    def of(cls, group: Group, scores: Scores, directions: int) -> "ItemReading":
        """From the forward pass; the first scores are those of so many directions."""
        projected = [own.tolist() for own in scores[:directions]]
        counts = [branch.content for branch in group.branches]
        return cls(projected, group.prompt, counts, group.truncated, rest=scores[directions:])

    @classmethod
    def again(cls, known: Sequence[Known], directions: int) -> "ItemReading":
        """From the [D · K] scores that `known` gave."""
        count = len(known) // directions
        scores = [[score.raw for score in known[start : start + count]] for start in range(0, len(known), count)]
        return cls(scores, known[0].prompt_tokens, [score.tokens for score in known[:count]], truncated=False)

    def known(self) -> list[Known]:
        """[D · K] scores to remember."""
        return [
            Known(raw, tokens, self.prompt)
            for own in self.scores
            for raw, tokens in zip(own, self.responses, strict=True)
        ]


def responses_of(item: Item) -> list[str]:
    """The responses to read of an item."""
    if isinstance(item, Query):
        return [item.text]
    return [item.chosen, item.rejected] if isinstance(item, Pair) else item.responses


def entry(item: Item, reading: ItemReading, scales: Sequence[Scale]) -> Annotation | ScoredCandidates | Rewarded:
    """What to answer for an item that was read; the first scale is the main one, or else the rules' is."""
    counts = reading.responses
    if isinstance(item, Query):
        return Rewarded(id=item.id, reward=reading.scores[0][0], truncated=reading.truncated)
    names = [scale.id for scale in scales]
    both = list(zip(reading.scores, scales, strict=True))
    if isinstance(item, Pair):
        margins = [_margin(own, scale, reading.shares, i) for i, (own, scale) in enumerate(both)]
        said = reading.judgement
        main = margins[0] if margins or said is None else _of_rules(said)
        return Annotation(
            **dict(main),
            id=item.id or "",
            truncated=reading.truncated,
            tokens=Tokens(prompt=reading.prompt, chosen=counts[0], rejected=counts[1]),
            directions=dict(zip(names, margins, strict=True)) if len(margins) > 1 else None,
            rules=said.verdict if said else None,
        )
    rankings = [_ranking(own, scale, counts, reading.shares, i) for i, (own, scale) in enumerate(both)]
    return ScoredCandidates(
        **dict(rankings[0]),
        id=item.id or "",
        truncated=reading.truncated,
        directions=dict(zip(names, rankings, strict=True)) if len(rankings) > 1 else None,
    )


def _margin(scores: Sequence[float], scale: Scale, shares: Shares | None, place: int) -> Margin:
    chosen, rejected = scores
    raw = Raw(margin=chosen - rejected, chosen=chosen, rejected=rejected)
    margin = scale.calibrate(raw.margin)
    return Margin(
        margin=margin,
        probability=logistic(margin),
        level=scale.level(margin),
        label_conflict=margin < 0,
        raw=raw,
        contributions=_of_pair(shares, scale, place) if shares else None,
    )


def _of_pair(shares: Shares, scale: Scale, place: int) -> PairContributions:
    chosen, rejected = (_tokens(own, scale) for own in shares.on(place))
    return PairContributions(chosen=chosen, rejected=rejected)


def _tokens(shares: Sequence[tuple[str | None, float]], scale: Scale) -> list[TokenShare]:
    """In the unit of the margin: a scale is linear."""
    return [TokenShare(text=text, contribution=scale.calibrate(raw)) for text, raw in shares]


def _of_rules(said: Judgement) -> Margin:
    verdict = said.verdict
    return Margin(
        margin=verdict.margin,
        probability=logistic(verdict.margin),
        level=said.level,
        label_conflict=verdict.preferred == "rejected",
        raw=said.raw,
    )


def _ranking(
    scores: Sequence[float], scale: Scale, tokens: Sequence[int], shares: Shares | None, place: int
) -> Ranking:
    order = sorted(range(len(scores)), key=lambda i: (-scores[i], i))
    rank = [1 + sum(other > own for other in scores) for own in scores]
    said = [_tokens(own, scale) for own in shares.on(place)] if shares else [None] * len(scores)
    listed = [
        Score(index=i, rank=rank[i], score=scale.calibrate(raw), raw=raw, tokens=tokens[i], contributions=said[i])
        for i, raw in enumerate(scores)
    ]
    return Ranking(scores=listed, order=order)


def failure(item: Item, refusal: PairRefused) -> FailedAnnotation:
    """What to answer for an item that cannot be read."""
    problem = PairProblem(
        status=HTTPStatus.UNPROCESSABLE_ENTITY, code=refusal.code, detail=refusal.detail, counts=refusal.counts
    )
    return FailedAnnotation(id=item.id or "", error=problem)
