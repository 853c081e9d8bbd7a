"""What waits for the forward stage, and what of it makes the next batch."""

import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import accumulate, chain, islice
from typing import Protocol

from torch import Tensor

from app.log import request_id
from workers.engine.errors import PairRefused
from workers.engine.packing import Group, pack
from workers.engine.sites import Site
from workers.engine.variant import Variant

Scores = tuple[Tensor, ...]
"""Of a group's K responses: what each scorer makes of them, [K, …]."""

_WINDOW = 16


class Scorer(Protocol):
    """Something that makes numbers of the activations at some sites: a safety direction, a bank of rule probes."""

    @property
    def reads(self) -> tuple[Site, ...]:
        """The S sites it reads."""

    def scores(self, activations: Tensor) -> Tensor:
        """What it makes of n responses, [n, …], from their [n, S, d] activations."""


@dataclass
class Submitted:
    """Groups of one chunk of a request on their way since some moment, in seconds of the monotonic clock.

    `done` is set once every one has its scores or its refusal.
    """

    scorers: Sequence[Scorer]
    variant: Variant | None
    outcomes: list[Scores | PairRefused | None]
    left: int
    request: str = field(default_factory=request_id.get)
    since: float = field(default_factory=time.monotonic)
    done: threading.Event = field(default_factory=threading.Event)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def settle(self, index: int, outcome: Scores | PairRefused) -> None:
        """What has come of the group at an index."""
        with self.lock:
            self.outcomes[index] = outcome
            self.left -= 1
            if self.left == 0:
                self.done.set()


@dataclass(frozen=True)
class PendingGroup:
    """A group of a submission, at its index there."""

    group: Group
    submission: Submitted
    index: int

    @property
    def revision(self) -> str | None:
        """Of what is to read the group, where that is not the annotator itself."""
        return self.submission.variant.revision if self.submission.variant else None


class Pending:
    """Groups in the order in which they came, urgent ones before the others. Not for several threads at once."""

    def __init__(self) -> None:
        self._urgent: deque[PendingGroup] = deque()
        self._bulk: deque[PendingGroup] = deque()

    def __len__(self) -> int:
        return len(self._urgent) + len(self._bulk)

    def add(self, entries: Iterable[PendingGroup], *, urgent: bool) -> None:
        """Let some more wait."""
        (self._urgent if urgent else self._bulk).extend(entries)

    def fills(self, tokens: int) -> bool:
        """Whether a batch of so many tokens would be full."""
        return _reaches(_alike(self._urgent or self._bulk), tokens)

    def take(self, tokens: int, passes: int) -> tuple[list[PendingGroup], bool]:
        """The batch that holds the oldest urgent group, filled with urgent groups of about its length.

        Where none is urgent, the same of all that waits. Groups that are the same come along for nothing.

        Args:
            tokens: of a batch at most, unless one group has more.
            passes: how many can begin now; where less waits than they can take, each has its part of it.

        Returns:
            What was taken, and whether it is urgent.
        """
        queue = self._urgent or self._bulk
        window = list(islice(queue, _WINDOW * max(1, tokens // 256)))
        alike = list(_alike(window))
        different = list(dict.fromkeys(entry.group for entry in alike))
        if not _reaches(chain(self._urgent, self._bulk), tokens * passes):
            waiting = {entry.group for entry in chain(self._urgent, self._bulk)}
            tokens = -(-sum(group.size for group in waiting) // passes)
        batch = next(batch for batch in pack(different, tokens) if 0 in batch)
        taken = {different[i] for i in batch}
        found = [entry for entry in alike if entry.group in taken]
        for _ in window:
            queue.popleft()
        gone = set(map(id, found))
        queue.extendleft(entry for entry in reversed(window) if id(entry) not in gone)
        return found, queue is self._urgent


def _alike(pending: Sequence[PendingGroup]) -> Iterator[PendingGroup]:
    """What is to be read by the same model as the first."""
    return (entry for entry in pending if entry.revision == pending[0].revision)


def _reaches(pending: Iterable[PendingGroup], tokens: int) -> bool:
    return any(total >= tokens for total in accumulate(entry.group.size for entry in pending))
