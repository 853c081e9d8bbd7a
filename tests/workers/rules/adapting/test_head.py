"""The head of a rule adapter: it finds what makes rules critical, and does not know which response is which."""

import pytest
import torch
from torch import Tensor

from workers.rules.adapting.head import Head, Taught, fit_head

RULES, SITES, WIDTH = 6, 2, 12


def planted(pairs: int, seed: int) -> tuple[Taught, Tensor]:
    """Pairs whose one critical rule is that by whose direction the responses differ most; and every rule's ratings."""
    source = torch.Generator().manual_seed(seed)
    directions = torch.randn(RULES, SITES * WIDTH, generator=torch.Generator().manual_seed(99))
    activations = torch.randn(pairs, 2, SITES, WIDTH, generator=source)
    ratings = activations.flatten(2) @ directions.T
    largest = (ratings[:, 0] - ratings[:, 1]).abs().argmax(dim=1)
    return Taught(activations, torch.nn.functional.one_hot(largest, RULES)), ratings


def fitted(epochs: int = 200, seed: int = 0) -> tuple[Head, int]:
    taught, ratings = planted(2000, 1)
    return fit_head(taught, ratings, planted(200, 2)[0], width=24, epochs=epochs, seed=seed)


@pytest.fixture(scope="module")
def head() -> Head:
    return fitted()[0]


def likely(head: Head, activations: Tensor) -> Tensor:
    return head.likely(head.scores(activations.flatten(0, 1)).view(len(activations), 2, -1))


def test_a_planted_rule_is_found(head: Head) -> None:
    unseen, _ = planted(300, 3)
    found = likely(head, unseen.activations)
    assert ((found >= 0) & (found <= 1)).all()
    right = (found.argmax(dim=1) == unseen.targets.argmax(dim=1)).double().mean()
    assert right > 0.8
    assert unseen.targets.double().mean(dim=0).max() < 0.3  # what always guessing the most frequent rule would reach


def test_the_sides_can_be_exchanged_without_any_change(head: Head) -> None:
    unseen, _ = planted(50, 4)
    assert torch.equal(likely(head, unseen.activations), likely(head, unseen.activations.flip(1)))


def test_the_same_seed_gives_the_same_head() -> None:
    first, second, other = fitted(3)[0], fitted(3)[0], fitted(3, seed=5)[0]
    assert all(torch.equal(first.tensors[name], second.tensors[name]) for name in first.tensors)
    assert not torch.equal(first.weights, other.weights)


def test_fitting_leaves_the_random_numbers_of_others_alone() -> None:
    torch.manual_seed(7)
    expected = torch.rand(1)
    torch.manual_seed(7)
    fitted(1)
    assert torch.equal(torch.rand(1), expected)


def test_it_stops_when_validation_gets_no_better_and_keeps_the_best() -> None:
    taught, ratings = planted(40, 1)
    noise = Taught(torch.randn(40, 2, SITES, WIDTH, generator=torch.Generator().manual_seed(0)), taught.targets)
    epochs: list[None] = []
    _, best = fit_head(
        noise, ratings, planted(200, 2)[0], width=4, epochs=200, seed=0, beat=lambda: epochs.append(None)
    )
    assert best < len(epochs) < 200


def test_a_beat_that_raises_ends_it() -> None:
    taught, ratings = planted(40, 1)

    def end() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit_head(taught, ratings, planted(20, 2)[0], width=4, epochs=200, seed=0, beat=end)


def test_shapes_that_do_not_go_together_are_noticed(head: Head) -> None:
    assert head.holds_together
    for name, number in head.tensors.items():
        assert not Head(**{**head.tensors, name: number[:-1]}).holds_together
        assert not Head(**{**head.tensors, name: torch.tensor(1.0)}).holds_together
