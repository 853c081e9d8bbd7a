"""Groups that somebody waits for overtake the others, at the boundary of a batch."""

from collections.abc import Sequence
from concurrent.futures import Future
from threading import Event

import pytest
import torch
from torch import Tensor

from tests.workers.test_batcher import (
    PATIENCE,
    SHALLOW,
    FakeForward,
    Outcomes,
    await_pending,
    direction,
    finish,
    group,
    later,
    values,
)
from workers.batcher import Batcher
from workers.engine.memory import Budget
from workers.engine.packing import Group
from workers.engine.sites import Site
from workers.engine.variant import Variant
from workers.metrics import WorkerMetrics

READS = [direction(SHALLOW)]


def submit(batcher: Batcher, groups: Sequence[Group], *, urgent: bool) -> "Future[Outcomes]":
    return later(lambda: batcher.score(groups, READS, urgent=urgent))


def prompts(batch: Sequence[Group]) -> set[int]:
    return {one.prompt for one in batch}


def test_urgent_groups_come_first_and_everybody_gets_their_own() -> None:
    forward = FakeForward()
    batcher = Batcher(forward, Budget(100), WorkerMetrics())
    bulk = submit(batcher, [group(n, prompt=90) for n in range(4)], urgent=False)
    await_pending(batcher, 4)
    urgent = submit(batcher, [group(10, prompt=80), group(11, prompt=80)], urgent=True)
    await_pending(batcher, 6)
    finish(batcher)
    assert [prompts(batch) for batch in forward.batches] == [{80}] * 2 + [{90}] * 4
    assert values(urgent.result(PATIENCE)) == [[20.0], [22.0]]
    assert values(bulk.result(PATIENCE)) == [[2.0 * n] for n in range(4)]


def test_an_urgent_group_overtakes_a_running_submission_at_the_next_batch() -> None:
    order: list[set[int]] = []
    late: list[Future[Outcomes]] = []

    def forward(groups: Sequence[Group], _sites: Sequence[Site], _variant: Variant | None = None) -> Tensor:
        order.append(prompts(groups))
        if not late:
            late.append(submit(batcher, [group(1, prompt=80)], urgent=True))
            await_pending(batcher, 2 + 1)
        return torch.zeros(sum(len(one.branches) for one in groups), 1, 2)

    batcher = Batcher(forward, Budget(100), WorkerMetrics())
    bulk = submit(batcher, [group(n, prompt=90) for n in range(3)], urgent=False)
    await_pending(batcher, 3)
    finish_after(batcher, bulk)
    assert order == [{90}, {80}, {90}, {90}]
    assert len(late[0].result(PATIENCE)) == 1


def finish_after(batcher: Batcher, last: "Future[Outcomes]") -> None:
    """Run until a submission has its scores, then close."""
    running = later(lambda: batcher.run() or [])  # type: ignore[func-returns-value]
    last.result(PATIENCE)
    batcher.close()
    running.result(PATIENCE)


@pytest.mark.parametrize("urgent", [True, False])
def test_either_sort_alone_is_scored(urgent: bool) -> None:
    batcher = Batcher(FakeForward(), Budget(100), WorkerMetrics())
    future = submit(batcher, [group(1, 2)], urgent=urgent)
    await_pending(batcher, 1)
    finish(batcher)
    assert values(future.result(PATIENCE)) == [[2.0, 4.0]]


def test_more_bulk_work_is_wanted_only_once_the_batches_that_wait_are_begun() -> None:
    batcher = Batcher(FakeForward(), Budget(100), WorkerMetrics())
    bulk = submit(batcher, [group(n, prompt=90) for n in range(4)], urgent=False)
    await_pending(batcher, 4)
    wanted = Event()

    def bring() -> Outcomes:
        with batcher.appetite.turn():
            wanted.set()
        return []

    lane = later(bring)
    assert not wanted.wait(0.05)
    finish(batcher)
    assert len(bulk.result(PATIENCE)) == 4
    lane.result(PATIENCE)


def test_urgent_work_spoils_no_appetite_for_bulk_work() -> None:
    batcher = Batcher(FakeForward(), Budget(100), WorkerMetrics())
    submit(batcher, [group(n, prompt=90) for n in range(4)], urgent=True)
    await_pending(batcher, 4)
    with batcher.appetite.turn():
        pass
    finish(batcher)
