"""The mean pattern as a direction of a taught model."""

import pytest
import torch

from tests.workers.alignment.conftest import pairs
from workers.alignment import contrast
from workers.alignment.contrast import contrast_direction
from workers.alignment.errors import UnfitData
from workers.directions.balance import balance
from workers.directions.direction import SafetyDirection, check_fits
from workers.directions.errors import UnusableFile
from workers.directions.files import from_files, to_files
from workers.engine.annotator import Annotator
from workers.engine.forward import read
from workers.engine.sites import Site

BLOCKS = (0, 2)
PAIRS = pairs(30)


def mean_difference(annotator: Annotator) -> torch.Tensor:
    """[L, d] what the chosen responses differ by from the rejected ones: a pattern that reads them well."""
    groups = [annotator.template.encode(pair.messages, (pair.chosen, pair.rejected)) for pair in PAIRS]
    readings = [read(annotator, [group], [Site(block, "mean") for block in BLOCKS]) for group in groups]
    return torch.stack([reading[0] - reading[1] for reading in readings]).double().mean(dim=0)


def made(annotator: Annotator, mean: torch.Tensor) -> SafetyDirection:
    return contrast_direction(annotator, mean, BLOCKS, PAIRS, "mine", note={"job": "j"})


@pytest.fixture(autouse=True)
def read_balance(monkeypatch: pytest.MonkeyPatch) -> None:
    """The balance set takes a tiny model seconds to read, and is read in other tests."""
    places = torch.arange(len(balance().pairs))
    monkeypatch.setattr(contrast, "balance_margins", lambda *_arguments: (torch.ones(len(places)).double(), places))


def test_it_reads_every_target_layer_with_equal_say(pupil: Annotator) -> None:
    mean = mean_difference(pupil)
    direction = made(pupil, mean)
    assert [(site.layer, site.pooling) for site in direction.sites] == [(0, "mean"), (2, "mean")]
    for vector, pattern in zip(direction.vectors, mean, strict=True):
        assert float(torch.cosine_similarity(vector.double(), pattern, dim=0)) == pytest.approx(1)
    groups = [pupil.template.encode(pair.messages, (pair.chosen, pair.rejected)) for pair in PAIRS]
    readings = torch.stack([read(pupil, [group], direction.sites) for group in groups])
    shares = ((readings[:, 0] - readings[:, 1]) * direction.vectors).sum(dim=2).square().mean(dim=0).sqrt()
    torch.testing.assert_close(shares, torch.tensor([0.5, 0.5]), atol=1e-4, rtol=1e-4)


def test_labels_calibrate_it_and_say_how_well_it_reads(pupil: Annotator) -> None:
    card = made(pupil, mean_difference(pupil)).card
    assert card.recipe == "contrast"
    assert card.readings[0].accuracy.value > 0.9
    assert card.readings[0].accuracy.pairs == 30
    assert card.slope is not None
    assert card.slope > 0
    assert len(card.level_edges) == 3
    assert card.should_refuse is not None
    assert (card.settings["pairs"], card.settings["skipped"], card.settings["job"]) == (30, 0, "j")
    assert not card.unreliable


def test_a_pattern_that_reads_the_wrong_way_round_is_kept_as_it_is_and_called_unreliable(pupil: Annotator) -> None:
    """Labels must not turn a direction that claims to know none."""
    card = made(pupil, -mean_difference(pupil)).card
    assert card.readings[0].accuracy.value < 0.1
    assert (card.slope, card.level_edges, card.unreliable) == (None, [], True)


def test_it_is_for_the_taught_model_alone_and_survives_its_files(pupil: Annotator) -> None:
    direction = made(pupil, mean_difference(pupil))
    assert from_files("mine", to_files(direction)).digest == direction.digest
    shape = {"template": pupil.template.digest, "depth": pupil.depth, "width": pupil.width}
    check_fits(direction, model=pupil.name, revision=pupil.revision, **shape)  # type: ignore[arg-type]
    with pytest.raises(UnusableFile):
        check_fits(direction, model=pupil.name, revision=f"{pupil.revision}+sha256:other", **shape)  # type: ignore[arg-type]


def test_patterns_of_nothing_and_too_few_pairs_are_refused(pupil: Annotator) -> None:
    with pytest.raises(UnfitData, match="its patterns move no pair"):
        made(pupil, torch.zeros(2, pupil.width))
    with pytest.raises(UnfitData, match="3 pairs are too few to calibrate on; at least 20 are needed"):
        contrast_direction(pupil, torch.ones(2, pupil.width), BLOCKS, PAIRS[:3], "mine")
