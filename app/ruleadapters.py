"""Rule adapters in the artifact store, by id and content digest: `rule-adapters/{id}/{digest}/`."""

from dataclasses import dataclass
from typing import ClassVar

from app.schemas.ruleadapters import AdapterCard
from app.shelf import CardShelf, Missing

CARD, TENSORS = "adapter.json", "adapter.safetensors"


class AdapterMissing(Missing):
    """No rule adapter of this id, or none of this digest, is in the store."""


@dataclass(frozen=True)
class RuleAdapters(CardShelf[AdapterCard]):
    """The rule adapters of one artifact store; `AdapterMissing` where one is not there."""

    folder: ClassVar[str] = "rule-adapters"
    noun: ClassVar[str] = "rule adapter"
    missing: ClassVar[type[Missing]] = AdapterMissing
    schema: ClassVar[type[AdapterCard]] = AdapterCard
    card_file: ClassVar[str] = CARD
