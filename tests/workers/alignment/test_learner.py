"""Models that learn: what of them is trained, in which precision, and what they say of responses."""

import pytest
import torch
from torch import Tensor

from tests.conftest import encode, tiny_annotator
from tests.workers.alignment.conftest import LORA
from workers.alignment.learner import ADAPTER, Learner
from workers.engine.annotator import Annotator
from workers.engine.packing import Group


@pytest.fixture
def groups(annotator: Annotator) -> list[Group]:
    return [encode(annotator, "How do I sharpen a knife?", "Slowly.", "no"), encode(annotator, "hi", "", "hello")]


def plainly(annotator: Annotator, group: Group, branch: int) -> Tensor:
    """log π of a response by transformers alone."""
    prompt, answer = list(group.prefix), list(group.branches[branch].tokens)
    chances = annotator.model(torch.tensor([prompt + answer])).logits[0].log_softmax(-1)
    rows = torch.arange(len(prompt) - 1, len(prompt) + len(answer) - 1)
    total: Tensor = chances[rows, torch.tensor(answer)].sum()
    return total


@torch.no_grad()
def test_likelihoods_are_those_of_plain_transformers(annotator: Annotator, groups: list[Group]) -> None:
    found = Learner.reading(annotator).log_likelihoods(groups)
    expected = torch.stack([plainly(annotator, group, branch) for group in groups for branch in (0, 1)])
    torch.testing.assert_close(found, expected)


@torch.no_grad()
def test_activations_are_those_of_plain_transformers(annotator: Annotator, groups: list[Group]) -> None:
    found = Learner.reading(annotator).hidden(groups, [0, 2])
    rows = []
    for group in groups:
        for branch in group.branches:
            tokens = torch.tensor([[*group.prefix, *branch.tokens]])
            states = annotator.model(tokens, output_hidden_states=True).hidden_states
            rows.append(torch.stack([states[1][0], states[3][0]], dim=1)[len(group.prefix) :])
    torch.testing.assert_close(found, torch.cat(rows))


def test_of_an_adapter_its_own_numbers_alone_are_trained(annotator: Annotator, groups: list[Group]) -> None:
    learner = Learner.of_adapter(annotator, LORA, seed=0, last_block=1)
    assert {name.partition(".lora_")[0] for name in learner.weights} == {
        f"model.layers.{block}.self_attn.{name}" for block in (0, 1) for name in ("q_proj", "v_proj")
    }
    torch.autograd.backward(learner.log_likelihoods(groups).sum())
    reached = {name for name, weight in learner.annotator.model.named_parameters() if weight.grad is not None}
    assert reached == set(learner.weights)
    assert all(f".{ADAPTER}." in name for name in reached)


def test_of_all_weights_copies_are_trained(annotator: Annotator, groups: list[Group]) -> None:
    learner = Learner.of_all_weights(annotator)
    torch.autograd.backward(learner.log_likelihoods(groups).sum())
    assert all(weight.grad is not None for weight in learner.weights.values())
    lent = {weight.data_ptr() for weight in annotator.model.parameters()}
    assert lent.isdisjoint(weight.data_ptr() for weight in learner.weights.values())
    assert not any(weight.requires_grad for weight in annotator.model.parameters())


@pytest.mark.parametrize("full", [False, True])
def test_beside_half_precision_what_is_trained_is_float32(full: bool) -> None:
    half = tiny_annotator(dtype=torch.bfloat16)
    learner = Learner.of_all_weights(half) if full else Learner.of_adapter(half, LORA, seed=0)
    groups = [encode(half, "How do I sharpen a knife?", "Slowly.", "no")]
    likelihoods = learner.log_likelihoods(groups)
    torch.autograd.backward(likelihoods.sum())
    assert likelihoods.dtype == torch.float32
    assert {weight.dtype for weight in learner.weights.values()} == {torch.float32}
    assert {weight.grad.dtype for weight in learner.weights.values() if weight.grad is not None} == {torch.float32}
    whole = Learner.reading(tiny_annotator())
    with torch.no_grad():
        exact = whole.log_likelihoods(groups)
        torch.testing.assert_close(likelihoods.detach(), exact, rtol=0.02, atol=0.2)
        torch.testing.assert_close(learner.hidden(groups, [3]), whole.hidden(groups, [3]), rtol=0.05, atol=0.05)


def test_the_seed_says_what_it_begins_with_and_what_is_dropped(annotator: Annotator, groups: list[Group]) -> None:
    @torch.no_grad()
    def twice(seed: int, dropout: float) -> tuple[Tensor, Tensor]:
        """Likelihoods of one learner, the second ones when it has drawn what the first ones dropped."""
        learner = Learner.of_adapter(annotator, LORA.model_copy(update={"dropout": dropout}), seed)
        for weight in learner.weights.values():
            weight.add_(0.3)
        return learner.log_likelihoods(groups), learner.log_likelihoods(groups)

    before = torch.get_rng_state()
    first, second = twice(0, 0.5)
    assert not torch.equal(first, second)
    assert all(torch.equal(*pair) for pair in zip(twice(0, 0.5), (first, second), strict=True))
    kept, again = twice(0, 0.0)
    assert torch.equal(kept, again)
    assert not torch.equal(kept, twice(1, 0.0)[0])
    assert torch.equal(torch.get_rng_state(), before)
