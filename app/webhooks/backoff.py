"""When to try again."""

from email.utils import parsedate_to_datetime

DELAYS = (5.0, 30.0, 120.0, 600.0, 3600.0, 21_600.0, 86_400.0)
"""Seconds from a failed attempt to the next one; after the last, the delivery is given up."""

_LONGEST = 86_400.0
_SPREAD = 0.2


def delay(attempts: int, asked: float, chance: float) -> float | None:
    """Seconds until the next attempt; None to give up.

    Args:
        attempts: how many were made and failed, at least 1.
        asked: seconds that the receiver asked for, heeded up to a day.
        chance: from [0, 1), stretches the delay by up to a fifth, so that deliveries that failed together part.
    """
    if attempts > len(DELAYS):
        return None
    return max(DELAYS[attempts - 1], min(asked, _LONGEST)) * (1 + _SPREAD * chance)


def seconds_asked(retry_after: str | None, now: float) -> float:
    """Seconds that a `Retry-After` header asks for, in either notation; 0 where it makes no sense."""
    text = (retry_after or "").strip()
    if text.isascii() and text.isdigit():
        return float(text)
    try:
        return max(0.0, parsedate_to_datetime(text).timestamp() - now)
    except (ValueError, TypeError, OverflowError):
        return 0.0
