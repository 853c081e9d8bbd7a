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
    return Taught(activations, torch.arange(pairs), torch.nn.functional.one_hot(largest, RULES)), ratings


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


def test_fitting_and_others_who_draw_meanwhile_leave_each_other_alone() -> None:
    taught, ratings = planted(100, 1)
    heads = []
    for draw in (False, True):
        before = torch.get_rng_state()

        def beat(draw: bool = draw) -> None:
            if draw:
                torch.rand(3)

        heads.append(fit_head(taught, ratings, planted(20, 2)[0], width=4, epochs=3, seed=0, beat=beat)[0])
        assert draw or torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(number, heads[1].tensors[name]) for name, number in heads[0].tensors.items())


def test_pairs_are_read_where_they_lie_and_some_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    taught, ratings = planted(300, 1)
    spread = torch.full((601, 2, SITES, WIDTH), torch.nan)
    places = torch.randperm(601, generator=torch.Generator().manual_seed(0))[:300]
    spread[places] = taught.activations
    validation = planted(20, 2)[0]
    elsewhere = Taught(spread, places, taught.targets)
    heads = [fit_head(one, ratings, validation, width=4, epochs=2, seed=0)[0] for one in (taught, elsewhere)]
    assert all(torch.equal(number, heads[1].tensors[name]) for name, number in heads[0].tensors.items())
    assert max(len(block) for block in elsewhere.blocks()) < 300
    monkeypatch.setattr("workers.rules.adapting.head._SAMPLE", 100)  # where to look is learned from a sample
    assert (
        likely(fit_head(taught, ratings, validation, width=4, epochs=2, seed=0)[0], taught.activations).isfinite().all()
    )


def test_it_stops_when_validation_gets_no_better_and_keeps_the_best() -> None:
    taught, ratings = planted(40, 1)
    activations = torch.randn(40, 2, SITES, WIDTH, generator=torch.Generator().manual_seed(0))
    noise = Taught(activations, torch.arange(40), taught.targets)
    beats: list[None] = []
    _, best = fit_head(noise, ratings, planted(200, 2)[0], width=4, epochs=200, seed=0, beat=lambda: beats.append(None))
    assert best < len(beats) < 200


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
