"""Making a rule adapter: pairs and a rater in, an adapter with its held-out figures out."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from types import MappingProxyType

import torch
from torch import Tensor

from app import __version__
from app.schemas.directions import SiteCard
from app.schemas.pairs import Pair
from app.schemas.ruleadapters import AdapterCard, AdapterMeasures
from app.schemas.rules import RulePool
from app.schemas.training import MOST_PAIRS, HeadOptions, LoraOptions, RuleAdapterOptions
from workers.directions.direction import Setting
from workers.directions.fit import candidate_layers, request_layer
from workers.directions.gather import POOLINGS
from workers.engine.annotator import Annotator
from workers.engine.sites import Site
from workers.rules.adapting.adapter import HeadAdapter, LoraAdapter, RuleAdapter, sealed
from workers.rules.adapting.classifier import Classifier, Course
from workers.rules.adapting.head import Taught, fit_head
from workers.rules.adapting.lessons import Lessons, Progress, gather
from workers.rules.adapting.measures import calibrate, measure
from workers.rules.bank import RuleBank
from workers.rules.errors import UnfitExamples
from workers.rules.logits import LogitRater
from workers.rules.selection import Policy

PROTOCOL = "prompts split at random: {} pairs to fit, {} to choose the epoch, {} held out for these figures"

WIDTH = 128
"""Numbers that a head projects a response to."""

_HELD_OUT, _VALIDATION = 0.2, 0.1
_SWAPPED = 32
_EDGE = 1e-3
_BLOCK = 128


@dataclass(frozen=True)
class Split:
    """Lessons in three parts that share no prompt.

    Attributes:
        fit, validation, held_out: the parts.
        unfitted: the latter two together.
    """

    fit: Lessons
    validation: Lessons
    held_out: Lessons
    unfitted: Lessons

    @classmethod
    def of(cls, lessons: Lessons, seed: int) -> "Split":
        """A random split by families.

        Raises:
            UnfitExamples: the pairs have too few different prompts.
        """
        families = torch.unique(lessons.families)
        order = families[torch.randperm(len(families), generator=torch.Generator().manual_seed(seed))]
        first = max(1, round(len(order) * _HELD_OUT))
        second = first + max(1, round(len(order) * _VALIDATION))
        if len(order) <= second:
            raise UnfitExamples("the pairs have too few different prompts to hold some out")
        parts = (order[second:], order[first:second], order[:first], order[:second])
        return cls(*(lessons.at(torch.isin(lessons.families, part).nonzero()[:, 0]) for part in parts))


@dataclass(frozen=True)
class _Fitted:
    """What is fitted, before it is measured and has a card.

    Attributes:
        likely: [P, R] of lessons.
        adapter: the adapter with its card.
        settings: what to note of the fit.
    """

    likely: Callable[[Lessons], Tensor]
    adapter: Callable[[AdapterCard], RuleAdapter]
    settings: Mapping[str, Setting]


def teach(
    annotator: Annotator,
    pool: RulePool,
    rater: RuleBank | LogitRater,
    pairs: Sequence[Pair],
    options: RuleAdapterOptions,
    *,
    note: Mapping[str, Setting] = MappingProxyType({}),
    progress: Progress = lambda _done, _total: None,
) -> RuleAdapter:
    """Make a rule adapter.

    Args:
        annotator: whose activations or weights it uses; others may read it meanwhile.
        pool: the rules, called `options.pool`.
        rater: who says which of them were critical; made for this pool.
        pairs: what to learn from.
        options: how.
        note: what else to put among the card's settings.
        progress: told how many pairs of how many are read, rated or trained on; may raise to end it.

    Raises:
        UnfitExamples: the pairs teach nothing.
        CannotClassify: the annotator cannot be made a classifier of; known before anything is rated.
    """
    sites = _sites(annotator, rater) if isinstance(options, HeadOptions) else ()
    if len(pairs) > MOST_PAIRS[options.kind]:
        most = MOST_PAIRS[options.kind]
        raise UnfitExamples(f"{len(pairs):,} pairs are too many to teach a rule adapter; {options.kind} takes {most:,}")
    classifier = _classifier(annotator, pool, options) if isinstance(options, LoraOptions) else None
    rounds = 1 + (options.epochs if isinstance(options, LoraOptions) else 0)
    lessons = gather(annotator, rater, pairs, sites, lambda done, total: progress(done, total * rounds))
    split, policy = Split.of(lessons, options.seed), Policy(options.policy, options.k)
    if not split.fit.critical(policy).critical.any():
        raise UnfitExamples("no rule is critical for any of the pairs")
    if classifier is None:
        fitted = _head(split, policy, options, lambda: progress(len(pairs), len(pairs)))
    else:
        fitted = _lora(*classifier, split, policy, progress)
    likely = fitted.likely(split.unfitted)
    held_out = torch.isin(split.unfitted.families, split.held_out.families)
    measures = measure(
        split.held_out,
        split.fit,
        policy,
        likely[held_out],
        swapped_alike=_swapped_alike(fitted, split.held_out, options.k),
        protocol=PROTOCOL.format(*map(len, (split.fit, split.validation, split.held_out))),
    )
    settings = {"pairs": len(lessons), "skipped": lessons.skipped, "seed": options.seed, **fitted.settings, **note}
    card = _card(annotator, pool, rater, options, sites, measures, settings)
    reading = calibrate(split.unfitted, Policy("adapter", options.k), likely)
    return sealed(fitted.adapter(card.model_copy(update={"reading": reading})))


def _head(split: Split, policy: Policy, options: RuleAdapterOptions, beat: Callable[[], None]) -> _Fitted:
    taught, validation = (
        Taught(lessons.activations, lessons.members, lessons.critical(policy).critical)
        for lessons in (split.fit, split.validation)
    )
    head, epoch = fit_head(
        taught, _ratings(split.fit), validation, width=WIDTH, epochs=options.epochs, seed=options.seed, beat=beat
    )

    def likely(lessons: Lessons) -> Tensor:
        parts = []
        for members in torch.split(lessons.members, _BLOCK):
            projected = head.scores(lessons.activations[members].flatten(0, 1)).view(len(members), 2, -1)
            parts.append(head.likely(projected))
            beat()
        return torch.cat(parts)

    return _Fitted(likely, lambda card: HeadAdapter(card, head), {"width": WIDTH, "epoch": epoch})


def _classifier(annotator: Annotator, pool: RulePool, options: LoraOptions) -> tuple[Classifier, Course]:
    course = Course(options.epochs, options.learning_rate, options.batch, options.rank, options.seed)
    return Classifier(annotator, len(pool.rules), course.rank, course.seed), course


def _lora(classifier: Classifier, course: Course, split: Split, policy: Policy, progress: Progress) -> _Fitted:
    targets, checks = (lessons.critical(policy).critical.float() for lessons in (split.fit, split.validation))
    read = whole = len(split.fit) + len(split.validation) + len(split.held_out)

    def step(done: int, total: int) -> None:
        nonlocal whole
        whole = read + total
        progress(read + done, whole)

    epoch = classifier.train(
        split.fit.pairs,
        targets,
        (split.validation.pairs, checks),
        course,
        step,
    )
    settings = {**asdict(course), "epoch": epoch}

    def likely(lessons: Lessons) -> Tensor:
        return classifier.likely(lessons.pairs, lambda _texts: progress(whole, whole))

    return _Fitted(likely, lambda card: LoraAdapter(card, classifier.tensors), settings)


def _sites(annotator: Annotator, rater: RuleBank | LogitRater) -> tuple[Site, ...]:
    """Where the bank reads, or where one would: what else is read there costs nothing more."""
    if isinstance(rater, RuleBank):
        return rater.reads
    responses = [Site(layer, pooling) for layer in candidate_layers(annotator.depth) for pooling in POOLINGS]
    return (*responses, Site(request_layer(annotator), "request"))


def _ratings(lessons: Lessons) -> Tensor:
    """[P, 2, 2R] scores and relevance as log-odds."""
    scores = torch.logit(((lessons.scores.float() + 1) / 2).clamp(_EDGE, 1 - _EDGE))
    relevance = torch.logit(lessons.relevance.float().clamp(_EDGE, 1 - _EDGE))[:, None].expand_as(scores)
    return torch.cat([scores, relevance], dim=2)


def _swapped_alike(fitted: _Fitted, lessons: Lessons, k: int) -> float:
    """Share of some pairs for which the same rules are chosen with the sides exchanged."""
    some = lessons.at(torch.arange(min(_SWAPPED, len(lessons))))
    sides = (some, some.turned())
    choices = [one.critical(Policy("adapter", k), fitted.likely(one)).critical for one in sides]
    return float((choices[0] == choices[1]).all(dim=1).double().mean())


def _card(
    annotator: Annotator,
    pool: RulePool,
    rater: RuleBank | LogitRater,
    options: RuleAdapterOptions,
    sites: Sequence[Site],
    measures: AdapterMeasures,
    settings: dict[str, Setting],
) -> AdapterCard:
    bank = rater.card if isinstance(rater, RuleBank) else None
    cards = [SiteCard(layer=site.layer, pooling=site.pooling) for site in sites]
    return AdapterCard(
        id=options.id,
        digest="",
        kind=options.kind,
        pool=options.pool,
        pool_digest=pool.digest,
        rater=options.rater,
        bank=bank.id if bank else None,
        bank_digest=bank.digest if bank else None,
        policy=options.policy,
        k=options.k,
        model=annotator.name,
        model_revision=annotator.revision,
        template=annotator.template.digest,
        sites=[card for card in cards if card.pooling != "request"],
        prompt_sites=[card for card in cards if card.pooling == "request"],
        measures=measures,
        settings=settings,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        version=__version__,
    )
