"""Labelled pairs through raters, and what every policy makes of the ratings."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from app import __version__
from app.schemas.evaluation import PolicyReport
from app.schemas.judging import PolicyName, RaterName
from app.schemas.pairs import Pair
from app.schemas.rules import RulePool
from workers.directions.balance import balance
from workers.directions.gather import opening
from workers.engine.annotator import Annotator
from workers.rules.bank import ProbeRater, RuleBank, sealed
from workers.rules.errors import UnfitPairs
from workers.rules.evaluating import PROTOCOL, Contrast, RatedPairs, evaluate, readings_of
from workers.rules.judge import seed_of
from workers.rules.logits import LogitRater
from workers.rules.rating import Answered, Rater, Ratings

Progress = Callable[[int, int], None]

_AT_ONCE = 64
_SEED = 0


@dataclass(frozen=True)
class Raters:
    """Who rates, and by what.

    Attributes:
        annotator: whose activations are read, or who is asked.
        pool_id: what the pool is called.
        pool: the rules.
        bank: the probes; None where they do not rate.
    """

    annotator: Annotator
    pool_id: str
    pool: RulePool
    bank: RuleBank | None

    def rater(self, name: RaterName) -> Rater:
        """A rater by its name.

        Raises:
            CannotAsk: the annotator has no words to answer `logits` with.
            ValueError: `probes` are asked for, and there is no bank.
        """
        if name == "logits":
            return LogitRater(self.annotator, [rule.text for rule in self.pool.ordered])
        if self.bank is None:
            raise ValueError("the rater `probes` needs a bank")
        return ProbeRater(self.annotator, self.bank)

    def rate(self, name: RaterName, pairs: Sequence[Pair], progress: Progress) -> tuple[RatedPairs, Tensor]:
        """The pairs that a rater can read, as `rate_pairs` has it, with what only a bank knows of its scores."""
        rated, places = rate_pairs(self.rater(name), pairs, progress)
        if name == "probes" and self.bank is not None:
            noise, correlation = self.bank.noise.double(), self.bank.correlation.double()
            rated = replace(rated, noise=noise, correlation=correlation, used=self.bank.used)
        return rated, places


def measure(
    raters: Raters,
    names: Sequence[RaterName],
    policies: Sequence[PolicyName],
    ks: Sequence[int],
    *,
    pairs: Sequence[Pair],
    data: str,
    contrast: Sequence[int] = (),
    progress: Progress = lambda _done, _total: None,
) -> PolicyReport:
    """How every policy reads labelled pairs at every k by every rater.

    Args:
        raters: who rates.
        names: which of them, in this order.
        policies: which of `EVALUATED`.
        ks: how many critical rules.
        pairs: the labelled pairs.
        data: what they are called.
        contrast: places of the pairs of the balance set to measure on as well.
        progress: told how many pairs are rated, a rater and a set at a time.

    Raises:
        UnfitPairs: too few can be read.
        CannotAsk: the annotator has no words to answer `logits` with.
    """
    figures, read = [], {}
    for rater in names:
        rated, places = raters.rate(rater, pairs, progress)
        read[rater] = len(places)
        other = _contrast(raters, rater, contrast, progress) if contrast else None
        figures += evaluate(rated, policies, ks, rater, other)
    return PolicyReport(
        data=data,
        pairs=read,
        skipped={rater: len(pairs) - count for rater, count in read.items()},
        pool=raters.pool_id,
        pool_digest=raters.pool.digest,
        model=raters.annotator.name,
        model_revision=raters.annotator.revision,
        bank=raters.bank.id if raters.bank else None,
        bank_digest=raters.bank.card.digest if raters.bank else None,
        protocol=PROTOCOL,
        figures=figures,
        version=__version__,
    )


def calibrated(bank: RuleBank, report: PolicyReport) -> RuleBank:
    """The bank with the readings of a report; of a policy and k that were not measured it keeps those it had."""
    own = [figure for figure in report.figures if figure.rater == "probes"]
    readings = readings_of(own, f"{report.data}, {report.pairs['probes']} pairs")
    measured = {(figure.policy, figure.k) for figure in own}
    kept = [reading for reading in bank.card.readings if (reading.policy, reading.k) not in measured]
    return sealed(replace(bank, card=bank.card.model_copy(update={"readings": [*kept, *readings]})))


def balance_sample(count: int | None) -> list[int]:
    """Places of `count` pairs of the balance set drawn evenly, the same ones every time; all of them for None."""
    everything = len(balance().pairs)
    order = torch.randperm(everything, generator=torch.Generator().manual_seed(_SEED))
    return sorted(order[: everything if count is None else count].tolist())


def rate_pairs(rater: Rater, pairs: Sequence[Pair], progress: Progress) -> tuple[RatedPairs, Tensor]:
    """The pairs that a rater can read, and their [m] places among those given.

    Raises:
        UnfitPairs: none can be read.
    """
    found: list[Ratings] = []
    places: list[int] = []
    for start in range(0, len(pairs), _AT_ONCE):
        some = pairs[start : start + _AT_ONCE]
        items = [Answered(pair.messages, [pair.chosen, pair.rejected]) for pair in some]
        for place, ratings in enumerate(rater.rate(items), start):
            if isinstance(ratings, Ratings):
                found.append(ratings)
                places.append(place)
        progress(start + len(some), len(pairs))
    if not found:
        raise UnfitPairs(f"none of {len(pairs)} pairs can be read")
    numbers: dict[str, int] = {}
    families = [numbers.setdefault(opening(pairs[place].messages), len(numbers)) for place in places]
    rated = RatedPairs(
        torch.stack([ratings.scores for ratings in found]).double(),
        torch.stack([ratings.relevance for ratings in found]).double(),
        torch.tensor(families),
        torch.tensor([seed_of(pairs[place]) for place in places]),
    )
    return rated, torch.tensor(places)


def _contrast(raters: Raters, rater: RaterName, wanted: Sequence[int], progress: Progress) -> Contrast:
    rated, places = raters.rate(rater, [balance().pairs[place] for place in wanted], progress)
    return Contrast(rated, torch.tensor(wanted)[places])
