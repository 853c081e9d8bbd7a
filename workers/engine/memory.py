"""What fits into memory: how many tokens a pass should hold, and what becomes of one that held too many."""

import threading
from collections.abc import Callable, Sequence
from typing import TypeVar

import torch

from workers.engine.accelerator import watched
from workers.engine.errors import OutOfMemory

_LEAST = 1024
_PATIENCE = 256

Item = TypeVar("Item")
Result = TypeVar("Result")


class Budget:
    """Tokens that one pass should hold, shared by all who make passes: fewer for a while after memory did not suffice.

    Args:
        tokens: as many at most.

    Attributes:
        when_short: called whenever memory did not suffice.
    """

    def __init__(self, tokens: int) -> None:
        self.when_short: Callable[[], object] = lambda: None
        self._lock = threading.Lock()
        self.settle(tokens)

    @property
    def tokens(self) -> int:
        """How many at present."""
        return self._tokens

    def settle(self, tokens: int) -> None:
        """From now on as many at most."""
        with self._lock:
            self._most = self._tokens = tokens
            self._since = 0

    def enough(self) -> None:
        """Memory sufficed for a pass; after many such, the next may hold twice as many tokens up to the most."""
        if self._tokens == self._most:
            return
        with self._lock:
            self._since += 1
            if self._since >= _PATIENCE:
                self._tokens, self._since = min(2 * self._tokens, self._most), 0

    def short(self, tokens: int) -> None:
        """It did not for a pass of so many tokens; if the budget allowed them, it is half as large from now on."""
        with self._lock:
            self._since = 0
            if tokens <= self._tokens:
                self._tokens = max(self._tokens // 2, min(_LEAST, self._most))
        self.when_short()


def in_half(items: Sequence[Item]) -> list[Sequence[Item]]:
    """Two halves of several items; one alone stays whole."""
    middle = len(items) // 2
    return [items[:middle], items[middle:]] if middle else [items]


def within_memory(
    budget: Budget,
    run: Callable[[Sequence[Item]], Result],
    items: Sequence[Item],
    size: Callable[[Sequence[Item]], int],
    halves: Callable[[Sequence[Item]], list[Sequence[Item]]] = in_half,
) -> list[Result]:
    """What `run` makes of all items; where memory does not suffice, of their halves, and of theirs.

    Args:
        budget: told how it went.
        run: computes on the annotator's device.
        items: what to compute.
        size: tokens of some items.
        halves: two parts of some items; one where they cannot be parted.

    Returns:
        What `run` returned for each part, in order.

    Raises:
        OutOfMemory: even what cannot be parted needs more.
        DeviceLost: the device computes nothing any more.
    """
    found: list[Result] = []
    waiting = [items]
    while waiting:
        some = waiting.pop()
        if made := _attempt(run, some):
            budget.enough()
            found += made
            continue
        with watched():
            torch.cuda.empty_cache()
        budget.short(size(some))
        parts = halves(some)
        if len(parts) == 1:
            raise OutOfMemory("this needs more memory than the annotator's device has left", tokens=size(some))
        waiting += reversed(parts)
    return found


def _attempt(run: Callable[[Sequence[Item]], Result], items: Sequence[Item]) -> list[Result]:
    """What `run` makes of the items; nothing where memory does not suffice.

    A function of its own: once it has returned, the traceback is gone, which holds all tensors of the attempt.
    """
    try:
        with watched():
            return [run(items)]
    except torch.OutOfMemoryError:
        return []
