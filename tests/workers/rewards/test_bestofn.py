"""What a judge thinks of the responses that a reward model likes best."""

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor

from app.schemas.score import Candidates
from tests.conftest import random_direction
from tests.workers.rewards.test_model import tiny_classifier
from workers.engine.annotator import Annotator
from workers.engine.errors import TooLong
from workers.engine.forward import read_all
from workers.rewards.bestofn import DirectionJudge, RewardJudge, Scores, best_of_n, read_candidates
from workers.rewards.errors import UnfitRows
from workers.rewards.model import RewardModel, load_reward_model

CANDIDATES = [
    Candidates(prompt=f"What of knife {number}?", responses=["Keep it.", "Drop it!", f"Sharpen it {number} times."])
    for number in range(5)
]


class Strict:
    """A judge that gives the second response 1, the third 3, the first 0; it cannot read the last prompt."""

    name, unit = "strict", "points"

    def scores(self, candidates: Sequence[Candidates]) -> Scores:
        found: list[Tensor] = [torch.tensor([0.0, 1.0, 3.0]) for _ in candidates[:-1]]
        return [*found, TooLong("too long")]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> RewardModel:
    folder = tmp_path_factory.mktemp("classifier")
    return load_reward_model(str(tiny_classifier(folder / "tiny-rm")), folder, device="cpu", dtype="float32")


def test_the_judge_is_asked_about_the_highest_reward(model: RewardModel) -> None:
    rewards = RewardJudge(model).scores(CANDIDATES)
    places = [int(own.argmax()) for own in rewards if isinstance(own, Tensor)]
    points = [[0.0, 1.0, 3.0][place] for place in places[:-1]]
    found = best_of_n(model, Strict(), CANDIDATES, "some")
    assert found.best.value == pytest.approx(sum(points) / 4)
    assert (found.first.value, found.most.value) == (0.0, 3.0)
    assert found.random.value == pytest.approx(4 / 3)
    assert found.over_first.value == pytest.approx(found.best.value)
    assert found.over_random.value == pytest.approx(found.best.value - 4 / 3)
    assert found.win_rate.value == pytest.approx(sum(1.0 if point else 0.5 for point in points) / 4)
    assert (found.prompts, found.responses, found.refused) == (4, 3.0, {"too_long": 1})
    assert found.best.low <= found.best.value <= found.best.high


def test_a_model_that_judges_itself_thinks_its_choice_the_best(model: RewardModel) -> None:
    found = best_of_n(model, RewardJudge(model), CANDIDATES, "some")
    assert found.best == found.most
    assert found.judge == "reward:tiny-rm"
    assert found.over_random.low > 0


@pytest.mark.parametrize("slope", [None, 2.0])
def test_a_direction_judges_by_what_its_annotator_reads(
    model: RewardModel, annotator: Annotator, slope: float | None
) -> None:
    direction = random_direction(annotator, "d", slope=slope)
    judge = DirectionJudge(annotator, direction)
    long = Candidates(prompt="Hm?", responses=["a", "on " * 300])
    *scores, refused = judge.scores([*CANDIDATES, long])
    assert isinstance(refused, TooLong)
    group = annotator.template.encode(CANDIDATES[2].messages, CANDIDATES[2].responses)
    expected = direction.scores(read_all(annotator, [group], direction.reads)[0]).double() * (slope or 1)
    assert isinstance(scores[2], Tensor)
    assert torch.allclose(scores[2], expected, atol=1e-5)
    found = best_of_n(model, judge, CANDIDATES, "some")
    assert (found.judge, found.unit) == ("direction:d", "log-odds" if slope else "raw projection")


def test_prompts_that_nobody_can_read_leave_nothing(model: RewardModel) -> None:
    long = [Candidates(prompt="Hm?", responses=["a", "on " * 300])]
    with pytest.raises(UnfitRows, match="none of 1 prompts can be read"):
        best_of_n(model, RewardJudge(model), long, "some")


def test_candidates_are_read_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "candidates.jsonl"
    path.write_text("".join(one.model_dump_json(exclude_none=True) + "\n" for one in CANDIDATES))
    assert [one.model_dump() for one in read_candidates(path)] == [one.model_dump() for one in CANDIDATES]
    path.write_text('{"prompt": "a", "responses": ["b", "c"], "model": "x"}\n{"prompt": "a", "responses": ["b"]}\n')
    with pytest.raises(UnfitRows, match=r"line 2: responses: there is nothing to choose from"):
        read_candidates(path)
    path.write_text('{"prompt": "a secret"}\n')
    with pytest.raises(UnfitRows, match=r"line 1: responses") as refused:
        read_candidates(path)
    assert "secret" not in str(refused.value)
    path.write_text("")
    with pytest.raises(UnfitRows, match="has no rows"):
        read_candidates(path)
