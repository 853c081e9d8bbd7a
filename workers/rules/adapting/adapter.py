"""Rule adapters as they are stored and used: safetensors for the numbers, JSON for the card, nothing that runs code.

Both kinds say how likely each rule is critical for a pair. A head says it of activations, and is read with whatever
else reads them; a LoRA adapter says it of pairs, once `classifier` has put it on the annotator's weights.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property

from torch import Tensor

from app.ruleadapters import CARD, TENSORS
from app.schemas.ruleadapters import AdapterCard
from app.schemas.rules import RulePool
from workers.engine.annotator import Annotator
from workers.engine.sites import Site, sites_of
from workers.rules.adapting.classifier import Classifier
from workers.rules.adapting.head import Head
from workers.rules.errors import UnusableAdapter
from workers.sealed import Format, with_digest

FORMAT = Format("rule adapter", AdapterCard, CARD, TENSORS, UnusableAdapter)


@dataclass(frozen=True)
class _Adapter:
    card: AdapterCard

    @property
    def id(self) -> str:
        """The name under which requests ask for it."""
        return self.card.id

    @property
    def digest(self) -> str:
        """Of its content."""
        return self.card.digest


@dataclass(frozen=True)
class HeadAdapter(_Adapter):
    """A rule adapter on activations.

    Attributes:
        card: everything but the numbers.
        head: its numbers; the rules are in the order of the pool.
    """

    head: Head

    @cached_property
    def reads(self) -> tuple[Site, ...]:
        """The S places that it reads: those of the response, then those of the prompt."""
        return sites_of(self.card.sites, of_prompt=False) + sites_of(self.card.prompt_sites, of_prompt=True)

    @property
    def tensors(self) -> dict[str, Tensor]:
        """Its numbers by name, as they are stored."""
        return self.head.tensors

    def scores(self, activations: Tensor) -> Tensor:
        """[n, m] what `likely` needs of n responses, from their [n, S, d] activations at `reads`."""
        return self.head.scores(activations)

    def likely(self, projected: Tensor) -> Tensor:
        """[P, R] how likely each rule is critical, from [P, 2, m] scores; the same with the responses exchanged."""
        return self.head.likely(projected)


@dataclass(frozen=True)
class LoraAdapter(_Adapter):
    """A rule adapter on pairs.

    Attributes:
        card: everything but the numbers.
        tensors: its numbers by name, as they are stored.
    """

    tensors: dict[str, Tensor]

    def classifier(self, annotator: Annotator) -> Classifier:
        """Put it on the annotator's weights: takes seconds, and the memory of its own numbers. To be done once.

        Raises:
            UnusableAdapter: it does not have the shape of the annotator.
        """
        rules = len(self.tensors.get("prior", ()))
        rank = self.card.settings.get("rank")
        try:
            made = Classifier(annotator, rules, rank if isinstance(rank, int) and rank > 0 else 1)
            made.load(self.tensors)
        except (ValueError, RuntimeError):
            raise UnusableAdapter(f"rule adapter {self.id} does not have the shape of {annotator.name}") from None
        return made


RuleAdapter = HeadAdapter | LoraAdapter


def sealed(adapter: RuleAdapter) -> RuleAdapter:
    """The same adapter with the digest that belongs to it."""
    return replace(adapter, card=with_digest(adapter.card, adapter.tensors))


def to_files(adapter: RuleAdapter) -> dict[str, bytes]:
    """Files of an adapter by name."""
    return FORMAT.files(adapter.card, adapter.tensors)


def from_files(name: str, files: Mapping[str, bytes]) -> RuleAdapter:
    """Read an adapter.

    Args:
        name: what to call it in errors.
        files: `to_files` gave them, or so they claim.

    Raises:
        UnusableAdapter: a part is missing or damaged, or the content does not match its digest.
    """
    card, tensors = FORMAT.parsed(name, files)
    FORMAT.check(name, card, tensors)
    try:
        return HeadAdapter(card, _head(card, tensors)) if card.kind == "head" else _lora(card, tensors)
    except ValueError as error:
        raise UnusableAdapter(f"{name}: {error}") from None


def check_fits(adapter: RuleAdapter, annotator: Annotator, pool: RulePool) -> None:
    """Refuse an adapter with an annotator or a pool that it was not made for.

    Raises:
        UnusableAdapter: naming what differs.
    """
    card = adapter.card
    if card.pool_digest != pool.digest:
        raise UnusableAdapter(
            f"rule adapter {card.id} was made for another pool, or for what pool {card.pool} was then"
        )
    if card.model_revision != annotator.revision:
        raise UnusableAdapter(
            f"rule adapter {card.id} was made for {card.model}, not for the weights of {annotator.name}"
        )
    if card.template != annotator.template.digest:
        raise UnusableAdapter(
            f"rule adapter {card.id} was made with another chat template than {annotator.name} has now"
        )
    if isinstance(adapter, HeadAdapter):
        rules, width = len(adapter.head.offsets), adapter.head.projection.shape[2]
        fits = width == annotator.width and max(site.layer for site in adapter.reads) <= annotator.depth
    else:
        rules, fits = len(adapter.tensors["prior"]), True
    if not fits or rules != len(pool.rules):
        raise UnusableAdapter(f"rule adapter {card.id} does not have the shape of {annotator.name} and its pool")


def _head(card: AdapterCard, tensors: dict[str, Tensor]) -> Head:
    places = len(sites_of(card.sites, of_prompt=False)) + len(sites_of(card.prompt_sites, of_prompt=True))
    try:
        head = Head(**tensors)
    except TypeError:
        raise ValueError("numbers and card do not belong together") from None
    if not places or not head.holds_together or head.projection.shape[1] != places:
        raise ValueError("numbers and card do not belong together")
    return head


def _lora(card: AdapterCard, tensors: dict[str, Tensor]) -> LoraAdapter:
    if "prior" not in tensors or tensors["prior"].ndim != 1 or not len(tensors["prior"]):
        raise ValueError("numbers and card do not belong together")
    return LoraAdapter(card, tensors)
