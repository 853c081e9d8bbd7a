"""Activity patterns: what they are the difference of, in shards that are written once."""

from pathlib import Path

import pytest
import torch

from app.schemas.alignment import CollectSettings
from tests.workers.alignment.conftest import LORA, pairs
from workers.alignment.batches import Admitted, Showing, both
from workers.alignment.learner import Learner
from workers.alignment.patterns import Patterns, collect
from workers.engine.annotator import Annotator
from workers.engine.packing import Group

GOOD, BAD = "Be calm.", "Shout at everybody, whatever it is that they may have asked."
BLOCKS = (0, 2)


def how(**changes: int) -> CollectSettings:
    told = {"layers": [1], "of": 4, "responses": "both", "response": 32, "shard": 64, "budget": 200}
    return CollectSettings.model_validate(told | changes)


def ignore(_done: int, _total: int, _loss: float | None) -> None:
    """Nobody asks how far it is."""


def showing(annotator: Annotator, *instructions: str | None) -> Showing:
    return Showing(annotator.template, instructions or (GOOD, BAD), 64, 32)


@pytest.fixture
def admitted(pupil: Annotator) -> Admitted:
    return showing(pupil).admit(both(pairs(8)))


def hidden(learner: Learner, group: Group) -> torch.Tensor:
    with torch.no_grad():
        return learner.hidden([group], BLOCKS)


def test_they_are_what_the_first_instruction_makes_of_a_response_less_what_the_second_does(
    pupil: Annotator, admitted: Admitted, tmp_path: Path
) -> None:
    learner = Learner.reading(pupil)
    found = collect((learner, learner), showing(pupil), admitted, BLOCKS, how(), tmp_path, ignore)
    for place, item in enumerate(admitted.items):
        good, bad = (hidden(learner, group) for group in showing(pupil).show(item).groups)
        torch.testing.assert_close(found.of(place), good - bad, atol=1e-5, rtol=1e-4)


def test_of_two_models_they_are_what_the_one_makes_of_it_less_what_the_other_does(
    pupil: Annotator, admitted: Admitted, tmp_path: Path
) -> None:
    first = Learner.reading(pupil)
    second = Learner.of_adapter(pupil, LORA.model_copy(update={"dropout": 0.0}), 0)
    with torch.no_grad():
        for weight in second.weights.values():
            weight.add_(0.1)
    plain = showing(pupil, None, None)
    found = collect((first, second), plain, admitted, BLOCKS, how(), tmp_path, ignore)
    group = plain.show(admitted.items[3]).groups[0]
    torch.testing.assert_close(found.of(3), hidden(first, group) - hidden(second, group), atol=1e-5, rtol=1e-4)


def test_their_mean_is_over_all_tokens_of_all_items(pupil: Annotator, admitted: Admitted, tmp_path: Path) -> None:
    learner = Learner.reading(pupil)
    found = collect((learner, learner), showing(pupil), admitted, BLOCKS, how(), tmp_path, ignore)
    every = torch.cat([found.of(place) for place in range(len(admitted.items))]).double()
    torch.testing.assert_close(found.mean(), every.mean(dim=0))


def test_shards_hold_so_many_tokens_and_items_as_a_whole() -> None:
    patterns = Patterns(Path(), [30, 30, 30, 100, 1, 63, 1], 64)
    assert patterns.shards == [range(2), range(2, 3), range(3, 4), range(4, 6), range(6, 7)]


def test_a_killed_run_goes_on_with_the_shard_it_was_at(pupil: Annotator, admitted: Admitted, tmp_path: Path) -> None:
    learner = Learner.reading(pupil)
    sides, whole = (learner, learner), tmp_path / "whole"
    expected = collect(sides, showing(pupil), admitted, BLOCKS, how(), whole, ignore)
    assert len(expected.shards) > 3

    def kill(done: int, _total: int, _loss: float | None) -> None:
        if done == expected.shards[1].stop:
            raise KeyboardInterrupt

    parts = tmp_path / "parts"
    with pytest.raises(KeyboardInterrupt):
        collect(sides, showing(pupil), admitted, BLOCKS, how(), parts, kill)
    before = {path.name: path.stat().st_mtime_ns for path in parts.iterdir()}
    told: list[int] = []
    collect(sides, showing(pupil), admitted, BLOCKS, how(), parts, lambda done, _total, _loss: told.append(done))
    assert {path.name: path.stat().st_mtime_ns for path in parts.iterdir()}.items() >= before.items()
    assert [path.read_bytes() for path in sorted(parts.iterdir())] == [
        path.read_bytes() for path in sorted(whole.iterdir())
    ]
    assert told[0] == expected.shards[0].stop
    assert told[-1] == len(admitted.items)


def test_a_shard_holds_the_patterns_of_its_own_items_alone(
    pupil: Annotator, admitted: Admitted, tmp_path: Path
) -> None:
    learner = Learner.reading(pupil)
    found = collect((learner, learner), showing(pupil), admitted, BLOCKS, how(shard=1), tmp_path, ignore)
    assert len(found.shards) == len(admitted.items)
    sizes = {found.path(shard).stat().st_size for shard in range(len(found.shards))}
    most = max(admitted.answers) * len(BLOCKS) * pupil.width * 4
    assert max(sizes) < most + 2 * len(BLOCKS) * pupil.width * 8 + 512
