"""Making a bank: examples in, probes with their held-out figures out."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import torch
from torch import Tensor

from app import __version__
from app.schemas.directions import SiteCard
from app.schemas.rulebanks import Auc, BankCard, ProbeCard
from app.schemas.rules import RulePool
from workers.directions.fit import candidate_layers, request_layer
from workers.directions.gather import POOLINGS, opening
from workers.engine.annotator import Annotator
from workers.engine.errors import PairRefused
from workers.engine.forward import read_each
from workers.engine.packing import Group
from workers.engine.sites import Site
from workers.rules.bank import Probes, RuleBank, sealed
from workers.rules.errors import UnfitExamples
from workers.rules.examples import Examples
from workers.rules.fitting import (
    Prior,
    ReadOuts,
    Space,
    fit,
    fit_relevance,
    held_out,
    held_out_relevance,
    priors_for,
)
from workers.rules.labels import Calibration, Labels, auc, calibrate, folds, mean_area

Progress = Callable[[int, int], None]

PROTOCOL = "{}-fold cross-validation over prompts; penalties chosen by the mean over all rules on the same folds"

_FEWEST_FOLDS, _MOST_FOLDS = 8, 20

_MIN_ITEMS = 20
_RELEVANCE_PENALTIES = (1.0, 3.0, 10.0, 30.0)


@dataclass(frozen=True)
class Read:
    """Examples as the annotator reads them.

    Attributes:
        sites: the S places of the response, then the places of the prompt.
        responses: S.
        activations: [N, S + G, d] float32.
        labels: what is known of them.
        skipped: examples that do not fit the annotator's window.
    """

    sites: tuple[Site, ...]
    responses: int
    activations: Tensor
    labels: Labels
    skipped: int


@dataclass(frozen=True)
class HeldOut:
    """What was read of every rule without having seen it.

    Attributes:
        prior: the one that reads best.
        scores: [m] raw scores of the labels.
        aucs: [R].
    """

    prior: Prior
    scores: Tensor
    aucs: list[Auc | None]

    @property
    def mean(self) -> float:
        """Mean area over the rules that have one."""
        values = [found.value for found in self.aucs if found is not None]
        return sum(values) / len(values)


def distil(
    annotator: Annotator,
    pool: RulePool,
    examples: Examples,
    *,
    pool_id: str,
    bank_id: str,
    progress: Progress = lambda _done, _total: None,
) -> RuleBank:
    """Fit a bank.

    Args:
        annotator: whose activations to read; others may read it meanwhile.
        pool: the rules.
        examples: what to fit on.
        pool_id: what the pool is called.
        bank_id: what to call the bank.
        progress: told how many groups are read.

    Raises:
        UnfitExamples: they give no bank.
    """
    read = gather(annotator, pool, examples, progress)
    return fit_bank(annotator, pool, read, pool_id=pool_id, bank_id=bank_id, source=examples.source)


def gather(annotator: Annotator, pool: RulePool, examples: Examples, progress: Progress) -> Read:
    """Read examples where the default direction reads, so that one pass serves both.

    Raises:
        UnfitExamples: too few can be read, or their activations are not finite.
    """
    response_sites = [Site(layer, pooling) for layer in candidate_layers(annotator.depth) for pooling in POOLINGS]
    sites = (*response_sites, Site(request_layer(annotator), "request"))
    encoded = [_encode(annotator, examples, place) for place in range(len(examples.items))]
    kept = [place for place, group in enumerate(encoded) if group is not None]
    groups = [group for group in encoded if group is not None]
    if len(groups) < _MIN_ITEMS:
        raise UnfitExamples(f"{len(groups)} examples are too few to fit a bank; at least {_MIN_ITEMS} are needed")
    activations = torch.zeros(len(groups), len(sites), annotator.width)
    for index, reading in read_each(annotator, groups, sites, lambda done: progress(done, len(groups))):
        activations[index] = reading[0]
    if not torch.isfinite(activations).all():
        raise UnfitExamples("some activations are not finite")
    labels = _labels(pool, examples, kept)
    return Read(sites, len(response_sites), activations, labels, len(encoded) - len(kept))


def fit_bank(annotator: Annotator, pool: RulePool, read: Read, *, pool_id: str, bank_id: str, source: str) -> RuleBank:
    """Fit a bank to what was read.

    Raises:
        UnfitExamples: no rule has examples enough on both sides, or none reads above chance.
    """
    labels = read.labels
    space = Space.of(read.activations[:, : read.responses])
    fold = folds(labels, fold_count(labels))
    trial = cross_validate(space, labels, fold)
    calibration = calibrate(trial.scores, labels.targets, labels.rules, labels.count)
    everything = torch.ones(len(labels), dtype=torch.bool)
    keeps = _probes(space, fit(space.gram, labels, everything, trial.prior), calibration, read.responses)
    relevant, relevant_aucs = _relevant(read, fold)
    used = torch.tensor([found is not None and found.low > 0.5 for found in trial.aucs])
    if not used.any():
        raise UnfitExamples("no rule reads above chance on held-out exchanges")
    noise = _noise(trial.scores, labels, calibration)
    scores = torch.tanh(keeps.log_odds(read.activations[:, : read.responses]) / 2)
    cards = [
        ProbeCard(
            rule=rule.id, keeps=trial.aucs[r], relevant=relevant_aucs[r], noise=float(noise[r]), used=bool(used[r])
        )
        for r, rule in enumerate(pool.ordered)
    ]
    card = BankCard(
        id=bank_id,
        digest="",
        pool=pool_id,
        pool_digest=pool.digest,
        model=annotator.name,
        model_revision=annotator.revision,
        template=annotator.template.digest,
        sites=_cards(read.sites[: read.responses]),
        prompt_sites=_cards(read.sites[read.responses :]),
        rules=cards,
        source=source,
        settings={
            "items": len(read.activations),
            "labels": len(labels),
            "skipped": read.skipped,
            "penalty": trial.prior.penalty,
            "common": trial.prior.common,
            "category": trial.prior.category,
            "whitening": trial.prior.whitening,
        },
        protocol=PROTOCOL.format(int(fold.max()) + 1),
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        version=__version__,
    )
    sites, prompt_sites = read.sites[: read.responses], read.sites[read.responses :]
    return sealed(RuleBank(card, sites, prompt_sites, keeps, relevant, noise.float(), _correlation(scores, used)))


def fold_count(labels: Labels) -> int:
    """As many folds as leave one label of either side in each, for a middling rule; within bounds."""
    sides = [
        torch.bincount(labels.rules[side], minlength=labels.count) for side in (labels.targets > 0, labels.targets < 0)
    ]
    return max(_FEWEST_FOLDS, min(_MOST_FOLDS, int(torch.minimum(*sides).median())))


def cross_validate(space: Space, labels: Labels, fold: Tensor, priors: Sequence[Prior] | None = None) -> HeldOut:
    """The prior with the best mean area over the rules, and what it reads held out.

    Raises:
        UnfitExamples: no rule has examples enough on both sides.
    """
    if not labels.fitted().any():
        raise UnfitExamples("no rule has examples enough that keep it and that break it")
    trials = [_try(space, labels, fold, prior) for prior in priors or priors_for(labels)]
    return max(trials, key=lambda trial: trial.mean)


def _try(space: Space, labels: Labels, fold: Tensor, prior: Prior) -> HeldOut:
    scores = held_out(space.gram, labels, fold, prior)
    aucs = []
    for rule in range(labels.count):
        mine = labels.rules == rule
        aucs.append(auc(scores[mine], labels.targets[mine], labels.families[labels.items[mine]]))
    return HeldOut(prior, scores, aucs)


def _relevant(read: Read, fold: Tensor) -> tuple[Probes, list[Auc | None]]:
    """Probes of relevance; a rule of which nothing is known, or read, has even odds everywhere."""
    labels, space = read.labels, Space.of(read.activations)
    trials = {p: held_out_relevance(space.gram, labels.relevance, fold, p) for p in _RELEVANCE_PENALTIES}
    penalty = max(trials, key=lambda p: mean_area(trials[p], labels.relevance))
    scores = trials[penalty]
    aucs = [auc(scores[:, r], labels.relevance[:, r], labels.families) for r in range(labels.count)]
    known = labels.relevance != 0
    place = known.nonzero()
    calibration = calibrate(scores[known], labels.relevance[known], place[:, 1], labels.count)
    reads = torch.tensor([found is not None and found.low > 0.5 for found in aucs])
    quiet = Calibration(calibration.slopes * reads, calibration.offsets * reads)
    everything = torch.ones(len(fold), dtype=torch.bool)
    read_outs = fit_relevance(space.gram, labels.relevance, everything, penalty)
    return _probes(space, read_outs, quiet, read.activations.shape[1]), aucs


def _probes(space: Space, read_outs: ReadOuts, calibration: Calibration, places: int) -> Probes:
    vectors, constants = space.vectors(read_outs)
    slopes = calibration.slopes
    offsets = calibration.offsets - slopes * constants
    return Probes(vectors.view(len(vectors), places, -1).float().contiguous(), slopes.float(), offsets.float())


def _noise(raw: Tensor, labels: Labels, calibration: Calibration) -> Tensor:
    """[R] √2 times the spread of held-out scores on the same side of a rule; 1 where there are too few."""
    scores = torch.tanh((calibration.slopes[labels.rules] * raw + calibration.offsets[labels.rules]) / 2)
    noise = torch.ones(labels.count, dtype=torch.double)
    for rule in labels.fitted().nonzero()[:, 0].tolist():
        mine = labels.rules == rule
        sides = [scores[mine & side] for side in (labels.targets > 0, labels.targets < 0)]
        squares = sum(float((side - side.mean()).square().sum()) for side in sides)
        noise[rule] = (2 * squares / (int(mine.sum()) - 2)) ** 0.5
    return noise


def _correlation(scores: Tensor, used: Tensor) -> Tensor:
    """[R, R] of [N, R] scores; a rule that is not used goes with no other."""
    centred = (scores - scores.mean(dim=0)) * used
    unit = centred / centred.norm(dim=0).clamp(min=1e-12)
    correlation: Tensor = unit.T @ unit
    correlation.fill_diagonal_(1.0)
    return correlation.float()


def _labels(pool: RulePool, examples: Examples, kept: list[int]) -> Labels:
    targets = examples.targets[kept]
    items, rules = (~targets.isnan()).nonzero(as_tuple=True)
    numbers: dict[str, int] = {}
    families = [numbers.setdefault(opening(examples.items[place].messages), len(numbers)) for place in kept]
    names = sorted({rule.category for rule in pool.rules})
    categories = torch.tensor([names.index(rule.category) for rule in pool.ordered])
    relevance = examples.relevance[kept]
    return Labels(items, rules, targets[items, rules], torch.tensor(families), relevance, categories)


def _encode(annotator: Annotator, examples: Examples, place: int) -> Group | None:
    if examples.targets[place].isnan().all():
        return None
    item = examples.items[place]
    try:
        return annotator.template.encode(item.messages, item.responses)
    except PairRefused:
        return None


def _cards(sites: Sequence[Site]) -> list[SiteCard]:
    return [SiteCard(layer=site.layer, pooling=site.pooling) for site in sites]
