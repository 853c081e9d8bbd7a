"""What of all that waits makes the next batch."""

from types import SimpleNamespace
from typing import cast

import pytest

from tests.workers.test_batcher import BUDGET, group
from workers.engine.variant import Variant
from workers.pending import Pending, PendingGroup, Submitted


def waiting(*sizes: int, variant: Variant | None = None, names: int = 0) -> list[PendingGroup]:
    """Groups of these sizes, each with a prompt of its own, of one submission."""
    submission = Submitted([], variant, [None] * len(sizes), len(sizes))
    groups = [group(names + number, prompt=size - 1) for number, size in enumerate(sizes)]
    return [PendingGroup(own, submission, index) for index, own in enumerate(groups)]


def of(revision: str) -> Variant:
    return cast(Variant, SimpleNamespace(revision=revision))


def sizes(taken: tuple[list[PendingGroup], bool]) -> list[int]:
    return [entry.group.size for entry in taken[0]]


@pytest.fixture
def pending() -> Pending:
    return Pending()


def test_urgent_groups_come_before_those_that_waited_longer(pending: Pending) -> None:
    pending.add(waiting(90, 90), urgent=False)
    pending.add(waiting(80, names=10), urgent=True)
    assert sizes(pending.take(BUDGET, 1)) == [80]
    assert pending.take(BUDGET, 1)[1] is False
    assert len(pending) == 1


def test_what_more_than_fills_all_passes_is_cut_into_full_batches(pending: Pending) -> None:
    pending.add(waiting(*[25] * 9), urgent=True)
    assert [len(pending.take(BUDGET, passes)[0]) for passes in (2, 1)] == [4, 4]


@pytest.mark.parametrize(("passes", "batches"), [(1, [4]), (2, [2, 2]), (4, [1, 1, 1, 1])])
def test_passes_that_are_free_share_what_they_could_take_at_once(
    pending: Pending, passes: int, batches: list[int]
) -> None:
    pending.add(waiting(*[20] * 4), urgent=True)
    assert [len(pending.take(BUDGET, passes - begun)[0]) for begun in range(len(batches))] == batches
    assert not len(pending)


def test_many_small_groups_are_shared_as_well_as_few_large_ones(pending: Pending) -> None:
    pending.add(waiting(*[2] * 40), urgent=True)
    assert len(pending.take(BUDGET, 2)[0]) <= 20


def test_what_is_urgent_is_not_divided_where_other_work_waits_for_the_other_passes(pending: Pending) -> None:
    pending.add(waiting(90, 90), urgent=False)
    pending.add(waiting(20, 20, names=10), urgent=True)
    assert sizes(pending.take(BUDGET, 2)) == [20, 20]


def test_what_another_model_is_to_read_is_in_another_batch_and_loses_no_place(pending: Pending) -> None:
    pending.add(waiting(10, variant=of("a")), urgent=True)
    pending.add(waiting(11, names=10, variant=of("b")), urgent=True)
    pending.add(waiting(12, names=20, variant=of("a")), urgent=True)
    assert sizes(pending.take(BUDGET, 1)) == [10, 12]
    assert sizes(pending.take(BUDGET, 1)) == [11]


def test_two_models_share_the_passes_that_are_free(pending: Pending) -> None:
    pending.add(waiting(20, 20, variant=of("a")), urgent=True)
    pending.add(waiting(20, 20, names=10, variant=of("b")), urgent=True)
    assert [sizes(pending.take(BUDGET, passes)) for passes in (2, 1)] == [[20, 20], [20, 20]]


def test_groups_that_are_the_same_come_along_for_nothing(pending: Pending) -> None:
    pending.add([*waiting(90), *waiting(90), *waiting(90)], urgent=True)
    assert sizes(pending.take(BUDGET, 1)) == [90, 90, 90]


def test_a_batch_is_full_once_enough_waits_for_one_model(pending: Pending) -> None:
    pending.add(waiting(60, variant=of("a")), urgent=True)
    pending.add(waiting(60, names=10, variant=of("b")), urgent=True)
    assert not pending.fills(BUDGET)
    pending.add(waiting(60, names=20, variant=of("a")), urgent=True)
    assert pending.fills(BUDGET)
