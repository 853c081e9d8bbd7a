"""What was made for a rule pool or with a taught model, and is of no use without it."""

from collections.abc import Collection, Sequence

from app.artifacts import Artifacts
from app.registry import Registry
from app.ruleadapters import RuleAdapters
from app.rulebanks import RuleBanks

_MOST_NAMED = 10


def dependants(artifacts: Artifacts, pool_id: str, digests: Collection[str]) -> str:
    """The banks and adapters that were made for a pool as it is, or was, under one of these digests.

    Returns:
        How many and which, such as `2 rule banks (a, b) and 1 rule adapter (c)`; empty where there are none.
    """
    found = [
        (shelf.noun, [card.id for card in shelf.cards() if card.pool == pool_id and card.pool_digest in digests])
        for shelf in (RuleBanks(artifacts), RuleAdapters(artifacts))
    ]
    return " and ".join(_counted(noun, names) for noun, names in found if names)


def directions_of(artifacts: Artifacts, alignment_id: str) -> str:
    """The directions that read the activations of a taught model, as `dependants` has it."""
    cards = Registry(artifacts).cards()
    names = [card.id for card in cards if card.alignment is not None and card.alignment.id == alignment_id]
    return _counted("direction", names) if names else ""


def _counted(noun: str, names: Sequence[str]) -> str:
    named = ", ".join(names[:_MOST_NAMED]) + (", …" if len(names) > _MOST_NAMED else "")
    return f"{len(names)} {noun}{'s' if len(names) > 1 else ''} ({named})"
