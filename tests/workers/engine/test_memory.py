"""Too little memory: what was computed at once is computed by halves, and later passes hold less for a while."""

import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from tests.conftest import encode, tiny_annotator
from workers.engine import memory
from workers.engine.annotator import Annotator
from workers.engine.answers import next_token
from workers.engine.errors import DeviceLost, OutOfMemory
from workers.engine.forward import read, read_all
from workers.engine.generate import greedy_answers
from workers.engine.memory import Budget, within_memory
from workers.engine.packing import Group
from workers.engine.sites import Site

SITES = [Site(1, "mean"), Site(2, "last")]


@contextmanager
def card(annotator: Annotator, tokens: int) -> Iterator[list[int]]:
    """The annotator on a card with memory for so many tokens; what was tried on it."""
    tried: list[int] = []

    def allocate(_module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        tried.append(inputs[0].shape[0] * inputs[0].shape[1])
        if tried[-1] > tokens:
            raise torch.OutOfMemoryError("CUDA out of memory.")

    handle = annotator.blocks[0].register_forward_pre_hook(allocate)
    try:
        yield tried
    finally:
        handle.remove()


@pytest.fixture
def fresh(annotator: Annotator) -> Annotator:
    """The annotator with a budget of its own."""
    return replace(annotator, budget=Budget(4096))


def pairs(annotator: Annotator) -> list[Group]:
    return [encode(annotator, "word " * (i + 1), "yes " * (7 - i), "no") for i in range(6)]


def total(rows: Sequence[int]) -> int:
    return sum(rows)


def adding_up_to(most: int) -> Callable[[Sequence[int]], list[int]]:
    def run(rows: Sequence[int]) -> list[int]:
        if sum(rows) > most:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return list(rows)

    return run


def test_a_budget_halves_when_memory_did_not_suffice_for_what_it_allowed() -> None:
    budget = Budget(4096)
    budget.short(3000)
    assert budget.tokens == 2048
    budget.short(3000)  # planned before, and no reason to plan even less
    assert budget.tokens == 2048


def test_a_budget_has_a_least() -> None:
    budget, little = Budget(4096), Budget(100)
    for _ in range(20):
        budget.short(1)
        little.short(1)
    assert (budget.tokens, little.tokens) == (memory._LEAST, 100)


def test_a_budget_grows_back_to_what_it_was_after_many_passes_that_fitted() -> None:
    budget = Budget(8192)
    budget.short(8192)
    budget.short(4096)
    seen = []
    for _ in range(3 * memory._PATIENCE):
        budget.enough()
        seen.append(budget.tokens)
    assert sorted(set(seen)) == [2048, 4096, 8192]
    assert seen.index(4096) == memory._PATIENCE - 1


def test_everybody_who_asks_is_told_of_a_shortage() -> None:
    budget = Budget(4096)
    told: list[int] = []
    budget.when_short = lambda: told.append(budget.tokens)
    within_memory(budget, adding_up_to(5), [3, 4, 5], total)
    assert told == [2048, 1024]


@pytest.mark.parametrize("most", [5, 6, 9, 100])
def test_parts_are_halved_until_they_fit_and_come_back_in_order(most: int) -> None:
    rows = [1, 5, 2, 3, 3, 1, 4]
    found = within_memory(Budget(4096), adding_up_to(most), rows, total)
    assert [row for part in found for row in part] == rows
    assert all(sum(part) <= most for part in found)


def test_what_does_not_fit_and_cannot_be_parted_is_refused_with_its_size() -> None:
    with pytest.raises(OutOfMemory, match="more memory than") as refused:
        within_memory(Budget(4096), adding_up_to(4), [1, 5, 2], total)
    assert (refused.value.code, refused.value.counts) == ("out_of_memory", {"tokens": 5})


@pytest.mark.parametrize(
    ("error", "raised"), [(ValueError("x"), ValueError), (torch.AcceleratorError("CUDA error: x"), DeviceLost)]
)
def test_other_errors_are_not_taken_for_a_lack_of_memory(error: Exception, raised: type[BaseException]) -> None:
    tried: list[object] = []

    def fail(rows: Sequence[int]) -> None:
        tried.append(rows)
        raise error

    with pytest.raises(raised):
        within_memory(Budget(4096), fail, [1, 2], total)
    assert tried == [[1, 2]]


def test_a_failed_attempt_holds_no_memory_when_its_halves_are_tried() -> None:
    held: list[weakref.ref[Tensor]] = []
    alive: list[int] = []

    def run(rows: Sequence[int]) -> int:
        alive.append(sum(reference() is not None for reference in held))
        large = torch.zeros(len(rows), 1000)
        held.append(weakref.ref(large))
        if len(rows) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return int(large.sum())

    within_memory(Budget(4096), run, [1, 2, 3, 4], total)
    assert alive == [0] * 7


@pytest.mark.parametrize("tokens", [90, 120, 200])
def test_readings_are_the_same_on_a_card_too_small_for_a_batch(fresh: Annotator, tokens: int) -> None:
    groups = pairs(fresh)
    expected = read(fresh, groups, SITES)
    with card(fresh, tokens) as tried:
        found = read(fresh, groups, SITES)
    torch.testing.assert_close(found, expected)
    assert len(tried) > 2
    assert fresh.budget.tokens < 4096


def test_a_pair_too_large_for_a_card_is_read_response_by_response(fresh: Annotator) -> None:
    group = encode(fresh, "hi", "long " * 20, "long " * 19, "ok")
    whole = read(fresh, [group], SITES)
    with card(fresh, group.size - 1):
        torch.testing.assert_close(read(fresh, [group], SITES), whole)
    with card(fresh, len(group.prefix) + 5), pytest.raises(OutOfMemory):
        read(fresh, [group], SITES)


def test_the_annotator_answers_and_speaks_the_same_on_a_small_card(fresh: Annotator) -> None:
    groups = pairs(fresh)
    prompts = [group.prefix for group in groups]
    expected = next_token(fresh, groups), greedy_answers(fresh, prompts, max_new_tokens=3)
    with card(fresh, 150) as tried:
        torch.testing.assert_close(next_token(fresh, groups), expected[0], atol=1e-6, rtol=1e-4)
        assert greedy_answers(fresh, prompts, max_new_tokens=3) == expected[1]
    assert sum(size > 150 for size in tried) > 2


def test_a_pass_that_runs_out_of_memory_halfway_leaves_nothing_of_it_behind() -> None:
    annotator = tiny_annotator()
    held: list[weakref.ref[Tensor]] = []
    alive: list[int] = []

    def first(_module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        alive.append(sum(reference() is not None for reference in held))

    def third(_module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        held.append(weakref.ref(inputs[0]))
        if inputs[0].shape[1] > 100:
            raise torch.OutOfMemoryError("CUDA out of memory.")

    annotator.blocks[0].register_forward_pre_hook(first)
    annotator.blocks[2].register_forward_pre_hook(third)
    read_all(annotator, pairs(annotator), [Site(0, "mean"), Site(3, "mean")])
    assert len(alive) > 3
    assert not any(alive)
