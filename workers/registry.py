"""What a worker holds: directions, rule pools, banks and adapters of the artifact store that fit its annotator."""

import json
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from app.artifacts import Artifacts
from app.registry import CARD, REPORT, TENSORS, Registry
from app.ruleadapters import CARD as ADAPTER_CARD
from app.ruleadapters import TENSORS as ADAPTER_TENSORS
from app.ruleadapters import RuleAdapters
from app.rulebanks import CARD as BANK_CARD
from app.rulebanks import TENSORS as BANK_TENSORS
from app.rulebanks import RuleBanks
from app.rulepools import PoolMissing, RulePools
from app.schemas.directions import DirectionCard
from app.schemas.report import DirectionReport
from app.schemas.rules import RulePool
from app.shelf import Shelf
from workers.directions.direction import SafetyDirection, check_fits
from workers.directions.errors import DirectionError
from workers.directions.files import SHIPPED, SHIPPED_DEFAULTS, from_files, from_folder
from workers.directions.publishing import parts_of
from workers.engine.annotator import Annotator
from workers.holding import Holding
from workers.rules.adapting.adapter import FORMAT as ADAPTER_FORMAT
from workers.rules.adapting.adapter import LoraAdapter, RuleAdapter
from workers.rules.adapting.adapter import check_fits as check_adapter_fits
from workers.rules.adapting.adapter import from_files as adapter_of
from workers.rules.adapting.classifier import Classifier
from workers.rules.bank import FORMAT as BANK_FORMAT
from workers.rules.bank import RuleBank
from workers.rules.bank import check_fits as check_bank_fits
from workers.rules.bank import from_files as bank_of
from workers.rules.errors import RuleError


class _Digested(Protocol):
    @property
    def id(self) -> str: ...

    @property
    def digest(self) -> str: ...


Stored = TypeVar("Stored", bound=_Digested)

_KEPT = 2
"""Classifiers that a worker keeps: one that is in use, and one beside it."""


class HeldDirections(Holding[SafetyDirection]):
    """The directions of a registry that fit one annotator.

    Args:
        registry: the artifact store's directions.
        annotator: what they must fit.
    """

    def __init__(self, registry: Registry, annotator: Annotator) -> None:
        super().__init__(registry, self._read, DirectionError)
        self.registry = registry
        self._annotator = annotator

    def made_by(self, recipe: str) -> list[SafetyDirection]:
        """What is held and was made by a recipe."""
        return [direction for direction in self.all().values() if direction.card.recipe == recipe]

    def _read(self, name: str, digest: str) -> SafetyDirection:
        direction = _stored(self.registry, name, digest, (CARD, TENSORS), from_files)
        check_fits(
            direction,
            model=self._annotator.name,
            revision=self._annotator.revision,
            template=self._annotator.template.digest,
            depth=self._annotator.depth,
            width=self._annotator.width,
        )
        return direction


def held_banks(banks: RuleBanks, pools: RulePools, annotator: Annotator) -> Holding[RuleBank]:
    """The banks of rule probes that fit one annotator and the pools they were made for."""

    def read(name: str, digest: str) -> RuleBank:
        card = BANK_FORMAT.card_of(name, banks.part(name, digest, BANK_CARD))
        pool = pools.pool(card.pool, card.pool_digest)  # before the numbers, which are many
        bank = _stored(banks, name, digest, (BANK_CARD, BANK_TENSORS), bank_of)
        check_bank_fits(bank, annotator, pool)
        return bank

    return Holding(banks, read, RuleError)


class HeldAdapters(Holding[RuleAdapter]):
    """The rule adapters that fit one annotator and the pools they were made for.

    Args:
        adapters: those of the artifact store.
        pools: its pools.
        annotator: what they must fit.
    """

    def __init__(self, adapters: RuleAdapters, pools: RulePools, annotator: Annotator) -> None:
        super().__init__(adapters, self._read, RuleError)
        self._adapters = adapters
        self._pools = pools
        self._annotator = annotator
        self._classifiers: dict[str, Classifier] = {}
        self._used = threading.Lock()
        self._loading = threading.Lock()

    def classifier(self, adapter: LoraAdapter) -> Classifier:
        """The adapter on the annotator's weights; of those asked for, the last two are kept.

        While one is loaded, those that are kept can be had.

        Raises:
            RuleError: it does not go with the annotator.
        """
        if (kept := self._kept(adapter.digest)) is not None:
            return kept
        with self._loading:
            kept = self._kept(adapter.digest)  # somebody else may have loaded it meanwhile
            return self._keep(adapter.digest, adapter.classifier(self._annotator)) if kept is None else kept

    def _kept(self, digest: str) -> Classifier | None:
        with self._used:
            found = self._classifiers.pop(digest, None)
            if found is not None:
                self._classifiers[digest] = found
            return found

    def _keep(self, digest: str, classifier: Classifier) -> Classifier:
        with self._used:
            self._classifiers[digest] = classifier
            while len(self._classifiers) > _KEPT:
                del self._classifiers[next(iter(self._classifiers))]
        return classifier

    def _read(self, name: str, digest: str) -> RuleAdapter:
        card = ADAPTER_FORMAT.card_of(name, self._adapters.part(name, digest, ADAPTER_CARD))
        pool = self._pools.pool(card.pool, card.pool_digest)  # before the numbers, as of banks
        adapter = _stored(self._adapters, name, digest, (ADAPTER_CARD, ADAPTER_TENSORS), adapter_of)
        check_adapter_fits(adapter, self._annotator, pool)
        return adapter


@dataclass(frozen=True)
class Holdings:
    """Everything that a worker holds of the artifact store.

    Attributes:
        directions: safety directions.
        pools: pools of rules.
        banks: banks of rule probes.
        adapters: rule adapters.
    """

    directions: HeldDirections
    pools: Holding[RulePool]
    banks: Holding[RuleBank]
    adapters: HeldAdapters

    @classmethod
    def of(cls, artifacts: Artifacts, annotator: Annotator) -> "Holdings":
        """Nothing yet, of what the store has for an annotator."""
        pools = RulePools(artifacts)
        return cls(
            HeldDirections(Registry(artifacts), annotator),
            Holding(pools, pools.pool, PoolMissing),
            held_banks(RuleBanks(artifacts), pools, annotator),
            HeldAdapters(RuleAdapters(artifacts), pools, annotator),
        )

    def refresh(self) -> list[str]:
        """Hold what the store holds now; says which shelves changed."""
        shelves: tuple[Holding[Any], ...] = (self.directions, self.pools, self.banks, self.adapters)
        return [f"{shelf.noun}s: {', '.join(shelf.all()) or 'none'}" for shelf in shelves if shelf.refresh()]


def publish_shipped(registry: Registry, annotator: Annotator) -> None:
    """Put the directions that come with the service and fit this annotator into the store, unless it has known them.

    One of them becomes the default of this annotator, unless it has one.
    """
    for folder in sorted(path.parent for path in SHIPPED.glob(f"*/{CARD}")):
        card = DirectionCard.model_validate_json((folder / CARD).read_bytes())
        fits = (card.model_revision, card.template) == (annotator.revision, annotator.template.digest)
        if fits and not registry.knows(card.id):
            direction = from_folder(folder)
            report = DirectionReport.model_validate_json((folder / REPORT).read_bytes())
            registry.publish(card.id, card.digest, parts_of(direction, report))
    default = json.loads(SHIPPED_DEFAULTS.read_bytes()).get(annotator.revision)
    if default and registry.holds(default) and annotator.revision not in registry.defaults():
        registry.set_default(annotator.revision, default)


def _stored(
    shelf: Shelf, name: str, digest: str, parts: tuple[str, ...], made_of: Callable[[str, Mapping[str, bytes]], Stored]
) -> Stored:
    """What lies on a shelf under a name and a digest; missing if it says that it is something else."""
    thing = made_of(name, {part: shelf.part(name, digest, part) for part in parts})
    if (thing.id, thing.digest) != (name, digest):
        raise shelf.missing(f"what is stored as {name} is {thing.id} of another digest")
    return thing
