"""Packing: which groups share a batch, and where each token of a batch is."""

import random
from dataclasses import replace
from typing import get_args

import pytest
import torch

from workers.engine.forward import pooling_weights
from workers.engine.packing import Branch, Group, Layout, in_half, pack
from workers.engine.sites import Pooling

END = 2
TWO_RESPONSES = Group(
    (10, 11, 12), (Branch((20, END), content=1), Branch((21, 22, END), content=2)), prompt=2, request=(1, 3)
)
EMPTY_RESPONSE = Group((30,), (Branch((END,), content=0),), prompt=1, request=(0, 1))


def group_of(size: int) -> Group:
    return Group((0,) * (size - 1), (Branch((END,), content=0),), prompt=0, request=(0, 1))


@pytest.fixture
def layout() -> Layout:
    """Both groups above, in this order."""
    return Layout.of([TWO_RESPONSES, EMPTY_RESPONSE], torch.device("cpu"))


def test_the_size_of_a_group_counts_its_prompt_once() -> None:
    assert TWO_RESPONSES.size == 3 + 2 + 3


@pytest.mark.parametrize("seed", range(5))
def test_every_index_is_packed_once_and_no_batch_of_several_exceeds_the_budget(seed: int) -> None:
    chance = random.Random(seed)
    groups = [group_of(chance.randint(1, 150)) for _ in range(chance.randint(1, 60))]
    batches = list(pack(groups, budget=100))
    assert sorted(index for batch in batches for index in batch) == list(range(len(groups)))
    assert all(len(batch) == 1 or sum(groups[i].size for i in batch) <= 100 for batch in batches)


def test_a_group_larger_than_the_budget_is_a_batch_of_its_own() -> None:
    assert list(pack([group_of(500), group_of(3), group_of(4), group_of(101)], budget=100)) == [[1, 2], [3], [0]]
    assert list(pack([group_of(500), group_of(400)], budget=100)) == [[1], [0]]


def test_groups_of_similar_length_share_a_batch() -> None:
    assert list(pack([group_of(size) for size in (60, 5, 49, 40)], budget=100)) == [[1, 3, 2], [0]]


def test_a_batch_may_be_exactly_as_large_as_the_budget() -> None:
    assert list(pack([group_of(50), group_of(50), group_of(50)], budget=100)) == [[0, 1], [2]]


def test_nothing_packs_to_no_batch() -> None:
    assert list(pack([], budget=100)) == []


def test_every_token_appears_once_in_the_order_of_the_groups(layout: Layout) -> None:
    assert layout.tokens.tolist() == [10, 11, 12, 20, END, 21, 22, END, 30, END]


def test_each_response_continues_the_positions_of_its_own_prompt(layout: Layout) -> None:
    assert layout.positions.tolist() == [0, 1, 2, 3, 4, 3, 4, 5, 0, 1]


def test_index_tables_find_prompts_and_responses_and_are_padded_on_the_right(layout: Layout) -> None:
    assert layout.prefix_rows.tolist() == [[0, 1, 2], [8, 0, 0]]
    assert layout.branch_rows.tolist() == [[3, 4, 0], [5, 6, 7], [9, 0, 0]]
    assert layout.branch_real.tolist() == [[True, True, False], [True, True, True], [True, False, False]]


def test_lengths_contents_and_parents_describe_each_response(layout: Layout) -> None:
    assert layout.parents.tolist() == [0, 0, 1]
    assert layout.prefix_lengths.tolist() == [3, 1]
    assert layout.branch_lengths.tolist() == [2, 3, 1]
    assert layout.contents.tolist() == [1, 2, 0]
    assert layout.requests.tolist() == [[1, 3], [0, 1]]


@pytest.mark.parametrize(
    ("pooling", "expected"),
    [
        ("mean", [{3: 1.0}, {5: 0.5, 6: 0.5}, {9: 1.0}]),
        ("last", [{3: 1.0}, {6: 1.0}, {9: 1.0}]),
        ("end_of_turn", [{4: 1.0}, {7: 1.0}, {9: 1.0}]),
        ("request", [{1: 0.5, 2: 0.5}, {1: 0.5, 2: 0.5}, {8: 1.0}]),
    ],
)
def test_a_pooling_weighs_the_tokens_of_its_own_response_or_of_the_request_before_it(
    layout: Layout, pooling: Pooling, expected: list[dict[int, float]]
) -> None:
    weights = pooling_weights(layout, pooling)
    found = [{i: w for i, w in enumerate(row) if w} for row in weights.tolist()]
    assert found == expected
    assert weights.sum(dim=1).tolist() == [1.0, 1.0, 1.0]


def many(count: int, length: int = 10, prompt: int = 5) -> Group:
    branches = tuple(Branch((*range(length), END), content=length) for _ in range(count))
    return Group(tuple(range(prompt)), branches, prompt=1, request=(1, 2))


def test_a_pair_is_never_split() -> None:
    assert many(2, length=100).split(10) == [many(2, length=100)]


def test_many_responses_are_split_by_the_budget_and_none_is_lost() -> None:
    parts = many(9).split(60)
    assert [len(part.branches) for part in parts] == [5, 4]
    assert [branch for part in parts for branch in part.branches] == list(many(9).branches)
    assert all(part.size <= 60 and part.prefix == many(9).prefix for part in parts)


def test_a_part_is_worth_computing_its_prompt_again() -> None:
    assert [len(part.branches) for part in many(9, prompt=100).split(60)] == [9]


def test_a_batch_is_halved_by_its_groups_and_a_group_by_its_responses_down_to_one() -> None:
    assert in_half([TWO_RESPONSES, EMPTY_RESPONSE, EMPTY_RESPONSE]) == [
        [TWO_RESPONSES],
        [EMPTY_RESPONSE, EMPTY_RESPONSE],
    ]
    first, second = (replace(TWO_RESPONSES, branches=(branch,)) for branch in TWO_RESPONSES.branches)
    assert in_half([TWO_RESPONSES]) == [[first], [second]]
    assert in_half([first]) == [[first]]


def test_a_row_is_padded_with_its_first_token_at_its_first_position_and_no_table_leads_there(layout: Layout) -> None:
    padded = Layout.of([TWO_RESPONSES, EMPTY_RESPONSE], torch.device("cpu"), 16)
    assert len(layout.tokens) == 10
    assert padded.tokens.tolist() == [*layout.tokens.tolist(), *[10] * 6]
    assert padded.positions.tolist() == [*layout.positions.tolist(), *[0] * 6]
    assert torch.equal(padded.prefix_rows, layout.prefix_rows)
    assert torch.equal(padded.branch_rows, layout.branch_rows)
    for pooling in get_args(Pooling):
        weights = pooling_weights(padded, pooling)
        assert torch.equal(weights[:, :10], pooling_weights(layout, pooling))
        assert not weights[:, 10:].any()
