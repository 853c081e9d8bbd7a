"""Annotated pairs as what is learnt: what lacks a margin is refused, and prompts are not divided."""

import pytest
from pydantic import ValidationError

from app.schemas.pairs import Pair
from app.schemas.rewards import MarginSettings, RewardSettings
from tests.workers.rewards.conftest import annotated
from workers.rewards.annotated import Annotated
from workers.rewards.errors import UnfitRows
from workers.rewards.lessons import divided, lessons

PAIR = Pair(prompt="?", chosen="yes", rejected="no")


def test_conflicts_are_counted_whatever_becomes_of_them() -> None:
    pairs = annotated(22)
    counts = {lessons(pairs, MarginSettings(conflicts=how))[1] for how in ("keep", "drop", "flip", "down-weight")}
    assert counts == {8}
    assert len(lessons(pairs, MarginSettings(conflicts="drop"))[0]) == 14


def test_a_flipped_pair_has_its_sides_exchanged() -> None:
    (one,), _ = lessons([Annotated(1, PAIR, -2.0)], MarginSettings(conflicts="flip"))
    assert (one.preferred, one.other, one.margin, one.weight) == ("no", "yes", 2.0, 1.0)


@pytest.mark.parametrize(
    "settings", [MarginSettings(), MarginSettings(margin="none", conflicts="drop"), MarginSettings(margin="level")]
)
def test_a_pair_without_what_is_asked_for_is_refused_by_its_line(settings: MarginSettings) -> None:
    good = Annotated(1, PAIR, 1.0, 1)
    with pytest.raises(UnfitRows, match="line 7 has no"):
        lessons([good, Annotated(7, PAIR)], settings)


def test_without_margins_plain_training_goes_on() -> None:
    learnt, conflicts = lessons([Annotated(1, PAIR)], MarginSettings(margin="none"))
    assert (learnt[0].margin, conflicts) == (0.0, 0)


@pytest.mark.parametrize(
    "given",
    [
        {"margin": "none", "margin_scale": 2},
        {"margin": "none", "margin_clip": 2},
        {"conflict_weight": 0.1},
        {"rank": 4},
        {"margin_scale": float("nan")},
        {"label_smoothing": 0.5},
        {"margin_clip": 0},
    ],
)
def test_options_that_do_not_go_together_are_refused(given: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        RewardSettings.model_validate(given)


def test_pairs_are_divided_by_prompt() -> None:
    pairs = annotated(30, prompts=10)
    train, apart = divided(pairs, 0.3, 0)
    assert (len(train), len(apart)) == (21, 9)
    assert {one.pair.prompt for one in train}.isdisjoint(str(one.pair.prompt) for one in apart)
    assert divided(pairs, 0.3, 0) == (train, apart)
    assert divided(pairs, 0.3, 1) != (train, apart)
    assert divided(pairs, 0.0, 0) == (pairs, [])
