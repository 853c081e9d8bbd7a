"""One forward stage fed by many lanes: groups of different requests share batches, none waits on purpose.

What a taught model is to read shares no batch with what the annotator, or another one, is to read.

Lanes (threads that take chunks from the queue) submit groups and block; the forward stage packs whatever is pending at
this moment into the next batch and runs it. There is no delay to fill a batch: while one runs, the next gathers. Where
less waits than the free passes can take, they share it.

The forward stage is one thread for each pass that should run side by side, one a core on a CPU. Passes on a GPU run
one after the other, and there one more thread prepares the next: it begins once what waits fills a batch, or as soon as
nothing runs. Sooner, it would launch a small batch behind the one that runs, which fills no faster for that.
"""

import logging
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from itertools import islice

import torch

from app.log import event
from workers.appetite import Appetite
from workers.engine.crew import Read
from workers.engine.errors import NotFinite, PairRefused, refusal_of
from workers.engine.memory import Budget
from workers.engine.packing import Group, United
from workers.engine.variant import Variant
from workers.metrics import WorkerMetrics
from workers.pending import Pending, PendingGroup, Scorer, Scores, Submitted

log = logging.getLogger(__name__)

_LOOK_SECONDS = 1.0
_MOST_NAMED = 32

_Work = Callable[[list[Scores | PairRefused | None], int], Submitted]


class Batcher:
    """Scores groups in shared batches on the threads that call `run`.

    Args:
        read: the forward pass.
        budget: tokens of one batch.
        metrics: where work is counted.
        passes: how many threads make passes.
        in_turn: whether passes run one after the other, however many threads make them.

    Attributes:
        appetite: says when to bring more bulk work.
    """

    def __init__(
        self, read: Read, budget: Budget, metrics: WorkerMetrics, *, passes: int = 1, in_turn: bool = False
    ) -> None:
        self.appetite = Appetite(budget, passes)
        self._read = read
        self._budget = budget
        self._metrics = metrics
        self._passes = passes
        self._in_turn = in_turn
        self._pending = Pending()
        self._wake = threading.Condition()
        self._closed = False
        self._running: dict[int, float] = {}

    def run(self) -> None:
        """Score what is submitted until closed; any number of threads may do so.

        Raises:
            DeviceLost: the device failed; what is pending never has an outcome.
        """
        me = threading.get_ident()
        while batch := self._next_batch():
            started = self._running[me]
            try:
                self._score_batch(batch)
            finally:
                with self._wake:
                    del self._running[me]
                    self._wake.notify_all()
            ended = time.monotonic()
            time.sleep(0)  # those whose groups these were go on first
            self._note(batch, started, ended)

    def close(self) -> None:
        """Let `run` return once nothing is pending."""
        with self._wake:
            self._closed = True
            self._wake.notify_all()

    def batch_seconds(self) -> float:
        """How long the oldest of the running batches has been running; 0 between batches."""
        return max((time.monotonic() - started for started in list(self._running.values())), default=0.0)

    def score(
        self,
        groups: Sequence[Group],
        scorers: Sequence[Scorer],
        *,
        variant: Variant | None = None,
        urgent: bool = True,
    ) -> list[Scores | PairRefused]:
        """What the scorers make of each group's responses, all of them from one forward pass, of a variant if given.

        A prompt that several groups share, and a response that occurs in several, are computed once. Where a group has
        no scores there is the reason instead. Urgent groups overtake the others at the next batch. Blocks; call from
        any thread.
        """
        if not scorers:
            self.appetite.brought(0)
            return [()] * len(groups)
        united = United.of(groups)
        work = partial(Submitted, scorers, variant)
        shared = self._split(united.groups, work, urgent)
        outcomes = [_own(shared[which], branches) for which, branches in united.places]
        if len(united.groups) == len(groups):
            return outcomes
        doubtful = [i for i, outcome in enumerate(outcomes) if isinstance(outcome, PairRefused)]
        for i, outcome in zip(doubtful, self._split([groups[i] for i in doubtful], work, urgent), strict=True):
            outcomes[i] = outcome  # refused for what another group brought along, it may be fine alone
        return outcomes

    def _note(self, batch: list[PendingGroup], started: float, ended: float) -> None:
        """Count a batch, and log it with the requests that it was for."""
        seconds = ended - started
        tokens = sum(group.size for group in {entry.group for entry in batch})
        waited = started - min(entry.submission.since for entry in batch)
        self._metrics.batch(tokens, self._budget.tokens, seconds, waited)
        requests = dict.fromkeys(entry.submission.request for entry in batch)
        event(
            log,
            "batch",
            groups=len(batch),
            tokens=tokens,
            waited=round(waited, 6),
            seconds=round(seconds, 6),
            requests=list(islice(requests, _MOST_NAMED)),
        )

    def _split(self, groups: Sequence[Group], work: _Work, urgent: bool) -> list[Scores | PairRefused]:
        parts = [group.split(self._budget.tokens) for group in groups]
        outcomes = iter(self._outcomes([part for split in parts for part in split], work, urgent))
        return [_joined([next(outcomes) for _ in split]) for split in parts]

    def _outcomes(self, groups: Sequence[Group], work: _Work, urgent: bool) -> list[Scores | PairRefused]:
        if not groups:
            return []
        submission = work([None] * len(groups), len(groups))
        with self._wake:
            if self._closed:
                raise RuntimeError("the forward stage is closed")
            entries = [PendingGroup(group, submission, index) for index, group in enumerate(groups)]
            self._pending.add(entries, urgent=urgent)
            self._wake.notify_all()
        if not urgent:
            self.appetite.brought(sum(group.size for group in groups))
        submission.done.wait()
        return [outcome for outcome in submission.outcomes if outcome is not None]

    def _next_batch(self) -> list[PendingGroup]:
        """The next batch; nothing once the stage is closed and nothing is pending."""
        with self._wake:
            self._await_work()
            if not self._pending:
                return []
            self._running[threading.get_ident()] = time.monotonic()
            free = 1 if self._in_turn else max(1, self._passes - len(self._running) + 1)
            batch, urgent = self._pending.take(self._budget.tokens, free)
            if not urgent:
                self.appetite.taken(sum(entry.group.size for entry in batch))
            return batch

    def _await_work(self) -> None:
        """Wait until there is a batch to make, or none any more; idle time is counted while it passes."""
        before, found = time.monotonic(), False
        while not found:
            found = self._wake.wait_for(self._should_begin, _LOOK_SECONDS)
            now = time.monotonic()
            if not (self._in_turn and self._running):
                self._metrics.idle_seconds.inc(now - before)
            before = now

    def _should_begin(self) -> bool:
        """Whether there is a batch to make now, or none to wait for any more."""
        if self._closed or not self._pending or not (self._in_turn and self._running):
            return bool(self._pending) or self._closed
        return self._pending.fills(self._budget.tokens)

    def _score_batch(self, batch: list[PendingGroup]) -> None:
        """Score a batch; if that fails, score its halves, so that only the guilty group fails.

        Activations that are not finite are such a failure: they spread to the neighbours.
        """
        if outcomes := self._attempt(batch):
            for entry, outcome in zip(batch, outcomes, strict=True):
                entry.submission.settle(entry.index, outcome)
            return
        # Only here, as an error that is being handled holds all tensors of the attempt.
        middle = len(batch) // 2
        self._score_batch(batch[:middle])
        self._score_batch(batch[middle:])

    def _attempt(self, batch: list[PendingGroup]) -> list[Scores | PairRefused]:
        """Outcomes of a batch: its scores, or the refusal of one that is alone; nothing where one of several failed."""
        try:
            return self._scores(batch)
        except Exception as error:
            if len(batch) > 1:
                return []
            log.warning("a group of %d tokens cannot be scored", batch[0].group.size, exc_info=error)
            return [refusal_of(error)]

    def _scores(self, batch: list[PendingGroup]) -> list[Scores | PairRefused]:
        asked = {id(scorer): scorer for entry in batch for scorer in entry.submission.scorers}
        sites = sorted({site for scorer in asked.values() for site in scorer.reads})
        groups = list(dict.fromkeys(entry.group for entry in batch))
        activations = self._read(groups, sites, batch[0].submission.variant)
        sizes = [len(group.branches) for group in groups]
        rows = dict(zip(groups, torch.split(torch.arange(sum(sizes)), sizes), strict=True))
        place = {site: i for i, site in enumerate(sites)}
        scored = {key: own.scores(activations[:, [place[site] for site in own.reads]]) for key, own in asked.items()}
        outcomes: list[Scores | PairRefused] = []
        for entry in batch:
            scores = tuple(scored[id(scorer)][rows[entry.group]] for scorer in entry.submission.scorers)
            if not all(torch.isfinite(own).all() for own in scores):
                raise NotFinite("the annotator's activations are not finite numbers")
            outcomes.append(scores)
        return outcomes


def _own(shared: Scores | PairRefused, branches: list[int]) -> Scores | PairRefused:
    return shared if isinstance(shared, PairRefused) else tuple(scores[branches] for scores in shared)


def _joined(outcomes: list[Scores | PairRefused]) -> Scores | PairRefused:
    """The scores of a group's parts one after another; a refusal of one part is one of all."""
    scores = [outcome for outcome in outcomes if isinstance(outcome, tuple)]
    refusals = [outcome for outcome in outcomes if isinstance(outcome, PairRefused)]
    return refusals[0] if refusals else tuple(torch.cat(parts) for parts in zip(*scores, strict=True))
