"""Rule adapters in the artifact store, by id and content digest: `rule-adapters/{id}/{digest}/`."""

import logging
from dataclasses import dataclass
from typing import ClassVar

from pydantic import ValidationError

from app.schemas.ruleadapters import AdapterCard
from app.shelf import Missing, Shelf

log = logging.getLogger(__name__)

CARD, TENSORS = "adapter.json", "adapter.safetensors"


class AdapterMissing(Missing):
    """No rule adapter of this id, or none of this digest, is in the store."""


@dataclass(frozen=True)
class RuleAdapters(Shelf):
    """The rule adapters of one artifact store; `AdapterMissing` where one is not there."""

    folder: ClassVar[str] = "rule-adapters"
    noun: ClassVar[str] = "rule adapter"
    missing: ClassVar[type[Missing]] = AdapterMissing

    def card(self, adapter_id: str) -> AdapterCard:
        """What is known of a rule adapter.

        Raises:
            AdapterMissing: there is none, or its card cannot be read.
        """
        try:
            return AdapterCard.model_validate_json(self.part(adapter_id, self.digest(adapter_id), CARD))
        except ValidationError:
            raise AdapterMissing(f"the card of {adapter_id} cannot be read") from None

    def cards(self) -> list[AdapterCard]:
        """What is known of every rule adapter, by id; a card that cannot be read is logged and left out."""
        cards = []
        for name in sorted(self.current()):
            try:
                cards.append(self.card(name))
            except AdapterMissing as error:
                log.warning("not listed: %s", error)
        return cards
