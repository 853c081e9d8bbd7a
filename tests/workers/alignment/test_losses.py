"""Losses against their formulas, on numbers worked out by hand."""

import math

import pytest
import torch
from torch import Tensor

from workers.alignment.batches import Predictions
from workers.alignment.losses import log_probabilities, misalignment, negative_likelihood, per_response, scit
from workers.engine.packing import Branch, Group, Layout

CHANCES = torch.tensor([[0.5, 0.25, 0.25], [0.1, 0.6, 0.3], [0.2, 0.2, 0.6]])
"""Of the next token (column) after each token (row): a model that looks one token back."""


def group(prefix: tuple[int, ...], *responses: tuple[int, ...]) -> Group:
    return Group(prefix, tuple(Branch(tokens, len(tokens) - 1) for tokens in responses), 1, (0, 1))


def likelihoods(groups: list[Group]) -> Tensor:
    """[n] log π of the responses by the bigrams of `CHANCES`."""
    layout = Layout.of(groups, torch.device("cpu"))
    asked = Predictions.of(layout)
    logits = CHANCES.log()[layout.tokens[asked.before]] + 3.0  # logits need not be normalised
    return per_response(log_probabilities(logits, asked.tokens), asked.owners, len(layout.parents))


def test_the_likelihood_of_a_response_is_that_of_its_own_tokens_each_after_the_one_before() -> None:
    found = likelihoods([group((0, 0, 1), (2, 0), (1,)), group((2,), (0, 1, 2, 2))])
    by_hand = [0.3 * 0.2, 0.6, 0.2 * 0.25 * 0.3 * 0.6]
    assert found.exp().tolist() == pytest.approx(by_hand)


def test_neighbours_and_longer_responses_beside_it_change_no_likelihood() -> None:
    alone = likelihoods([group((0, 1), (2, 0))])
    beside = likelihoods([group((1, 1, 1, 1, 0), (0,)), group((0, 1), (2, 0), (1, 1, 1, 1, 1))])
    assert float(beside[1]) == pytest.approx(float(alone[0]))


def test_contrastive_instruction_tuning_is_its_formula() -> None:
    # Two pairs, by instruction and response: p+ with chosen and rejected, p− with chosen and rejected.
    first, second = [[-1.0, -2.0], [-3.0, -0.5]], [[-4.0, -1.0], [-2.0, -6.0]]

    def item(good: float, bad: float) -> float:
        return -(good + math.log(math.exp(good) / (math.exp(good) + math.exp(bad))))

    by_hand = item(-1.0, -3.0) + item(-0.5, -2.0) + item(-4.0, -2.0) + item(-6.0, -1.0)
    assert float(scit(torch.tensor([first, second]))) == pytest.approx(by_hand)


def test_contrastive_instruction_tuning_of_shown_tokens_is_its_formula() -> None:
    """p+ ends in token 0 and p− in token 1; the chosen response is (0, 2) and the rejected one (1, 1, 2)."""
    pair = [group((2, 0), (0, 2), (1, 1, 2)), group((2, 2, 1), (0, 2), (1, 1, 2))]
    good_chosen, good_rejected = math.log(0.5 * 0.25), math.log(0.25 * 0.6 * 0.3)
    bad_chosen, bad_rejected = math.log(0.1 * 0.25), math.log(0.6 * 0.6 * 0.3)
    by_hand = (-good_chosen + math.log1p(math.exp(bad_chosen - good_chosen))) + (
        -bad_rejected + math.log1p(math.exp(good_rejected - bad_rejected))
    )
    assert float(scit(likelihoods(pair).view(1, 2, 2))) == pytest.approx(by_hand)


def test_it_stays_finite_where_a_probability_would_underflow() -> None:
    loss = scit(torch.tensor([[[-900.0, -1.0], [-1.0, -900.0]]]))
    assert float(loss) == pytest.approx(2 * (900 + 899))


def test_maximum_likelihood_is_its_formula() -> None:
    assert float(negative_likelihood(torch.tensor([-1.0, -2.5]))) == 3.5


def test_misalignment_is_its_formula() -> None:
    hidden = torch.tensor([[[1.0, 2.0], [0.0, 0.0]], [[5.0, 5.0], [1.0, 1.0]]])
    base = torch.tensor([[[0.0, 0.0], [1.0, 0.0]], [[5.0, 5.0], [0.0, 0.0]]])
    patterns = torch.tensor([[[0.5, -0.5], [0.0, 0.0]], [[1.5, 2.0], [0.5, 0.5]]])
    by_hand = math.hypot(1 - 1, 2 + 1) + math.hypot(-1, 0) + math.hypot(-3, -4) + math.hypot(0, 0)
    assert float(misalignment(hidden, base, patterns, 2.0)) == pytest.approx(by_hand)


def test_half_precision_is_widened_before_anything_is_subtracted() -> None:
    base = torch.full((1, 1, 2), 256.0, dtype=torch.bfloat16)
    patterns = torch.tensor([[[0.125, 0.0]]], dtype=torch.bfloat16)
    assert float(misalignment(base, base, patterns, 2.0)) == 0.25
