"""The forward stage reads through several models: none shares a batch with another, whoever submits."""

from dataclasses import replace

import pytest
import torch

from tests.conftest import tiny_annotator
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
from workers.engine.memory import Budget
from workers.engine.variant import Variant
from workers.metrics import WorkerMetrics

READS = [direction(SHALLOW)]
KIND, CALM = (Variant(replace(tiny_annotator(), revision=name), None) for name in ("kind", "calm"))


@pytest.fixture
def forward() -> FakeForward:
    return FakeForward()


@pytest.fixture
def idle(forward: FakeForward) -> Batcher:
    return Batcher(forward, Budget(BUDGET), WorkerMetrics())


def test_groups_of_different_models_never_share_a_batch(idle: Batcher, forward: FakeForward) -> None:
    variants = [None, KIND, CALM, KIND, None, CALM]
    submissions = [[group(10 * n + i) for i in range(2)] for n in range(len(variants))]
    futures = []
    for n, (groups, variant) in enumerate(zip(submissions, variants, strict=True)):
        futures.append(later(lambda g=groups, v=variant: idle.score(g, READS, variant=v)))  # type: ignore[misc]
        await_pending(idle, 2 * (n + 1))
    finish(idle)
    assert forward.revisions == [None, "kind", "calm"]
    for batch, asked in zip(forward.batches, (None, KIND, CALM), strict=True):
        own = [n for n, variant in enumerate(variants) if variant is asked]
        assert {g.branches[0].tokens[0] // 10 for g in batch} == set(own)
    for groups, future in zip(submissions, futures, strict=True):
        assert values(future.result(PATIENCE)) == [[2.0 * g.branches[0].tokens[0]] for g in groups]


def test_the_same_group_is_read_by_each_model(idle: Batcher, forward: FakeForward) -> None:
    same = group(1, 2)
    futures = [later(lambda v=v: idle.score([same], READS, variant=v)) for v in (None, KIND)]  # type: ignore[misc]
    await_pending(idle, 2)
    finish(idle)
    assert sorted(map(str, forward.revisions)) == ["None", "kind"]
    assert [values(future.result(PATIENCE)) for future in futures] == [[[2.0, 4.0]]] * 2


def test_a_model_loaded_anew_shares_batches_with_what_it_was(idle: Batcher, forward: FakeForward) -> None:
    again = Variant(KIND.annotator, None)
    futures = [
        later(lambda n=n, v=v: idle.score([group(n)], READS, variant=v))  # type: ignore[misc]
        for n, v in ((1, KIND), (2, again))
    ]
    await_pending(idle, 2)
    finish(idle)
    assert forward.revisions == ["kind"]
    assert [values(future.result(PATIENCE)) for future in futures] == [[[2.0]], [[4.0]]]


def test_a_group_that_fails_fails_alone_and_its_neighbours_are_read_by_the_same_model(
    idle: Batcher, forward: FakeForward
) -> None:
    future = later(lambda: idle.score([group(1), group(2, BREAKING), group(3)], READS, variant=KIND))
    await_pending(idle, 3)
    finish(idle)
    assert values(future.result(PATIENCE)) == [[2.0], "forward_failed", [6.0]]
    assert set(forward.revisions) == {"kind"}


def test_urgent_groups_overtake_whatever_is_to_read_the_others(idle: Batcher, forward: FakeForward) -> None:
    bulk = later(lambda: idle.score([group(1)], READS, variant=KIND, urgent=False))
    await_pending(idle, 1)
    urgent = later(lambda: idle.score([group(2)], READS))
    await_pending(idle, 2)
    finish(idle)
    assert forward.revisions == [None, "kind"]
    assert torch.tensor(values(urgent.result(PATIENCE)) + values(bulk.result(PATIENCE))).tolist() == [[4.0], [2.0]]
