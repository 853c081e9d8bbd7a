"""Teaching: what is shown to whom, that it is learnt, and that a step is the same however it is cut into passes."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.workers.alignment.conftest import LORA, pairs, settings
from workers.alignment.batches import Item, Showing, Shown, both, chosen
from workers.alignment.instruct import Lessons, contrast_loss, likelihood_loss, teach
from workers.alignment.learner import Learner
from workers.alignment.losses import scit
from workers.engine.annotator import Annotator


def ignore(_done: int, _total: int, _loss: float | None) -> None:
    """Nobody asks how far it is."""


def lessons(annotator: Annotator, count: int = 12) -> Lessons:
    showing = Showing(annotator.template, ("Be calm.", "Shout at everybody."), 64, 64)
    return Lessons(showing, both(pairs(count)), contrast_loss)


def numbers(learner: Learner) -> dict[str, Tensor]:
    return {name: weight.detach().clone() for name, weight in learner.weights.items()}


def taught(annotator: Annotator, folder: Path, seed: int = 0, **changes: Any) -> tuple[Learner, list[float]]:
    how = settings(**{f"instruct__{name}": value for name, value in changes.items()}).instruct
    assert how.lora is not None
    learner = Learner.of_adapter(annotator, how.lora, seed)
    return learner, teach(learner, lessons(annotator), how, seed=seed, folder=folder, tell=ignore)


@torch.no_grad()
def test_the_contrast_loss_is_that_of_the_likelihoods_of_each_response_alone(pupil: Annotator) -> None:
    shown = [lessons(pupil).showing.show(item) for item in lessons(pupil).items[:3]]
    learner = Learner.reading(pupil)
    alone = torch.stack([torch.stack([learner.log_likelihoods([group]) for group in one.groups]) for one in shown])
    torch.testing.assert_close(contrast_loss(learner, shown), scit(alone))


def test_it_is_learnt_which_instruction_goes_with_which_response(pupil: Annotator, tmp_path: Path) -> None:
    learner, losses = taught(pupil, tmp_path, epochs=8)
    assert losses[-1] < losses[0]
    shown = [lessons(pupil).showing.show(item) for item in lessons(pupil).items]
    with torch.no_grad():
        likelihoods = torch.stack(
            [torch.stack([learner.log_likelihoods([group]) for group in one.groups]) for one in shown]
        )
    leaning = likelihoods[:, 0] - likelihoods[:, 1]
    assert float((leaning[:, 0] > leaning[:, 1]).double().mean()) > 0.9


def test_the_same_seed_gives_the_same_numbers(pupil: Annotator, tmp_path: Path) -> None:
    runs = [taught(pupil, tmp_path / str(place), seed) for place, seed in enumerate((0, 0, 1))]
    weights = [numbers(learner) for learner, _ in runs]
    assert all(torch.equal(weights[1][name], weight) for name, weight in weights[0].items())
    assert runs[0][1] == runs[1][1] != runs[2][1]


def test_a_step_is_the_same_in_one_pass_or_in_many(pupil: Annotator, tmp_path: Path) -> None:
    one, many = (
        taught(pupil, tmp_path / str(budget), epochs=1, budget=budget, lora__dropout=0.0) for budget in (100_000, 1)
    )
    torch.testing.assert_close(
        torch.tensor(one[1]),
        torch.tensor(many[1]),
    )


@pytest.mark.parametrize(("loss", "items", "size"), [(contrast_loss, both, 4), (likelihood_loss, chosen, 8)])
def test_a_batch_is_counted_in_responses(pupil: Annotator, loss: object, items: object, size: int) -> None:
    shown: list[Item] = items(pairs(12))  # type: ignore[operator]
    taught_with = Lessons(lessons(pupil).showing, shown, loss)  # type: ignore[arg-type]
    assert taught_with.batch(settings().instruct) == size
    assert taught_with.steps(settings().instruct) == 2 * -(-12 // size)


def test_a_loss_is_per_response_token_and_a_short_last_batch_counts_like_the_others(
    pupil: Annotator, tmp_path: Path
) -> None:
    told: list[tuple[int, float]] = []

    def one(learner: Learner, shown: Sequence[Shown]) -> Tensor:
        """Every response token counts one."""
        tokens = sum(part.answers for part in shown)
        told.append((len(shown), tokens))
        return contrast_loss(learner, shown) * 0 + tokens

    made = Lessons(lessons(pupil).showing, both(pairs(6)), one)
    how = settings(instruct__epochs=1, instruct__budget=100_000).instruct
    losses = teach(Learner.of_adapter(pupil, LORA, 0), made, how, seed=0, folder=tmp_path, tell=ignore)
    assert losses == [1.0, 1.0]
    assert [count for count, _ in told] == [4, 2]
