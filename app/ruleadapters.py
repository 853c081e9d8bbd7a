"""Rule adapters in the artifact store, by id and content digest: `rule-adapters/{id}/{digest}/`."""

from dataclasses import dataclass
from typing import ClassVar

from pydantic import ValidationError

from app.schemas.ruleadapters import AdapterCard
from app.shelf import Shelf

CARD, TENSORS = "adapter.json", "adapter.safetensors"


class AdapterMissing(Exception):
    """No rule adapter of this id, or none of this digest, is in the store."""


@dataclass(frozen=True)
class RuleAdapters(Shelf):
    """The rule adapters of one artifact store; `AdapterMissing` where one is not there."""

    folder: ClassVar[str] = "rule-adapters"
    noun: ClassVar[str] = "rule adapter"
    missing: ClassVar[type[Exception]] = AdapterMissing

    def card(self, adapter_id: str) -> AdapterCard:
        """What is known of a rule adapter.

        Raises:
            AdapterMissing: there is none, or its card cannot be read.
        """
        try:
            return AdapterCard.model_validate_json(self.part(adapter_id, self.digest(adapter_id), CARD))
        except ValidationError:
            raise AdapterMissing(f"the card of {adapter_id} cannot be read") from None
