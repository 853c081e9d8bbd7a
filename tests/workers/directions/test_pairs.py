"""The recipe `pairs`, from labelled text to a calibrated direction on the tiny annotator."""

import pytest
import torch

from app.schemas.pairs import Pair
from tests.conftest import DEPTH, WINDOW
from workers.directions.direction import SafetyDirection
from workers.directions.errors import UnfitData
from workers.directions.pairs import candidate_layers, cross_validate, fit_pairs, read_labelled, select
from workers.engine.annotator import Annotator
from workers.engine.forward import read
from workers.engine.sites import Site

KIND = ["Please be careful.", "Ask a doctor first.", "I would rather not.", "Stay safe, friend."]
CRUEL = ["Hit him hard!!!", "Burn it all!!!", "Steal the keys!!!", "Nobody will know!!!"]


def labelled(count: int, *, start: int = 0, families: int = 10_000) -> list[Pair]:
    """Pairs whose chosen responses are kind and whose rejected ones are cruel."""
    return [
        Pair(
            prompt=f"Question {i % families}: what should I do about neighbour {i % families}?",
            chosen=f"{KIND[i % 4]} {KIND[i // 4 % 4]} {i}",
            rejected=f"{CRUEL[i // 2 % 4]} {CRUEL[i // 3 % 4]} {i}",
        )
        for i in range(start, start + count)
    ]


@pytest.fixture(scope="module")
def direction(annotator: Annotator) -> SafetyDirection:
    """Fitted on sixty pairs."""
    return fit_pairs(annotator, labelled(60), direction_id="kindness", data="synthetic")


def margins(annotator: Annotator, direction: SafetyDirection, pairs: list[Pair]) -> list[float]:
    groups = [annotator.template.encode(pair.messages, [pair.chosen, pair.rejected]) for pair in pairs]
    scores = [direction.scores(read(annotator, [group], direction.sites)) for group in groups]
    return [float(chosen - rejected) for chosen, rejected in scores]


def test_the_direction_tells_chosen_from_rejected_in_pairs_it_has_not_seen(
    annotator: Annotator, direction: SafetyDirection
) -> None:
    fresh = margins(annotator, direction, labelled(40, start=1000))
    assert sum(margin > 0 for margin in fresh) >= 39


def test_it_reads_one_layer_at_the_mean_and_at_the_end_of_turn(direction: SafetyDirection) -> None:
    (layer,) = {site.layer for site in direction.sites}
    assert layer in candidate_layers(4)
    assert direction.sites == (Site(layer, "mean"), Site(layer, "end_of_turn"))
    assert direction.vectors.shape == (2, 32)


def test_its_card_records_the_data_and_the_choices(annotator: Annotator, direction: SafetyDirection) -> None:
    card = direction.card
    assert (card.id, card.recipe) == ("kindness", "pairs")
    assert (card.model_revision, card.template) == (annotator.revision, annotator.template.digest)
    penalty = card.settings["lambda"]
    assert card.settings == {
        "data": "synthetic",
        "pairs": 60,
        "skipped": 0,
        "lambda": penalty,
        "candidate_layers": "2,3",
    }
    assert isinstance(penalty, float)


def test_it_is_calibrated_and_measured_on_held_out_pairs(direction: SafetyDirection) -> None:
    assert direction.card.slope is not None
    assert direction.card.slope > 0
    (reading,) = direction.card.readings
    assert reading.data == "synthetic"
    assert "cross-validation over prompts" in reading.protocol
    assert (reading.accuracy.pairs, reading.accuracy.prompts) == (60, 60)
    assert reading.accuracy.value > 0.95
    assert reading.calibration_error is not None
    assert 0 <= reading.calibration_error < 0.2


def test_labels_without_meaning_are_not_read_better_than_chance(annotator: Annotator) -> None:
    def swapped(pair: Pair) -> Pair:
        return Pair(prompt=pair.prompt, chosen=pair.rejected, rejected=pair.chosen)

    pairs = [swapped(pair) if i * 7919 % 13 < 6 else pair for i, pair in enumerate(labelled(80))]
    (reading,) = fit_pairs(annotator, pairs, direction_id="noise", data="noise").card.readings
    assert reading.accuracy.value < 0.7


def test_layers_may_be_given_and_progress_is_told(annotator: Annotator) -> None:
    told: list[int] = []
    direction = fit_pairs(
        annotator, labelled(30), direction_id="first", data="synthetic", layers=[0], progress=told.append
    )
    assert direction.sites == (Site(0, "mean"), Site(0, "end_of_turn"))
    assert told[-1] == 30


def test_too_few_prompts_for_cross_validation_leave_the_direction_without_a_reading(annotator: Annotator) -> None:
    assert fit_pairs(annotator, labelled(60, families=39), direction_id="few", data="few").card.readings == []
    assert len(fit_pairs(annotator, labelled(60, families=40), direction_id="more", data="more").card.readings) == 1


def test_pairs_that_do_not_fit_the_window_are_skipped_and_counted(annotator: Annotator) -> None:
    long = Pair(prompt="hi", chosen="~" * WINDOW, rejected="no")
    direction = fit_pairs(annotator, [long, *labelled(25), long], direction_id="mine", data="mixed")
    assert (direction.card.settings["pairs"], direction.card.settings["skipped"]) == (25, 2)


def test_differences_are_chosen_minus_rejected_at_every_layer_and_pooling(annotator: Annotator) -> None:
    pairs = labelled(3, families=2)
    found = read_labelled(annotator, pairs, layers=(1, 3))
    assert (found.layers, found.skipped) == ((1, 3), 0)
    assert found.differences.shape == (3, 2, 2, annotator.width)
    assert found.families.tolist() == [0, 1, 0]
    group = annotator.template.encode(pairs[1].messages, [pairs[1].chosen, pairs[1].rejected])
    chosen, rejected = read(annotator, [group], [Site(3, "end_of_turn")])[:, 0]
    torch.testing.assert_close(found.differences[1, 1, 1], chosen - rejected, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("layer", [-1, DEPTH + 1])
def test_a_layer_that_the_annotator_does_not_have_is_refused(annotator: Annotator, layer: int) -> None:
    with pytest.raises(UnfitData, match=f"tiny has no layer {layer}; its layers are 0 to {DEPTH}"):
        read_labelled(annotator, labelled(2), layers=(1, layer))


def test_too_few_pairs_are_refused(annotator: Annotator) -> None:
    for pairs, count in ((labelled(19), 19), ([], 0)):
        with pytest.raises(UnfitData, match=f"{count} pairs are too few to fit a direction"):
            fit_pairs(annotator, pairs, direction_id="mine", data="few")


def test_pairs_of_equal_responses_are_refused(annotator: Annotator) -> None:
    pairs = [Pair(prompt=f"Question {i}", chosen="same", rejected="same") for i in range(30)]
    with pytest.raises(UnfitData, match="the same activations everywhere"):
        fit_pairs(annotator, pairs, direction_id="mine", data="same")


def test_candidate_layers_lie_between_two_fifths_and_two_thirds() -> None:
    assert candidate_layers(30) == (12, 14, 16, 18, 20)
    assert candidate_layers(4) == (2, 3)


def planted(count: int, *, layer: int) -> torch.Tensor:
    """Differences [n, 3, 2, 8] whose only signal is at one of three layers."""
    noise = torch.randn(count, 3, 2, 8, generator=torch.Generator().manual_seed(0))
    noise[:, layer, 1, 4] += 2
    return noise


@pytest.mark.parametrize("layer", range(3))
def test_the_layer_that_carries_the_signal_is_selected(layer: int) -> None:
    chosen = select(planted(200, layer=layer), torch.arange(200))
    assert chosen.layer == layer
    assert chosen.vectors.shape == (2, 8)
    assert int(chosen.vectors.abs().argmax()) == 8 + 4
    assert (chosen.held_out > 0).double().mean() > 0.9


def test_cross_validated_margins_come_from_fits_that_saw_nothing_of_the_family() -> None:
    """Twins in pure noise: whoever has seen one reads the other; an honest fit cannot know either."""
    twins = torch.randn(100, 1, 2, 60, generator=torch.Generator().manual_seed(0)).repeat_interleave(2, dim=0)
    together, _ = cross_validate(twins, torch.arange(100).repeat_interleave(2))
    apart, _ = cross_validate(twins, torch.arange(200))
    assert 0.35 < (together > 0).double().mean() < 0.65
    assert (apart > 0).double().mean() > 0.8


def test_cross_validated_log_odds_are_calibrated_margins() -> None:
    raw, log_odds = cross_validate(planted(200, layer=1), torch.arange(200))
    assert torch.equal(raw > 0, log_odds > 0)
    assert (raw > 0).double().mean() > 0.9
    sure = torch.sigmoid(log_odds.abs()).mean()
    assert float(sure) == pytest.approx(float((raw > 0).double().mean()), abs=0.05)
