"""What a report says beyond the card, on rows whose truth is known."""

from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from app.schemas.fit import ContrastSource, FitRequest, PairsSource, PlainResponse
from app.schemas.report import DirectionReport
from tests.workers.directions.synthetic import chance, gaussian, kind_or_cruel, rows
from workers.directions.direction import SafetyDirection, known, new_direction
from workers.directions.evaluation import accuracy, auroc, calibration_error
from workers.directions.fit import Fitted, fit
from workers.directions.gather import Plan, plan
from workers.directions.reporting import bare_report, full_report, histogram, reliability, swap_error
from workers.directions.rows import Rows
from workers.directions.selection import CrossValidation, Method, cross_validate
from workers.engine.annotator import Annotator
from workers.engine.sites import Site

WIDTH = 6


def planted(count: int = 200) -> Rows:
    """Layers 1 and 3 of which only the mean at layer 3 carries a signal; lengths that are right four times in five."""
    values = gaussian(count, 2, 2, WIDTH)
    values[:, 1, 0, 2] += 2
    longer = torch.where(torch.arange(count) % 5 == 0, -1.0, 1.0) * (1 + torch.arange(count) % 7)
    return replace(rows(values, layers=(1, 3)), lengths=longer)


def direction(direction_id: str = "mine", **measured: object) -> SafetyDirection:
    vectors = gaussian(1, WIDTH, seed=3)
    made = new_direction(direction_id, (Site(3, "mean"),), vectors, model=("t", "r", "c"), recipe="pairs", settings={})
    return known(made, **measured)


def reading(margins: Tensor) -> dict[str, object]:
    figure = accuracy(margins, torch.arange(len(margins)))
    return {"data": "d", "protocol": "p", "accuracy": figure.model_dump(), "calibration_error": None}


def report(
    annotator: Annotator, made: Rows, *controls: SafetyDirection, slope: float | None = 1.0
) -> tuple[DirectionReport, CrossValidation]:
    """The report of a direction on rows of which nothing is a pair of texts."""
    trial = cross_validate(made, Method())
    measured: dict[str, Any] = {"slope": slope, "readings": [reading(trial.raw)]} if slope else {}
    return full_report(annotator, direction(**measured), Plan(annotator), made, trial, controls), trial


def test_the_figures_are_those_of_the_cross_validated_margins(annotator: Annotator) -> None:
    made = planted()
    found, trial = report(annotator, made)
    assert found.accuracy == accuracy(trial.log_odds, made.families)
    assert found.accuracy is not None
    assert found.accuracy.value > 0.9
    assert found.behaviour is not None
    assert found.behaviour.auroc == pytest.approx(auroc(trial.log_odds))
    assert found.calibration_error == pytest.approx(calibration_error(trial.log_odds))
    assert sum(part.count for part in found.histogram) == sum(part.count for part in found.reliability) == 200
    assert "200 pairs of the first source" in found.measured_on


def test_only_the_first_source_is_measured(annotator: Annotator) -> None:
    made = planted()
    mixed = replace(made, sources=(torch.arange(200) >= 120).long())
    found, trial = report(annotator, mixed)
    assert found.accuracy == accuracy(trial.log_odds[:120], made.families[:120])
    assert sum(part.count for part in found.histogram) == 120
    assert {site.accuracy.pairs for site in found.sites} == {120}
    assert {control.accuracy.pairs for control in found.controls} == {120}


def test_every_place_is_measured_by_itself_and_the_one_with_the_signal_stands_out(annotator: Annotator) -> None:
    found, _ = report(annotator, planted())
    places = {(site.layer, site.pooling): site for site in found.sites}
    assert set(places) == {(layer, pooling) for layer in (1, 3) for pooling in ("mean", "end_of_turn")}
    signal = places.pop((3, "mean"))
    assert signal.accuracy.value > 0.9
    assert signal.split_half_cosine > 0.9
    assert signal.auroc > 0.95
    assert all(other.accuracy.low < 0.6 for other in places.values())
    assert all(other.split_half_cosine < 0.7 for other in places.values())


def test_length_alone_a_random_direction_and_other_directions_are_what_it_should_beat(annotator: Annotator) -> None:
    made = replace(planted(), controls=torch.where(torch.arange(200) < 150, 1.0, -1.0).double()[:, None])
    figure = accuracy(torch.ones(5), torch.arange(5)).model_dump()
    other = direction("other", should_respond=figure)
    found, _ = report(annotator, made, other)
    length, random, rival = found.controls
    assert (length.name, length.accuracy.value) == ("length alone", 0.8)
    assert random.name == "a random direction"
    assert random.accuracy.value < 0.8
    assert (rival.name, rival.accuracy.value) == ("other (pairs)", 0.75)
    assert rival.should_respond == other.card.should_respond
    assert rival.should_refuse is None


def test_length_is_taken_with_the_sign_that_suits_it(annotator: Annotator) -> None:
    made = planted()
    found, _ = report(annotator, replace(made, lengths=-made.lengths))
    assert found.controls[0].accuracy.value == 0.8


def test_a_margin_that_goes_along_with_length_or_refusals_says_so(annotator: Annotator) -> None:
    made = planted()
    plain, trial = report(annotator, made)
    telling = replace(made, lengths=10 * trial.log_odds.float(), refusals=-trial.log_odds.sign().float())
    found, _ = report(annotator, telling)
    assert plain.behaviour is not None
    assert plain.behaviour.refusal_correlation is None
    assert found.behaviour is not None
    assert found.behaviour.length_correlation == pytest.approx(1)
    assert found.behaviour.refusal_correlation is not None
    assert found.behaviour.refusal_correlation < -0.3


def test_without_labels_nothing_is_said_of_calibration(annotator: Annotator) -> None:
    found, trial = report(annotator, planted(), slope=None)
    assert (found.calibration_error, found.reliability) == (None, [])
    assert found.accuracy is None
    assert found.behaviour is not None
    assert found.behaviour.auroc == pytest.approx(auroc(trial.raw))
    assert "200 rows of the first source, which nobody labelled" in found.measured_on


def test_without_cross_validation_only_the_card_is_known(annotator: Annotator) -> None:
    made = direction()
    found = full_report(annotator, made, Plan(annotator), planted(), None, ())
    assert found == bare_report(made)
    assert (found.accuracy, found.behaviour, found.sites, found.controls) == (None, None, [], [])


@pytest.fixture(scope="module")
def fitted(annotator: Annotator, tmp_path_factory: pytest.TempPathFactory) -> tuple[Fitted, Plan]:
    source = PairsSource(recipe="pairs", pairs=kind_or_cruel(40))
    cache: Path = tmp_path_factory.mktemp("cache")
    made = fit(annotator, FitRequest(id="mine", sources=[source]), cache=cache)
    return made, plan(annotator, [source], lambda _done, _total: None)


def test_swapping_the_sides_of_a_pair_turns_its_margin_round(annotator: Annotator, fitted: tuple[Fitted, Plan]) -> None:
    known_direction, made = fitted[0].direction, fitted[1]
    error = fitted[0].report.swap_error
    assert error is not None
    assert error < 1e-3
    slope = known_direction.card.slope
    assert slope is not None
    steeper = known(known_direction, slope=1e9 * slope)  # rounding shows, in the units of the calibration
    worse = swap_error(annotator, steeper, made)
    assert worse is not None
    assert worse > 1


def test_recipes_without_pairs_have_nothing_to_swap(annotator: Annotator, fitted: tuple[Fitted, Plan]) -> None:
    responses = [PlainResponse(prompt="Hi", response="Hello")] * 3
    source = ContrastSource(recipe="contrast", responses=responses, good="Good.", bad="Bad.")
    made = plan(annotator, [source], lambda _done, _total: None)
    assert len(made.parts) == 6
    assert swap_error(annotator, fitted[0].direction, made) is None


def test_histogram_bins_meet_at_zero_and_hold_every_margin() -> None:
    margins = torch.randn(5000, generator=chance(1), dtype=torch.double) + 0.7
    margins[0], margins[1] = 1e6, -1e6
    bins = histogram(margins)
    assert sum(part.count for part in bins) == 5000
    assert all(left.high == right.low for left, right in pairwise(bins))
    assert 0.0 in [part.low for part in bins]
    assert sum(part.count for part in bins if part.high <= 0) == int((margins < 0).sum())
    assert bins[-1].high < 10


def test_margins_that_are_all_zero_still_make_a_histogram() -> None:
    assert sum(part.count for part in histogram(torch.zeros(7))) == 7


def test_reliability_sets_confidence_beside_how_often_it_was_right() -> None:
    sure = torch.full((10,), 3.0).double()
    unsure = torch.tensor([0.1, 0.1, -0.1, -0.1]).double()
    low, high = reliability(torch.cat([sure, unsure]))
    assert (low.count, low.accuracy) == (4, 0.5)
    assert low.confidence == pytest.approx(float(torch.sigmoid(torch.tensor(0.1))))
    assert (high.count, high.accuracy) == (10, 1.0)
    assert high.confidence == pytest.approx(float(torch.sigmoid(torch.tensor(3.0))))
    assert [part.count for part in reliability(torch.tensor([1e9]))] == [1]
