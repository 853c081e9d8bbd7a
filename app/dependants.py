"""What was made for a rule pool, and is of no use without it."""

from collections.abc import Collection, Sequence

from app.artifacts import Artifacts
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


def _counted(noun: str, names: Sequence[str]) -> str:
    named = ", ".join(names[:_MOST_NAMED]) + (", …" if len(names) > _MOST_NAMED else "")
    return f"{len(names)} {noun}{'s' if len(names) > 1 else ''} ({named})"
