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
from workers.engine.sites import Site
from workers.rules.bank import RuleBank
from workers.rules.errors import UnfitExamples
from workers.rules.logits import LogitRater
from workers.rules.rating import Answered, Ratings
from workers.rules.selection import Choice, Evidence, Policy, choose

Progress = Callable[[int, int], None]

FEWEST_PAIRS = 40
_AT_ONCE = 16


@dataclass(frozen=True)
class Lessons:
    """P pairs as a rater of R rules sees them; `activations` are float32 in a temporary file.

    Attributes:
        pairs: those that could be read.
        families: [P] pairs of one prompt are of one family, which is on one side of every split.
        scores: [P, 2, R] of the chosen and of the rejected response.
        relevance: [P, R].
        activations: [P, 2, S, d] at the places asked for; S is zero where none were.
        noise, correlation: of the rater, as `Evidence` has them.
        skipped: pairs that the annotator cannot read.
    """

    pairs: Sequence[Pair]
    families: Tensor
    scores: Tensor
    relevance: Tensor
    activations: Tensor
    noise: Tensor | None
    correlation: Tensor | None
    skipped: int

    def __len__(self) -> int:
        return len(self.pairs)

    @property
    def differences(self) -> Tensor:
        """[P, R] score of the chosen response minus that of the rejected one."""
        return self.scores[:, 0] - self.scores[:, 1]

    def critical(self, policy: Policy, likely: Tensor | None = None) -> Choice:
        """The critical rules of every pair by a policy; `likely` [P, R] is for the policy `adapter`."""
        return choose(policy, Evidence(self.differences, self.relevance, self.noise, self.correlation, likely=likely))

    def at(self, places: Tensor) -> "Lessons":
        """Some of the pairs."""
        return replace(
            self,
            pairs=[self.pairs[place] for place in places.tolist()],
            families=self.families[places],
            scores=self.scores[places],
            relevance=self.relevance[places],
            activations=self.activations[places],
        )


def gather(
    annotator: Annotator,
    rater: RuleBank | LogitRater,
    pairs: Sequence[Pair],
    sites: Sequence[Site] = (),
    progress: Progress = lambda _done, _total: None,
) -> Lessons:
    """Let a rater rate both responses of every pair, and read them at `sites`.

    A bank rates in the pass that reads.

    Raises:
        UnfitExamples: fewer than `FEWEST_PAIRS` can be read.
    """
    encoded, steps = [_encode(annotator, pair) for pair in pairs], len(pairs) * (1 + isinstance(rater, LogitRater))
    rated: dict[int, Ratings] = {}
    activations = spool((len(pairs) if sites else 0, 2, len(sites), annotator.width))
    if isinstance(rater, LogitRater):
        for start in range(0, len(pairs), _AT_ONCE):
            found = rater.rate([Answered(p.messages, (p.chosen, p.rejected)) for p in pairs[start : start + _AT_ONCE]])
            rated |= {start + i: ratings for i, ratings in enumerate(found) if isinstance(ratings, Ratings)}
            progress(min(start + _AT_ONCE, len(pairs)), steps)
    wanted = list(dict.fromkeys([*(rater.reads if isinstance(rater, RuleBank) else ()), *sites]))
    readable = [i for i, group in enumerate(encoded) if group is not None]
    groups = [group for group in encoded if group is not None]
    own = [wanted.index(site) for site in sites]
    before = steps - len(pairs)
    for index, reading in read_each(annotator, groups, wanted, lambda n: progress(before + n, steps)) if wanted else ():
        place = readable[index]
        if sites:
            activations[place] = reading[:, own]
        if isinstance(rater, RuleBank):
            rated[place] = rater.ratings(reading[:, : len(rater.reads)])
    kept = torch.tensor([i for i in readable if i in rated and bool(torch.isfinite(activations[i : i + 1]).all())])
    if len(kept) < FEWEST_PAIRS:
        raise UnfitExamples(f"{len(kept)} pairs are too few to teach a rule adapter; at least {FEWEST_PAIRS} are needed")
    return _lessons([pairs[i] for i in kept.tolist()], kept, rated, activations, rater, len(pairs) - len(kept))


def _lessons(
    pairs: list[Pair],
    kept: Tensor,
    rated: dict[int, Ratings],
    activations: Tensor,
    rater: RuleBank | LogitRater,
    skipped: int,
) -> Lessons:
    numbers: dict[str, int] = {}
    ratings = [rated[i] for i in kept.tolist()]
    bank = rater if isinstance(rater, RuleBank) else None
    return Lessons(
        pairs=pairs,
        families=torch.tensor([numbers.setdefault(opening(pair.messages), len(numbers)) for pair in pairs]),
        scores=torch.stack([one.scores for one in ratings]).double(),
        relevance=torch.stack([one.relevance for one in ratings]).double(),
        activations=activations[kept] if len(activations) else torch.zeros(len(kept), 2, 0, activations.shape[-1]),
        noise=bank.noise.double() if bank else None,
        correlation=bank.correlation.double() if bank else None,
        skipped=skipped,
    )


def _encode(annotator: Annotator, pair: Pair):  # type: ignore[no-untyped-def]
    try:
        return annotator.template.encode(pair.messages, (pair.chosen, pair.rejected))
    except PairRefused:
        return None
