"""What is known of banks of rule probes before any of their numbers is read."""

from pathlib import Path

from pydantic import ValidationError

from app.rulebanks import CARD
from app.schemas.rulebanks import BankCard
from app.schemas.rules import RulePool
from workers.rules.errors import UnusableBank

SHIPPED = Path(__file__).with_name("shipped")
"""Banks that come with the service, a folder of files each."""


def shipped_cards() -> dict[Path, BankCard]:
    """The cards of the banks that come with the service, by their folders."""
    return {path.parent: card_in(path.parent) for path in sorted(SHIPPED.glob(f"*/{CARD}"))}


def card_in(folder: Path) -> BankCard:
    """The card of a bank whose files lie in a folder.

    Raises:
        UnusableBank: there is none that can be read.
    """
    try:
        return BankCard.model_validate_json((folder / CARD).read_bytes())
    except OSError as error:
        raise UnusableBank(f"{folder}: {error.strerror}") from error
    except ValidationError:
        raise UnusableBank(f"{folder}: its {CARD} is no card of a rule bank") from None


def check_pool(card: BankCard, pool: RulePool, pool_id: str) -> None:
    """Refuse a bank with rules that it was not made for.

    Raises:
        UnusableBank: naming its pool and this one.
    """
    if card.pool_digest == pool.digest and [rule.rule for rule in card.rules] == [rule.id for rule in pool.ordered]:
        return
    if card.pool == pool_id:
        raise UnusableBank(f"rule bank {card.id} was made for what pool {pool_id} was before, not for what it is now")
    raise UnusableBank(f"rule bank {card.id} was made for pool {card.pool}, not for pool {pool_id}")
