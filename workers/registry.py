"""What a worker holds: directions, rule pools and banks of the artifact store that fit its annotator."""

import json
import threading
from dataclasses import dataclass
from typing import Any

from app.artifacts import Artifacts
from app.registry import CARD, REPORT, TENSORS, DirectionMissing, Registry
from app.ruleadapters import CARD as ADAPTER_CARD
from app.ruleadapters import TENSORS as ADAPTER_TENSORS
from app.ruleadapters import AdapterMissing, RuleAdapters
from app.rulebanks import CARD as BANK_CARD
from app.rulebanks import TENSORS as BANK_TENSORS
from app.rulebanks import BankMissing, RuleBanks
from app.rulepools import PoolMissing, RulePools
from app.schemas.directions import DirectionCard
from app.schemas.report import DirectionReport
from app.schemas.rules import RulePool
from workers.directions.direction import SafetyDirection, check_fits
from workers.directions.errors import DirectionError
from workers.directions.files import SHIPPED, SHIPPED_DEFAULTS, from_files, from_folder
from workers.directions.publishing import parts_of
from workers.engine.annotator import Annotator
from workers.holding import Holding
from workers.rules.adapting.adapter import LoraAdapter, RuleAdapter
from workers.rules.adapting.adapter import check_fits as check_adapter_fits
from workers.rules.adapting.adapter import from_files as adapter_of
from workers.rules.adapting.classifier import Classifier
from workers.rules.bank import RuleBank
from workers.rules.bank import check_fits as check_bank_fits
from workers.rules.bank import from_files as bank_of
from workers.rules.errors import RuleError


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
        files = {part: self.registry.part(name, digest, part) for part in (CARD, TENSORS)}
        direction = from_files(name, files)
        if (direction.id, direction.card.digest) != (name, digest):
            raise DirectionMissing(f"what is stored as {name} is {direction.id} of another digest")
        check_fits(
            direction,
            model=self._annotator.name,
            revision=self._annotator.revision,
            template=self._annotator.template.digest,
            depth=self._annotator.depth,
            width=self._annotator.width,
        )
        return direction


class HeldBanks(Holding[RuleBank]):
    """The banks of rule probes that fit one annotator and the pools they were made for.

    Args:
        banks: those of the artifact store.
        pools: its pools.
        annotator: what they must fit.
    """

    def __init__(self, banks: RuleBanks, pools: RulePools, annotator: Annotator) -> None:
        super().__init__(banks, self._read, RuleError)
        self._banks = banks
        self._pools = pools
        self._annotator = annotator

    def _read(self, name: str, digest: str) -> RuleBank:
        bank = bank_of(name, {part: self._banks.part(name, digest, part) for part in (BANK_CARD, BANK_TENSORS)})
        if (bank.id, bank.digest) != (name, digest):
            raise BankMissing(f"what is stored as {name} is {bank.id} of another digest")
        check_bank_fits(bank, self._annotator, self._pools.pool(bank.card.pool, bank.card.pool_digest))
        return bank


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
        self._loaded: tuple[str, Classifier] | None = None
        self._loading = threading.Lock()

    def classifier(self, adapter: LoraAdapter) -> Classifier:
        """The adapter on the annotator's weights; the one asked for last is kept."""
        with self._loading:
            if self._loaded is None or self._loaded[0] != adapter.digest:
                self._loaded = (adapter.digest, adapter.classifier(self._annotator))
            return self._loaded[1]

    def _read(self, name: str, digest: str) -> RuleAdapter:
        files = {part: self._adapters.part(name, digest, part) for part in (ADAPTER_CARD, ADAPTER_TENSORS)}
        adapter = adapter_of(name, files)
        if (adapter.id, adapter.digest) != (name, digest):
            raise AdapterMissing(f"what is stored as {name} is {adapter.id} of another digest")
        check_adapter_fits(adapter, self._annotator, self._pools.pool(adapter.card.pool, adapter.card.pool_digest))
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
    banks: HeldBanks
    adapters: HeldAdapters

    @classmethod
    def of(cls, artifacts: Artifacts, annotator: Annotator) -> "Holdings":
        """Nothing yet, of what the store has for an annotator."""
        pools = RulePools(artifacts)
        return cls(
            HeldDirections(Registry(artifacts), annotator),
            Holding(pools, pools.pool, PoolMissing),
            HeldBanks(RuleBanks(artifacts), pools, annotator),
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
