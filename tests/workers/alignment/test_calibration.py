"""What margins of held-out pairs say of themselves."""

import pytest
import torch

from tests.workers.alignment.conftest import pairs
from workers.alignment.calibration import FEWEST, calibrate, families_of, refuse_too_few
from workers.alignment.errors import UnfitData
from workers.directions.evaluation import calibration_error

SOURCE = torch.Generator().manual_seed(0)
LOG_ODDS = torch.randn(2000, generator=SOURCE, dtype=torch.double).abs() * 2
SIDES = (torch.rand(2000, generator=SOURCE) < torch.sigmoid(LOG_ODDS)).double() * 2 - 1
RAW = LOG_ODDS * SIDES / 0.5
"""Margins that are right as often as their log-odds say, at two units each."""
ALONE = torch.arange(2000)


def test_the_slope_makes_log_odds_of_margins() -> None:
    found = calibrate(RAW, ALONE, "by hand")
    assert found.slope is not None
    assert found.slope == pytest.approx(0.5, rel=0.1)
    assert not found.on_card["unreliable"]
    assert found.reading.accuracy.value == pytest.approx(float((SIDES > 0).double().mean()))
    assert found.reading.protocol == "by hand"
    assert found.reading.calibration_error == pytest.approx(0, abs=0.03)
    quarters = torch.bucketize(RAW * found.slope, torch.tensor(found.level_edges)).bincount()
    assert quarters.tolist() == [500, 500, 500, 500]


def test_the_calibration_error_is_of_slopes_that_did_not_see_the_pairs() -> None:
    few, alone = RAW[:30], ALONE[:30]
    found = calibrate(few, alone, "by hand")
    assert found.slope is not None
    assert found.reading.calibration_error != pytest.approx(calibration_error(few * found.slope), abs=1e-6)


def test_margins_that_read_the_wrong_way_round_are_not_turned() -> None:
    found = calibrate(-RAW, ALONE, "by hand")
    assert (found.slope, found.level_edges, found.reading.calibration_error) == (None, [], None)
    assert found.on_card["unreliable"]


def test_pairs_of_one_prompt_only_are_calibrated_without_a_figure_that_they_cannot_give() -> None:
    found = calibrate(RAW[:40], torch.zeros(40, dtype=torch.long), "by hand")
    assert found.slope is not None
    assert found.reading.accuracy.prompts == 1


def test_a_family_is_the_beginning_of_a_conversation() -> None:
    some = pairs(4)
    again = some[1].model_copy(update={"chosen": "other"})
    assert families_of([*some, again]).tolist() == [0, 1, 2, 3, 1]


def test_too_few_pairs_are_refused() -> None:
    refuse_too_few(FEWEST)
    with pytest.raises(UnfitData, match="19 pairs are too few to calibrate on; at least 20 are needed"):
        refuse_too_few(FEWEST - 1)
