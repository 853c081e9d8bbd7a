"""When to bring more bulk work: late enough that other workers get their share, early enough that no pass waits."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from workers.engine.memory import Budget

_AHEAD = 2


class Appetite:
    """How much bulk work waits for the forward stage, and who may bring more.

    One lane at a time does, while less waits than the next two batches of every pass: what is in hand when a job comes
    to its end is what other workers cannot take.

    Args:
        budget: tokens of one batch.
        passes: how many are computed side by side.
    """

    def __init__(self, budget: Budget, passes: int) -> None:
        self._budget = budget
        self._passes = passes
        self._waiting = 0
        self._bringing: int | None = None
        self._changed = threading.Condition()

    @contextmanager
    def turn(self) -> Iterator[None]:
        """For a thread that goes for work: begins once more is wanted; others' turn comes as soon as it is brought."""
        me = threading.get_ident()
        with self._changed:
            self._changed.wait_for(self._wants_more)
            self._bringing = me
        try:
            yield
        finally:
            with self._changed:
                self._end_turn(me)

    def brought(self, tokens: int) -> None:
        """So many tokens wait now."""
        with self._changed:
            self._waiting += tokens
            self._end_turn(threading.get_ident())

    def taken(self, tokens: int) -> None:
        """So many wait no more."""
        with self._changed:
            self._waiting -= tokens
            self._changed.notify_all()

    def _wants_more(self) -> bool:
        return self._bringing is None and self._waiting < _AHEAD * self._passes * self._budget.tokens

    def _end_turn(self, thread: int) -> None:
        if self._bringing == thread:
            self._bringing = None
            self._changed.notify_all()
