"""What a worker holds of the artifact store: what fits its annotator."""

import json
from dataclasses import dataclass
from typing import Any

from app.alignments import Alignments
from app.artifacts import Artifacts
from app.registry import CARD, REPORT, TENSORS, Registry
from app.rewards import RewardModels
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
from workers.directions.direction import SafetyDirection, check_fits
from workers.directions.errors import DirectionError
from workers.directions.files import SHIPPED, SHIPPED_DEFAULTS, from_files, from_folder
from workers.directions.publishing import parts_of
from workers.engine.annotator import Annotator
from workers.engine.lastused import LastUsed
from workers.engine.variant import Variant
from workers.holding import Holding, stored
from workers.rewarding import HeldRewards
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
from workers.taught import HeldAlignments

_KEPT = 2
"""Classifiers that a worker keeps: one that is in use, and one beside it."""


class HeldDirections(Holding[SafetyDirection]):
    """The directions of a registry that fit one annotator.

    Args:
        registry: the artifact store's directions.
        annotator: what they must fit.
        alignments: the taught models that some of them read instead.
    """

    def __init__(self, registry: Registry, annotator: Annotator, alignments: HeldAlignments) -> None:
        super().__init__(registry, self._read, DirectionError)
        self.registry = registry
        self._annotator = annotator
        self._alignments = alignments

    def made_by(self, recipe: str) -> list[SafetyDirection]:
        """What is held, reads the annotator itself and was made by a recipe."""
        held = [direction for direction in self.all().values() if direction.card.alignment is None]
        return [direction for direction in held if direction.card.recipe == recipe]

    def variant(self, direction: SafetyDirection) -> Variant | None:
        """What a direction reads if it is not the annotator itself.

        Raises:
            NotHeld: that was deleted or is damaged.
        """
        card = direction.card
        return self._alignments.model(card.alignment, card.model_revision) if card.alignment else None

    def _still_usable(self, direction: SafetyDirection) -> bool:
        alignment = direction.card.alignment
        return alignment is None or self._alignments.on_shelf(alignment.id)

    def _read(self, name: str, digest: str) -> SafetyDirection:
        direction = stored(self.registry, name, digest, (CARD, TENSORS), from_files)
        check_fits(
            direction,
            model=self._annotator.name,
            revision=self._read_revision(direction.card),
            template=self._annotator.template.digest,
            depth=self._annotator.depth,
            width=self._annotator.width,
        )
        return direction

    def _read_revision(self, card: DirectionCard) -> str:
        """Of what a direction must have been made for: a taught model of its alignment, or the annotator."""
        if card.alignment is None:
            return self._annotator.revision
        taught = self._alignments.get(card.alignment).card.taught_revisions
        return card.model_revision if card.model_revision in taught else taught[0]


def held_banks(banks: RuleBanks, pools: RulePools, annotator: Annotator) -> Holding[RuleBank]:
    """The banks of rule probes that fit one annotator and the pools they were made for."""

    def read(name: str, digest: str) -> RuleBank:
        card = BANK_FORMAT.card_of(name, banks.part(name, digest, BANK_CARD))
        pool = pools.pool(card.pool, card.pool_digest)  # before the numbers, which are many
        bank = stored(banks, name, digest, (BANK_CARD, BANK_TENSORS), bank_of)
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
        self._classifiers = LastUsed[Classifier](_KEPT)

    def classifier(self, adapter: LoraAdapter) -> Classifier:
        """The adapter on the annotator's weights; of those asked for, the last two are kept.

        Raises:
            RuleError: it does not go with the annotator.
        """
        return self._classifiers.get(adapter.digest, lambda: adapter.classifier(self._annotator))

    def _read(self, name: str, digest: str) -> RuleAdapter:
        card = ADAPTER_FORMAT.card_of(name, self._adapters.part(name, digest, ADAPTER_CARD))
        pool = self._pools.pool(card.pool, card.pool_digest)  # before the numbers, as of banks
        adapter = stored(self._adapters, name, digest, (ADAPTER_CARD, ADAPTER_TENSORS), adapter_of)
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
        alignments: taught models.
        rewards: reward models.
    """

    directions: HeldDirections
    pools: Holding[RulePool]
    banks: Holding[RuleBank]
    adapters: HeldAdapters
    alignments: HeldAlignments
    rewards: HeldRewards

    @classmethod
    def of(cls, artifacts: Artifacts, annotator: Annotator) -> "Holdings":
        """Nothing yet, of what the store has for an annotator."""
        pools, alignments = RulePools(artifacts), HeldAlignments(Alignments(artifacts), annotator)
        return cls(
            HeldDirections(Registry(artifacts), annotator, alignments),
            Holding(pools, pools.pool, PoolMissing),
            held_banks(RuleBanks(artifacts), pools, annotator),
            HeldAdapters(RuleAdapters(artifacts), pools, annotator),
            alignments,
            HeldRewards(RewardModels(artifacts), annotator),
        )

    def refresh(self) -> list[str]:
        """Hold what the store holds now; says which shelves changed."""
        shelves: tuple[Holding[Any], ...]
        shelves = (self.alignments, self.directions, self.pools, self.banks, self.adapters, self.rewards)
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
