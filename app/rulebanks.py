"""Banks of rule probes in the artifact store, by id and content digest: `rule-banks/{id}/{digest}/`."""

from dataclasses import dataclass
from typing import ClassVar

from app.schemas.rulebanks import BankCard
from app.shelf import CardShelf, Missing

CARD, TENSORS = "bank.json", "bank.safetensors"


class BankMissing(Missing):
    """No bank of this id, or none of this digest, is in the store."""


@dataclass(frozen=True)
class RuleBanks(CardShelf[BankCard]):
    """The banks of one artifact store; `BankMissing` where one is not there."""

    folder: ClassVar[str] = "rule-banks"
    noun: ClassVar[str] = "rule bank"
    missing: ClassVar[type[Missing]] = BankMissing
    schema: ClassVar[type[BankCard]] = BankCard
    card_file: ClassVar[str] = CARD
