"""The files that are kept of a fitted direction."""

import torch

from app.registry import CARD, CONTROL_VECTOR, PAGE, REPORT, TENSORS
from app.schemas.report import DirectionReport
from tests.workers.directions.synthetic import gaussian
from workers.directions.control_vector import from_control_vector
from workers.directions.direction import PromptTerm, SafetyDirection, new_direction
from workers.directions.files import from_files
from workers.directions.page import page
from workers.directions.publishing import parts_of
from workers.directions.reporting import bare_report
from workers.engine.sites import Site


def direction(layer: int) -> SafetyDirection:
    sites = (Site(layer, "mean"), Site(layer, "end_of_turn"))
    term = PromptTerm((Site(2, "request"),), gaussian(3, 1, 8), gaussian(3), gaussian(3, 2, 8))
    model = ("tiny", "sha256:weights", "sha256:template")
    return new_direction("mine", sites, gaussian(2, 8), model=model, recipe="pairs", settings={}, term=term)


def test_numbers_card_report_page_and_control_vector_are_kept_and_say_the_same() -> None:
    made = direction(3)
    report = bare_report(made)
    parts = parts_of(made, report)
    assert parts.keys() == {TENSORS, CARD, REPORT, PAGE, CONTROL_VECTOR}
    for back in (from_files("mine", parts), from_control_vector("mine", parts[CONTROL_VECTOR])):
        assert back.card == made.card
        assert all(torch.equal(back.tensors[name], tensor) for name, tensor in made.tensors.items())
    assert DirectionReport.model_validate_json(parts[REPORT]) == report
    assert parts[PAGE] == page(report)


def test_a_direction_that_llama_cpp_cannot_steer_by_is_kept_without_a_control_vector() -> None:
    made = direction(0)
    parts = parts_of(made, bare_report(made))
    assert parts.keys() == {TENSORS, CARD, REPORT, PAGE}
    assert from_files("mine", parts).card == made.card


def test_the_same_fit_gives_the_same_files() -> None:
    first, second = direction(3), direction(3)
    assert parts_of(first, bare_report(first)) == parts_of(second, bare_report(second))
