"""What a rule adapter is taught with: pairs, what a rater says of them, and which rules are critical by that."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from app.schemas.pairs import Pair
from workers.directions.gather import opening
from workers.directions.rows import spool
from workers.engine.annotator import Annotator
from workers.engine.errors import PairRefused
from workers.engine.forward import read_each
from workers.engine.packing import Group
from workers.engine.sites import Site
from workers.rules.bank import RuleBank, ratings_of
from workers.rules.errors import UnfitExamples
from workers.rules.logits import LogitRater
from workers.rules.rating import Answered, Ratings
from workers.rules.selection import Choice, Evidence, Policy, choose, spoken_of

Progress = Callable[[int, int], None]

FEWEST_PAIRS = 40
_ENCODED = 1024


@dataclass(frozen=True)
class Lessons:
    """P pairs as a rater of R rules sees them.

    Attributes:
        pairs: those that could be read.
        families: [P] pairs of one prompt are of one family, which is on one side of every split.
        scores: [P, 2, R] of the chosen and of the rejected response.
        relevance: [P, R].
        activations: [N, 2, S, d] float32 at the places asked for, in a file; S is zero where none were.
        members: [P] which of them are the pairs'.
        noise, correlation, used: of the rater, as `Evidence` has them.
        skipped: pairs that the annotator cannot read.
    """

    pairs: Sequence[Pair]
    families: Tensor
    scores: Tensor
    relevance: Tensor
    activations: Tensor
    members: Tensor
    noise: Tensor | None = None
    correlation: Tensor | None = None
    used: Tensor | None = None
    skipped: int = 0

    def __len__(self) -> int:
        return len(self.pairs)

    @property
    def differences(self) -> Tensor:
        """[P, R] score of the chosen response minus that of the rejected one."""
        return self.scores[:, 0] - self.scores[:, 1]

    def critical(self, policy: Policy, likely: Tensor | None = None) -> Choice:
        """The critical rules of every pair by a policy; `likely` [P, R] is for the policy `adapter`."""
        known = (self.differences, self.relevance, self.noise, self.correlation)
        return choose(policy, Evidence(*known, likely=likely, used=self.used))

    def margins(self, choice: Choice) -> Tensor:
        """[P] raw margins by some rules, zero where none is relevant, as verdicts have it."""
        return choice.margins(self.differences) * spoken_of(self.relevance)

    def at(self, places: Tensor) -> "Lessons":
        """Some of the pairs."""
        return replace(
            self,
            pairs=[self.pairs[place] for place in places.tolist()],
            families=self.families[places],
            scores=self.scores[places],
            relevance=self.relevance[places],
            members=self.members[places],
        )

    def turned(self) -> "Lessons":
        """The same pairs with their sides exchanged; of a few, for their activations are copied."""
        return replace(
            self,
            pairs=[pair.model_copy(update={"chosen": pair.rejected, "rejected": pair.chosen}) for pair in self.pairs],
            scores=self.scores.flip(1),
            activations=self.activations[self.members].flip(1),
            members=torch.arange(len(self)),
        )


def gather(
    annotator: Annotator,
    rater: RuleBank | LogitRater,
    pairs: Sequence[Pair],
    sites: Sequence[Site] = (),
    progress: Progress = lambda _done, _total: None,
) -> Lessons:
    """Let a rater rate both responses of every pair, and read them at `sites`; a bank rates in the pass that reads.

    Raises:
        UnfitExamples: fewer than `FEWEST_PAIRS` can be read.
    """
    steps = len(pairs) * (2 if isinstance(rater, LogitRater) and sites else 1)
    ratings: dict[int, Ratings] = {}
    if isinstance(rater, LogitRater):
        ratings = _asked(rater, pairs, lambda done: progress(done, steps))
    before = len(pairs) if ratings else 0
    activations = _read(annotator, rater, pairs, sites, ratings, lambda done: progress(before + done, steps))
    kept = [place for place in sorted(ratings) if torch.isfinite(activations[place]).all()]
    if len(kept) < FEWEST_PAIRS:
        raise UnfitExamples(
            f"{len(kept)} pairs are too few to teach a rule adapter; at least {FEWEST_PAIRS} are needed"
        )
    numbers: dict[str, int] = {}
    bank = rater if isinstance(rater, RuleBank) else None
    return Lessons(
        pairs=[pairs[place] for place in kept],
        families=torch.tensor([numbers.setdefault(opening(pairs[place].messages), len(numbers)) for place in kept]),
        scores=torch.stack([ratings[place].scores for place in kept]).double(),
        relevance=torch.stack([ratings[place].relevance for place in kept]).double(),
        activations=activations,
        members=torch.tensor(kept),
        noise=bank.noise.double() if bank else None,
        correlation=bank.correlation.double() if bank else None,
        used=bank.used if bank else None,
        skipped=len(pairs) - len(kept),
    )


def _asked(rater: LogitRater, pairs: Sequence[Pair], progress: Callable[[int], None]) -> dict[int, Ratings]:
    """Ratings by place of the pairs that can be asked about."""
    ratings: dict[int, Ratings] = {}
    for place, pair in enumerate(pairs):  # one by one: a pair is asked about every rule, which takes seconds
        (found,) = rater.rate([Answered(pair.messages, (pair.chosen, pair.rejected))])
        if isinstance(found, Ratings):
            ratings[place] = found
        progress(place + 1)
    return ratings


def _read(
    annotator: Annotator,
    rater: RuleBank | LogitRater,
    pairs: Sequence[Pair],
    sites: Sequence[Site],
    ratings: dict[int, Ratings],
    progress: Callable[[int], None],
) -> Tensor:
    """[P, 2, S, d] activations at `sites`; a bank's ratings are put among the others, of unreadable pairs taken out."""
    activations = spool((len(pairs), 2, len(sites), annotator.width))
    wanted = list(dict.fromkeys([*(rater.reads if isinstance(rater, RuleBank) else ()), *sites]))
    if not wanted:
        return activations
    own = [wanted.index(site) for site in sites]
    for start in range(0, len(pairs), _ENCODED):
        stop = min(start + _ENCODED, len(pairs))
        encoded = {place: _encode(annotator, pairs[place]) for place in range(start, stop)}
        groups = {place: group for place, group in encoded.items() if group is not None}
        places = list(groups)
        for place in encoded.keys() - groups.keys():
            ratings.pop(place, None)
        for done, (index, reading) in enumerate(read_each(annotator, list(groups.values()), wanted), start + 1):
            activations[places[index]] = reading[:, own]
            if isinstance(rater, RuleBank):
                scores = rater.scores(reading[:, : len(rater.reads)])
                if torch.isfinite(scores).all():
                    ratings[places[index]] = ratings_of(scores)
            progress(done)
        progress(stop)
    return activations


def _encode(annotator: Annotator, pair: Pair) -> Group | None:
    try:
        return annotator.template.encode(pair.messages, (pair.chosen, pair.rejected))
    except PairRefused:
        return None
