"""Banks of rule probes in the artifact store, by id and content digest: `rule-banks/{id}/{digest}/`."""

import logging
from dataclasses import dataclass
from typing import ClassVar

from pydantic import ValidationError

from app.schemas.rulebanks import BankCard
from app.shelf import Missing, Shelf

log = logging.getLogger(__name__)

CARD, TENSORS = "bank.json", "bank.safetensors"


class BankMissing(Missing):
    """No bank of this id, or none of this digest, is in the store."""


@dataclass(frozen=True)
class RuleBanks(Shelf):
    """The banks of one artifact store; `BankMissing` where one is not there."""

    folder: ClassVar[str] = "rule-banks"
    noun: ClassVar[str] = "rule bank"
    missing: ClassVar[type[Missing]] = BankMissing

    def card(self, bank_id: str) -> BankCard:
        """What is known of a bank.

        Raises:
            BankMissing: there is none, or its card cannot be read.
        """
        try:
            return BankCard.model_validate_json(self.part(bank_id, self.digest(bank_id), CARD))
        except ValidationError:
            raise BankMissing(f"the card of {bank_id} cannot be read") from None

    def cards(self) -> list[BankCard]:
        """What is known of every bank, by id; a card that cannot be read is logged and left out."""
        cards = []
        for name in sorted(self.current()):
            try:
                cards.append(self.card(name))
            except BankMissing as error:
                log.warning("not listed: %s", error)
        return cards
