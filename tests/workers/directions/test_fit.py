"""From sources to a calibrated and measured direction, on the tiny annotator."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from app.schemas.fit import FitRequest, PairsSource
from app.schemas.pairs import Pair
from tests.conftest import DEPTH, WINDOW, tiny_annotator
from tests.workers.directions.sources import METHODS, contrast, labelled, legend, pairs, request
from tests.workers.directions.synthetic import chance, kind_or_cruel
from workers.directions import fit as fit_module
from workers.directions import gather as gather_module
from workers.directions import selection
from workers.directions.balance import balance
from workers.directions.direction import SafetyDirection
from workers.directions.evaluation import level_edges, platt_slope
from workers.directions.fit import Fitted, candidate_layers, fit, request_layer
from workers.directions.prompted import fit_prompted
from workers.directions.selection import Method, ReadOut, choose
from workers.engine.annotator import Annotator
from workers.engine.forward import read
from workers.engine.sites import Site


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Readings of the balance set, kept for all tests here."""
    return tmp_path_factory.mktemp("cache")


RECIPES = {
    "pairs": pairs(),
    "labelled": labelled(),
    "contrast": contrast(),
    "legend": legend(22, two_sided=True, max_new_tokens=4),
}


def margins(annotator: Annotator, direction: SafetyDirection, known: list[Pair]) -> list[float]:
    groups = [annotator.template.encode(pair.messages, [pair.chosen, pair.rejected]) for pair in known]
    scores = [direction.scores(read(annotator, [group], direction.reads)) for group in groups]
    return [float(chosen - rejected) for chosen, rejected in scores]


@pytest.fixture(scope="module", params=list(METHODS.values()), ids=list(METHODS))
def fitted(request: pytest.FixtureRequest, annotator: Annotator, cache: Path) -> Fitted:
    """Fitted on sixty pairs, by each method."""
    options: dict[str, Any] = request.param
    return fit(annotator, FitRequest(id="mine", sources=[pairs(name="synthetic")], **options), cache=cache)


def test_the_direction_tells_chosen_from_rejected_in_pairs_it_has_not_seen(
    annotator: Annotator, fitted: Fitted
) -> None:
    fresh = margins(annotator, fitted.direction, kind_or_cruel(40, start=1000))
    assert sum(margin > 0 for margin in fresh) >= 39


def test_it_is_calibrated_and_measured_on_held_out_pairs(fitted: Fitted) -> None:
    card = fitted.direction.card
    assert card.slope is not None
    assert card.slope > 0
    (reading,) = card.readings
    assert reading.data == "synthetic"
    assert "cross-validation over prompts" in reading.protocol
    assert (reading.accuracy.pairs, reading.accuracy.prompts) == (60, 60)
    assert reading.accuracy.value > 0.95
    assert reading.calibration_error is not None
    assert 0 <= reading.calibration_error < 0.2
    assert card.unreliable is False


@pytest.mark.parametrize("options", METHODS.values(), ids=METHODS)
def test_scoring_the_pairs_fitted_on_gives_the_margins_of_the_read_out(
    annotator: Annotator, cache: Path, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Reading anew and adding up in float32, as the service does, loses nothing that matters."""
    expected: list[Tensor] = []

    def watched(rows: Any, method: Method) -> ReadOut:
        read_out = choose(rows, method)
        expected.append(read_out.margins(rows))
        return read_out

    monkeypatch.setattr(fit_module, "choose", watched)
    monkeypatch.setattr(selection, "fit_prompted", lambda rows: fit_prompted(rows, [(1.0, 0.7)]))
    direction = fit(annotator, request(pairs(24), **options), cache=cache).direction
    assert (direction.term is not None) == options.get("by_prompt", False)
    found = torch.tensor(margins(annotator, direction, kind_or_cruel(24)), dtype=torch.double)
    torch.testing.assert_close(found, expected[0], rtol=2e-3, atol=2e-3)


def test_calibration_and_level_edges_are_those_of_the_held_out_margins(
    annotator: Annotator, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    held_out: list[Tensor] = []

    def watched(rows: Any, method: Method) -> ReadOut:
        read_out = choose(rows, method)
        held_out.append(read_out.held_out)
        return read_out

    monkeypatch.setattr(fit_module, "choose", watched)
    card = fit(annotator, request(pairs(24), levels=5), cache=cache).direction.card
    slope = platt_slope(held_out[0])
    assert slope is not None
    assert card.slope == pytest.approx(slope)
    assert card.level_edges == pytest.approx(level_edges(held_out[0] * slope, 5))
    assert len(card.level_edges) == 4


@pytest.mark.parametrize(("recipe", "source"), RECIPES.items(), ids=RECIPES)
def test_every_recipe_gives_a_direction_and_only_labels_calibrate_it(
    annotator: Annotator, cache: Path, recipe: str, source: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        gather_module, "read_requests", lambda harmful: [f"How do I mend window {i}?" for i in range(22)]
    )
    known = fit(annotator, request(source), cache=cache)
    card = known.direction.card
    assert card.recipe == recipe
    assert (card.slope is not None) == (recipe in ("pairs", "labelled"))
    assert bool(card.level_edges) == bool(card.readings) == (card.slope is not None)
    assert {(site.layer, site.pooling) for site in card.sites} <= {
        (i, p) for i in (2, 3) for p in ("mean", "end_of_turn")
    }
    assert known.report.card == card
    assert (known.report.accuracy is None) == (card.slope is None)
    assert (known.report.swap_error is None) == (recipe != "pairs")
    assert known.report.behaviour is not None
    assert (card.should_respond is None, card.should_refuse is None) == (False, False)


def test_legend_by_itself_is_the_published_recipe_of_one_vector_of_unit_length(
    annotator: Annotator, cache: Path
) -> None:
    told: list[tuple[int, int]] = []
    known = fit(annotator, request(legend(12)), cache=cache, progress=lambda done, total: told.append((done, total)))
    direction = known.direction
    assert direction.sites == (Site(2, "mean"),)
    assert float(direction.vectors.norm()) == pytest.approx(1)
    assert (direction.card.recipe, direction.card.slope) == ("legend", None)
    assert (direction.card.readings, direction.card.level_edges) == ([], [])
    assert direction.card.should_refuse is not None
    assert (known.report.card, known.report.sites) == (direction.card, [])
    assert told[-1] == (12, 12)
    paper = fit(annotator, request(legend(12, paper=True)), cache=cache).direction
    assert paper.sites == (Site(DEPTH, "last"),)
    assert fit(annotator, request(legend(12), layers=[1]), cache=cache).direction.sites == (Site(1, "mean"),)


def test_its_card_records_the_sources_and_the_choices(annotator: Annotator, cache: Path) -> None:
    long = Pair(prompt="hi", chosen="~" * WINDOW, rejected="no")
    first = PairsSource(recipe="pairs", pairs=[long, *kind_or_cruel(24)], name="mine", weight=2.5)
    direction = fit(annotator, request(first, contrast(20), read_layers=1), cache=cache).direction
    penalty = direction.card.settings["penalties"]
    assert direction.card.settings == {
        "sources": "mine × 2.5, contrast × 1",
        "rows": 44,
        "skipped": 1,
        "estimator": "ridge",
        "penalties": penalty,
        "candidate_layers": "2, 3",
        "read_layers": 1,
        "by_prompt": False,
    }
    assert isinstance(penalty, str)
    assert float(penalty) > 0
    assert direction.card.recipe == "pairs+contrast"
    assert (direction.card.model_revision, direction.card.template) == (annotator.revision, annotator.template.digest)
    (layer,) = {site.layer for site in direction.sites}
    assert direction.sites == (Site(layer, "mean"), Site(layer, "end_of_turn"))


def test_by_prompt_it_reads_the_request_three_fifths_up(
    annotator: Annotator, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(selection, "fit_prompted", lambda rows: fit_prompted(rows, [(1.0, 0.7)]))
    direction = fit(annotator, request(pairs(24), by_prompt=True), cache=cache).direction
    assert direction.term is not None
    assert direction.term.sites == (Site(request_layer(annotator), "request"),)
    assert request_layer(annotator) == 2
    assert direction.card.settings["by_prompt"] is True


def test_by_prompt_without_use_for_the_prompt_does_not_read_it(annotator: Annotator, cache: Path) -> None:
    assert fit(annotator, request(pairs(24), by_prompt=True), cache=cache).direction.term is None


def swapped(known: list[Pair]) -> list[Pair]:
    """About half of them turned round, by no rule that a text shows."""
    return [
        Pair(prompt=pair.prompt, chosen=pair.rejected, rejected=pair.chosen) if i * 7919 % 13 < 6 else pair
        for i, pair in enumerate(known)
    ]


def test_labels_without_meaning_give_a_direction_that_is_called_unreliable(annotator: Annotator, cache: Path) -> None:
    noise = PairsSource(recipe="pairs", pairs=swapped(kind_or_cruel(80)))
    card = fit(annotator, request(noise), cache=cache).direction.card
    assert card.readings[0].accuracy.value < 0.7
    assert card.unreliable is True


def test_the_first_source_says_how_well_it_reads_whatever_the_others_are(annotator: Annotator, cache: Path) -> None:
    noise = PairsSource(recipe="pairs", pairs=swapped(kind_or_cruel(60, start=500)), weight=0.1, name="noise")
    first = fit(annotator, request(pairs(name="good"), noise), cache=cache).direction.card
    assert [reading.data for reading in first.readings] == ["good", "noise"]
    assert [reading.accuracy.pairs for reading in first.readings] == [60, 60]
    assert first.readings[0].accuracy.value > 0.95 > first.readings[1].accuracy.value
    assert first.unreliable is False
    last = fit(annotator, request(noise, pairs(name="good")), cache=cache).direction.card
    assert last.unreliable is True


def test_the_balance_set_as_a_source_is_read_held_out(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wide = tiny_annotator()
    wide.template.window = 320  # for the set's shorter pairs
    monkeypatch.setattr(fit_module, "balance_margins", lambda *_args: pytest.fail("read as if it were not fitted on"))
    card = fit(wide, request({"recipe": "pairs", "pairs": "balance"}), cache=cache).direction.card
    (reading,) = card.readings
    assert reading.data == "balance"
    assert card.should_respond is not None
    assert card.should_refuse is not None
    assert card.should_respond.pairs + card.should_refuse.pairs == reading.accuracy.pairs == card.settings["rows"]


def test_layers_may_be_given_in_any_order(annotator: Annotator, cache: Path) -> None:
    direction = fit(annotator, request(pairs(24), layers=[1, 0, 1]), cache=cache).direction
    assert direction.card.settings["candidate_layers"] == "0, 1"
    assert {site.layer for site in direction.sites} <= {0, 1}


def test_candidate_layers_lie_behind_the_middle() -> None:
    assert candidate_layers(30) == (18, 22)
    assert candidate_layers(4) == (2, 3)


def test_progress_is_told(annotator: Annotator, cache: Path) -> None:
    told: list[tuple[int, int]] = []
    fit(annotator, request(pairs(24)), cache=cache, progress=lambda done, total: told.append((done, total)))
    assert told[-1] == (24, 24)


def test_the_prompts_of_other_sources_do_not_make_up_for_those_of_the_first(annotator: Annotator, cache: Path) -> None:
    card = fit(annotator, request(pairs(30, families=20), contrast(40)), cache=cache).direction.card
    assert card.slope is not None
    assert card.readings == []
    assert card.unreliable is True


def test_labelled_responses_with_a_prompt_each_are_measured_as_pairs_of_them(annotator: Annotator, cache: Path) -> None:
    source = labelled(45)
    for i, row in enumerate(source["responses"]):
        row["prompt"] = f"Question {i}?"
    made = fit(annotator, request(source), cache=cache)
    card = made.direction.card
    (reading,) = card.readings
    assert (reading.accuracy.pairs, reading.accuracy.prompts) == (45, 45)
    assert reading.accuracy.value > 0.95
    assert card.slope is not None
    assert card.unreliable is False
    assert made.report.accuracy is not None
    assert made.report.accuracy.pairs == 45
    assert "45 pairs of the first source" in made.report.measured_on


def test_labelled_responses_in_too_few_groups_to_hold_some_out_are_called_unreliable(
    annotator: Annotator, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However well the balance set is read."""
    places = torch.arange(len(balance().pairs))
    monkeypatch.setattr(fit_module, "balance_margins", lambda *_args: (torch.ones(len(places)).double(), places))
    made = fit(annotator, request(labelled(39)), cache=cache)
    assert made.direction.card.readings == []
    assert made.direction.card.should_refuse is not None
    assert made.direction.card.should_refuse.low == 1
    assert made.direction.card.unreliable is True


@pytest.mark.parametrize("by_chance", [None, "should_respond", "should_refuse"])
def test_without_labels_both_sides_of_the_balance_set_must_be_read(
    annotator: Annotator, cache: Path, monkeypatch: pytest.MonkeyPatch, by_chance: str | None
) -> None:
    """One side read perfectly does not make up for the other, read by chance."""
    held = balance()
    places = torch.arange(len(held.pairs))
    good = torch.ones(len(places), dtype=torch.double)
    sides = {None: torch.zeros_like(held.benign), "should_respond": held.benign, "should_refuse": ~held.benign}
    margins = torch.where(sides[by_chance] & (torch.rand(len(places), generator=chance()) < 0.5), -1.0, good)
    monkeypatch.setattr(fit_module, "balance_margins", lambda *_args: (margins, places))
    card = fit(annotator, request(contrast(20)), cache=cache).direction.card
    assert card.unreliable is (by_chance is not None)


def test_too_few_prompts_for_cross_validation_leave_the_direction_without_a_reading_and_unreliable(
    annotator: Annotator, cache: Path
) -> None:
    few = fit(annotator, request(pairs(60, families=39)), cache=cache)
    assert (few.direction.card.readings, few.report.accuracy) == ([], None)
    assert few.direction.card.slope is not None
    assert few.direction.card.unreliable is True
    assert len(fit(annotator, request(pairs(60, families=40)), cache=cache).direction.card.readings) == 1
