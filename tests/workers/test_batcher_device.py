"""The forward stage on an accelerator: passes take turns, memory runs out, and the device can be lost."""

import threading
import weakref
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from tests.workers.test_batcher import (
    BREAKING,
    BUDGET,
    PATIENCE,
    SHALLOW,
    FakeForward,
    await_pending,
    direction,
    finish,
    group,
    later,
    values,
)
from workers.batcher import Batcher
from workers.engine.errors import DeviceLost, OutOfMemory
from workers.engine.memory import Budget
from workers.engine.packing import Group
from workers.engine.sites import Site
from workers.engine.variant import Variant
from workers.metrics import WorkerMetrics

READS = [direction(SHALLOW)]


def test_where_passes_take_turns_the_next_batch_is_made_once_it_is_full_or_nothing_runs() -> None:
    forward, begun, go_on = FakeForward(), threading.Semaphore(0), threading.Semaphore(0)
    sizes: list[int] = []

    def waiting(groups: Sequence[Group], sites: Sequence[Site], _variant: Variant | None = None) -> Tensor:
        sizes.append(len(groups))
        begun.release()
        assert go_on.acquire(timeout=PATIENCE)
        return forward(groups, sites)

    batcher = Batcher(waiting, Budget(BUDGET), WorkerMetrics(), in_turn=True)
    threads = [threading.Thread(target=batcher.run, daemon=True) for _ in range(2)]
    for thread in threads:
        thread.start()
    first = later(lambda: batcher.score([group(1, prompt=40)], READS))
    assert begun.acquire(timeout=PATIENCE)
    second = later(lambda: batcher.score([group(2, prompt=40)], READS))
    await_pending(batcher, 1)
    assert not begun.acquire(timeout=0.05)  # launched now it would run no sooner, and alone
    third = later(lambda: batcher.score([group(n, prompt=40) for n in (3, 4)], READS))
    assert begun.acquire(timeout=PATIENCE)  # full, and prepared while the first one runs
    go_on.release(2)
    assert begun.acquire(timeout=PATIENCE)  # not full, but nothing runs any more
    go_on.release()
    assert [values(f.result(PATIENCE)) for f in (first, second, third)] == [[[2.0]], [[4.0]], [[6.0], [8.0]]]
    assert sizes == [1, 2, 1]
    batcher.close()
    for thread in threads:
        thread.join(PATIENCE)


def test_a_lost_device_ends_the_thread_and_no_pair_is_refused_for_it() -> None:
    tried: list[int] = []

    def lost(groups: Sequence[Group], _sites: Sequence[Site], _variant: Variant | None = None) -> Tensor:
        tried.append(len(groups))
        raise DeviceLost("AcceleratorError: CUDA error: an illegal memory access was encountered")

    batcher = Batcher(lost, Budget(BUDGET), WorkerMetrics())
    future = later(lambda: batcher.score([group(1), group(2)], READS))
    await_pending(batcher, 2)
    with pytest.raises(DeviceLost):
        batcher.run()
    assert not future.done()
    assert tried == [2]


def test_a_pair_that_memory_does_not_suffice_for_is_refused_alone() -> None:
    forward = FakeForward()
    forward.error = OutOfMemory("too large", tokens=7)
    batcher = Batcher(forward, Budget(BUDGET), WorkerMetrics())
    future = later(lambda: batcher.score([group(1), group(2, BREAKING), group(3)], READS))
    await_pending(batcher, 3)
    finish(batcher)
    outcomes = future.result(PATIENCE)
    assert values(outcomes) == [[2.0], "out_of_memory", [6.0]]
    assert isinstance(outcomes[1], OutOfMemory)
    assert outcomes[1].counts == {"tokens": 7}


def test_a_failed_batch_holds_no_memory_while_its_halves_are_tried() -> None:
    held: list[weakref.ref[Tensor]] = []
    alive: list[int] = []

    def failing(groups: Sequence[Group], sites: Sequence[Site], _variant: Variant | None = None) -> Tensor:
        alive.append(sum(reference() is not None for reference in held))
        large = torch.ones(len(groups), len(sites), 2)
        held.append(weakref.ref(large))
        if len(groups) > 1:
            raise RuntimeError("too many")
        return large.clone()

    batcher = Batcher(failing, Budget(BUDGET), WorkerMetrics())
    future = later(lambda: batcher.score([group(n) for n in range(4)], READS))
    await_pending(batcher, 4)
    finish(batcher)
    assert len(future.result(PATIENCE)) == 4
    assert alive == [0] * 7


def test_a_batch_is_as_large_as_the_budget_allows_when_it_is_made() -> None:
    forward, budget = FakeForward(), Budget(BUDGET)
    batcher = Batcher(forward, budget, WorkerMetrics())
    future = later(lambda: batcher.score([group(n, prompt=40) for n in range(4)], READS))
    await_pending(batcher, 4)
    budget.settle(60)
    finish(batcher)
    assert len(future.result(PATIENCE)) == 4
    assert [len(batch) for batch in forward.batches] == [1] * 4
