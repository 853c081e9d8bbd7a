"""What every token contributes to a score: parts that add up to what the ordinary pass gives, and texts that join."""

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from tests.conftest import encode, random_direction
from workers.directions.direction import PromptTerm, SafetyDirection, new_direction
from workers.engine.annotator import Annotator
from workers.engine.errors import NotFinite
from workers.engine.forward import read
from workers.engine.shares import shares
from workers.engine.sites import Site
from workers.explaining import Explainer
from workers.turns import URGENT

RESPONSES = ["Slowly, with care.", "No idea!", ""]
MEAN, LAST, END = Site(2, "mean"), Site(1, "last"), Site(3, "end_of_turn")


def bent(annotator: Annotator) -> SafetyDirection:
    """A direction over two layers and two poolings whose vectors depend on the prompt."""
    source = torch.Generator().manual_seed(7)

    def some(*shape: int) -> Tensor:
        return torch.randn(*shape, annotator.width, generator=source)

    term = PromptTerm((Site(1, "request"), Site(2, "request")), some(2, 2), torch.tensor([0.5, -1.0]), some(2, 2))
    model = (annotator.name, annotator.revision, annotator.template.digest)
    return new_direction("bent", (MEAN, END), some(2), model=model, recipe="by hand", settings={}, term=term)


def explained(annotator: Annotator, *directions: SafetyDirection) -> list[list[Tensor]]:
    made = Explainer(annotator, directions, [None] * len(directions), URGENT)
    found = made.contributions(encode(annotator, "How do I sharpen a knife?", *RESPONSES))
    assert isinstance(found, list)
    return found


def scored(annotator: Annotator, direction: SafetyDirection) -> list[float]:
    group = encode(annotator, "How do I sharpen a knife?", *RESPONSES)
    scores: list[float] = direction.scores(read(annotator, [group], direction.reads)).tolist()
    return scores


@pytest.mark.parametrize("sites", [[MEAN], [LAST], [END], [MEAN, Site(1, "mean"), LAST, END]], ids=str)
def test_contributions_add_up_to_the_score(annotator: Annotator, sites: Sequence[Site]) -> None:
    direction = random_direction(annotator, "sum", 3, *sites)
    (own,) = explained(annotator, direction)
    assert [float(part.sum()) for part in own] == pytest.approx(scored(annotator, direction), rel=1e-4)


def test_they_do_for_a_direction_that_depends_on_the_prompt(annotator: Annotator) -> None:
    direction = bent(annotator)
    (own,) = explained(annotator, direction)
    assert [float(part.sum()) for part in own] == pytest.approx(scored(annotator, direction), rel=1e-4)


def test_there_is_one_for_every_token_and_one_for_the_end_of_the_turn(annotator: Annotator) -> None:
    group = encode(annotator, "How do I sharpen a knife?", *RESPONSES)
    (own,) = explained(annotator, random_direction(annotator, "some"))
    assert [len(part) for part in own] == [len(branch.tokens) for branch in group.branches]
    assert [len(part) for part in own] == [len(annotator.template.pieces(text)) + 1 for text in RESPONSES]


def test_a_pooling_gives_a_share_to_the_tokens_that_it_reads(annotator: Annotator) -> None:
    mean, last, end = explained(annotator, *(random_direction(annotator, s.pooling, 1, s) for s in (MEAN, LAST, END)))
    assert mean[0][:-1].all() and mean[0][-1] == 0
    assert last[0][-2] != 0 and torch.count_nonzero(last[0]) == 1
    assert end[0][-1] != 0 and torch.count_nonzero(end[0]) == 1
    assert [float(one[2][0]) != 0 for one in (mean, last, end)] == [True] * 3, "an empty response is its end of turn"


def test_a_share_is_the_tokens_own_activation_times_its_weight(annotator: Annotator) -> None:
    """A response of one token has one share, which is all that there is."""
    group = encode(annotator, "Hello?", "!")
    (own,) = shares(annotator, group, [MEAN])
    assert own.shape == (2, 1, annotator.width)
    assert torch.allclose(own[0], read(annotator, [group], [MEAN])[0], atol=1e-5)


def test_several_directions_are_explained_as_each_is_alone(annotator: Annotator) -> None:
    one, other = random_direction(annotator, "one", 1, MEAN), bent(annotator)
    both = explained(annotator, one, other)
    assert torch.allclose(both[0][0], explained(annotator, one)[0][0])
    assert torch.allclose(both[1][0], explained(annotator, other)[0][0])


def test_numbers_that_are_none_are_refused(annotator: Annotator, monkeypatch: pytest.MonkeyPatch) -> None:
    direction = random_direction(annotator, "some")
    monkeypatch.setattr(SafetyDirection, "scores", lambda _self, rows: rows.sum(dim=(1, 2)) * float("nan"))
    made = Explainer(annotator, [direction], [None], URGENT)
    assert isinstance(made.contributions(encode(annotator, "Hello?", "!")), NotFinite)
