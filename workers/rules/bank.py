"""A bank of rule probes: one forward pass scores every rule, where the safety direction reads anyway.

Stored as safetensors for its numbers and JSON for its card. Nothing is read that could run code.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from app.rulebanks import CARD, TENSORS, RuleBanks
from app.schemas.rulebanks import BankCard
from app.schemas.rules import RulePool
from workers.engine.annotator import Annotator
from workers.engine.errors import NotFinite, PairRefused
from workers.engine.forward import read_each
from workers.engine.packing import Group
from workers.engine.sites import Site, sites_of
from workers.rules.cards import check_pool, shipped_cards
from workers.rules.errors import UnusableBank
from workers.rules.rating import Answered, Ratings
from workers.sealed import Format, with_digest

FORMAT = Format("rule bank", BankCard, CARD, TENSORS, UnusableBank)


@dataclass(frozen=True)
class Probes:
    """R linear probes that read S places: log-odds slope · Σ_s v_s · h_s + offset.

    Attributes:
        vectors: [R, S, d] float32.
        slopes, offsets: [R] float32.
    """

    vectors: Tensor
    slopes: Tensor
    offsets: Tensor

    def log_odds(self, activations: Tensor) -> Tensor:
        """[n, R] float64 of n responses from their [n, S, d] activations."""
        exact = activations.double().flatten(1)
        raw = exact @ self.vectors.to(exact).flatten(1).T
        return raw * self.slopes.to(exact) + self.offsets.to(exact)


@dataclass(frozen=True)
class RuleBank:
    """The fitted probes of a rule pool.

    Attributes:
        card: everything but the numbers; its rules are in the order of every R here.
        sites: the S places of the response read.
        prompt_sites: the G places of the prompt that relevance reads as well.
        keeps: whether a response keeps each rule, at `sites`.
        relevant: whether each rule matters there, at `sites` and `prompt_sites`.
        noise: [R] float32, standard deviation of the difference of two responses that keep a rule alike.
        correlation: [R, R] float32 correlation of the rules' scores over what they were fitted on.
    """

    card: BankCard
    sites: tuple[Site, ...]
    prompt_sites: tuple[Site, ...]
    keeps: Probes
    relevant: Probes
    noise: Tensor
    correlation: Tensor

    @property
    def id(self) -> str:
        """The name under which requests ask for it."""
        return self.card.id

    @property
    def digest(self) -> str:
        """Of its content."""
        return self.card.digest

    @property
    def reads(self) -> tuple[Site, ...]:
        """Every place it reads: those of the response, then those of the prompt."""
        return self.sites + self.prompt_sites

    @cached_property
    def used(self) -> Tensor:
        """[R] whether a rule reads above chance."""
        return torch.tensor([rule.used for rule in self.card.rules])

    @property
    def tensors(self) -> dict[str, Tensor]:
        """Its numbers by name, as they are stored."""
        probes = {"keeps": self.keeps, "relevant": self.relevant}
        named = {f"{name}.{part}": getattr(of, part) for name, of in probes.items() for part in _PARTS}
        return named | {"noise": self.noise, "correlation": self.correlation}

    def scores(self, activations: Tensor) -> Tensor:
        """[n, 2, R] score and relevance of n responses from their [n, S + G, d] activations at `reads`.

        A rule that is not used has score and relevance zero.
        """
        scores = 2 * torch.sigmoid(self.keeps.log_odds(activations[:, : len(self.sites)])) - 1
        relevance = torch.sigmoid(self.relevant.log_odds(activations))
        return torch.stack([scores, relevance], dim=1) * self.used.to(scores)


@dataclass(frozen=True)
class ProbeRater:
    """Rates by a bank; what `check_fits` refuses must not get here.

    Attributes:
        annotator: whose activations are read.
        bank: the probes.
    """

    annotator: Annotator
    bank: RuleBank

    def rate(self, items: Sequence[Answered], *, truncate: bool = False) -> list[Ratings | PairRefused]:
        """Ratings of each item, each response read once; the reason instead where it cannot be read."""
        encoded = [self._encode(item, truncate) for item in items]
        places = [place for place, group in enumerate(encoded) if isinstance(group, Group)]
        groups = [group for group in encoded if isinstance(group, Group)]
        rated: dict[int, Ratings | PairRefused] = {}
        for index, reading in read_each(self.annotator, groups, self.bank.reads):
            scores = self.bank.scores(reading)
            finite = bool(torch.isfinite(scores).all())
            rated[places[index]] = (
                ratings_of(scores) if finite else NotFinite("the annotator's activations are not finite numbers")
            )
        return [group if isinstance(group, PairRefused) else rated[place] for place, group in enumerate(encoded)]

    def _encode(self, item: Answered, truncate: bool) -> Group | PairRefused:
        try:
            return self.annotator.template.encode(item.messages, item.responses, truncate=truncate)
        except PairRefused as refusal:
            return refusal


def ratings_of(scores: Tensor) -> Ratings:
    """Ratings of K responses to one prompt from what a bank's `scores` made of them, [K, 2, R]."""
    return Ratings(scores[:, 0], scores[:, 1].mean(dim=0))


_PARTS = ("vectors", "slopes", "offsets")


def sealed(bank: RuleBank) -> RuleBank:
    """The same bank with the digest that belongs to it."""
    return replace(bank, card=with_digest(bank.card, bank.tensors))


def to_files(bank: RuleBank) -> dict[str, bytes]:
    """Files of a bank by name."""
    return FORMAT.files(bank.card, bank.tensors)


def from_files(name: str, files: Mapping[str, bytes]) -> RuleBank:
    """Read a bank.

    Args:
        name: what to call it in errors.
        files: `to_files` gave them, or so they claim.

    Raises:
        UnusableBank: a part is missing or damaged, or the content does not match its digest.
    """
    card, tensors = FORMAT.parsed(name, files)
    if {part: tuple(tensor.shape) for part, tensor in tensors.items()} != _shapes(card, tensors):
        raise UnusableBank(f"{name}: numbers and card do not belong together")
    FORMAT.check(name, card, tensors)
    keeps, relevant = (Probes(*(tensors[f"{of}.{part}"] for part in _PARTS)) for of in ("keeps", "relevant"))
    try:
        sites, prompt_sites = sites_of(card.sites, of_prompt=False), sites_of(card.prompt_sites, of_prompt=True)
    except ValueError as error:
        raise UnusableBank(f"{name}: {error}") from None
    return RuleBank(card, sites, prompt_sites, keeps, relevant, tensors["noise"], tensors["correlation"])


def from_folder(folder: Path) -> RuleBank:
    """Read a bank whose files lie in a folder.

    Raises:
        UnusableBank: as `from_files`, or a file cannot be read.
    """
    try:
        files = {part: (folder / part).read_bytes() for part in (CARD, TENSORS)}
    except OSError as error:
        raise UnusableBank(f"{folder}: {error.strerror}") from error
    return from_files(folder.name, files)


def shipped_banks(annotator: Annotator) -> list[RuleBank]:
    """The banks that come with the service and were made for this annotator."""
    banks = []
    for folder, card in shipped_cards().items():
        if (card.model_revision, card.template) == (annotator.revision, annotator.template.digest):
            banks.append(from_folder(folder))
    return banks


def publish_shipped_banks(banks: RuleBanks, annotator: Annotator) -> None:
    """Put the banks that come with the service and fit this annotator into the store, unless it has known them."""
    for bank in shipped_banks(annotator):
        if not banks.knows(bank.id):
            banks.publish(bank.id, bank.card.digest, to_files(bank))


def check_fits(bank: RuleBank, annotator: Annotator, pool: RulePool, pool_id: str | None = None) -> None:
    """Refuse a bank with an annotator or a pool that it was not made for.

    Args:
        bank: the bank.
        annotator: whose activations it is to read.
        pool: the rules that it is to read.
        pool_id: what these are called; as the bank says where left out.

    Raises:
        UnusableBank: naming what differs.
    """
    card = bank.card
    if card.model_revision != annotator.revision:
        raise UnusableBank(f"rule bank {card.id} was made for {card.model}, not for the weights of {annotator.name}")
    if card.template != annotator.template.digest:
        raise UnusableBank(f"rule bank {card.id} was made with another chat template than {annotator.name} has now")
    if bank.keeps.vectors.shape[2] != annotator.width or max(site.layer for site in bank.reads) > annotator.depth:
        raise UnusableBank(f"rule bank {card.id} does not have the shape of {annotator.name}")
    check_pool(card, pool, pool_id or card.pool)


def _shapes(card: BankCard, tensors: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    """The shape that each tensor must have; the width is that of the first that shows it."""
    first = tensors.get("keeps.vectors")
    width = first.shape[-1] if first is not None and first.ndim else 0
    rules = len(card.rules)
    shapes: dict[str, tuple[int, ...]] = {"noise": (rules,), "correlation": (rules, rules)}
    for name, places in (("keeps", len(card.sites)), ("relevant", len(card.sites) + len(card.prompt_sites))):
        shapes |= {f"{name}.vectors": (rules, places, width), f"{name}.slopes": (rules,), f"{name}.offsets": (rules,)}
    return shapes
