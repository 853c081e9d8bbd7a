"""What a safety direction says of activations, and which annotator it fits."""

import math

import pytest
import torch
from torch import Tensor

from app import __version__
from workers.directions.direction import PromptTerm, SafetyDirection, check_fits, known, logistic, new_direction
from workers.directions.errors import UnfitData, UnusableFile
from workers.engine.sites import Site

SITES = (Site(2, "mean"), Site(2, "end_of_turn"))
VECTORS = torch.tensor([[1.0, 0.0, 2.0], [0.0, -1.0, 0.5]])
TERM = PromptTerm(
    sites=(Site(1, "request"),),
    probes=torch.tensor([[[1.0, 1.0, 0.0]], [[0.0, 0.0, 2.0]]]),
    offsets=torch.tensor([1.0, 3.0]),
    vectors=torch.tensor([[[1.0, 0.0, 0.0], [0.0, 0.0, 0.0]], [[0.0, 0.0, 0.0], [0.0, 10.0, 0.0]]]),
)


def direction(
    vectors: Tensor = VECTORS, term: PromptTerm | None = None, direction_id: str = "mine", **measured: object
) -> SafetyDirection:
    model = ("tiny", "sha256:weights", "sha256:template")
    settings: dict[str, str | int | float | bool | None] = {"rows": 60}
    return known(
        new_direction(direction_id, SITES, vectors, model=model, recipe="pairs", settings=settings, term=term),
        **measured,
    )


def test_a_score_is_the_sum_of_the_projections_at_every_site() -> None:
    activations = torch.tensor([[[1.0, 5.0, 1.0], [7.0, 2.0, 4.0]], [[0.0, 9.0, 0.0], [9.0, 0.0, 0.0]]])
    assert direction().scores(activations).tolist() == [(1 + 2) + (-2 + 2), 0.0]


def test_scores_of_several_sites_add_up_from_scores_of_each() -> None:
    activations = torch.randn(6, 2, 3, generator=torch.Generator().manual_seed(0))
    parts = [direction(VECTORS * torch.eye(2)[:, [site]]).scores(activations) for site in (0, 1)]
    torch.testing.assert_close(direction().scores(activations), parts[0] + parts[1])


def test_scores_are_added_in_double_precision() -> None:
    huge, tiny = torch.tensor([[[1e8, 1.0, 0.0]] * 2]), torch.tensor([[1.0, 1.0, 0.0], [-1.0, 1.0, 0.0]])
    assert direction(tiny).scores(huge).tolist() == [2.0]


def test_the_request_moves_the_vectors_by_how_far_its_projections_are_from_the_offsets() -> None:
    response = [[1.0, 5.0, 1.0], [7.0, 2.0, 4.0]]
    usual, other = [0.5, 0.5, 1.5], [2.0, 1.0, 2.0]
    activations = torch.tensor([[*response, usual], [*response, other]])
    plain = (1 + 2) + (-2 + 2)
    values = [(2 + 1) - 1, 2 * 2 - 3]
    assert direction(term=TERM).scores(activations).tolist() == [plain, plain + values[0] * 1 + values[1] * 10 * 2]


def test_it_reads_its_own_sites_and_then_those_of_the_request() -> None:
    assert direction().reads == SITES
    assert direction(term=TERM).reads == (*SITES, Site(1, "request"))
    card = direction(term=TERM).card
    assert [(site.layer, site.pooling) for site in card.prompt_sites] == [(1, "request")]


def test_a_calibrated_margin_is_in_log_odds_and_an_uncalibrated_one_is_raw() -> None:
    assert direction(slope=2.5).calibrate(-3.0) == -7.5
    assert direction().calibrate(-3.0) == -3.0


@pytest.mark.parametrize(("margin", "level"), [(-9.0, 0), (-1.0, 1), (-0.9, 1), (0.5, 2), (1.9, 2), (2.0, 3), (9.0, 3)])
def test_the_level_counts_the_edges_that_a_margin_reaches(margin: float, level: int) -> None:
    assert direction(slope=1.0, level_edges=[-1.0, 0.5, 2.0]).level(margin) == level


def test_without_edges_there_is_no_level() -> None:
    assert direction().level(1.0) is None


@pytest.mark.parametrize(("margin", "probability"), [(0.0, 0.5), (math.log(3), 0.75), (-math.log(3), 0.25)])
def test_the_probability_is_the_logistic_of_the_margin(margin: float, probability: float) -> None:
    assert logistic(margin) == pytest.approx(probability)


def test_the_probability_of_an_extreme_margin_does_not_overflow() -> None:
    assert logistic(1e4) == 1
    assert logistic(-1e4) == 0
    assert logistic(3.7) + logistic(-3.7) == 1


def test_the_card_says_what_it_is_and_how_it_was_made() -> None:
    card = direction().card
    made_for = (card.model, card.model_revision, card.template)
    assert (card.id, made_for) == ("mine", ("tiny", "sha256:weights", "sha256:template"))
    assert [(site.layer, site.pooling) for site in card.sites] == [(2, "mean"), (2, "end_of_turn")]
    assert (card.recipe, card.settings, card.prompt_sites) == ("pairs", {"rows": 60}, [])
    assert card.version == __version__


def test_nothing_is_known_of_a_new_direction_so_that_it_is_unreliable() -> None:
    card = direction().card
    assert (card.slope, card.level_edges, card.readings) == (None, [], [])
    assert (card.should_respond, card.should_refuse, card.unreliable) == (None, None, True)


def test_what_is_measured_later_is_added_to_the_card_and_changes_nothing_else() -> None:
    before, after = direction(term=TERM), known(direction(term=TERM), slope=2.0, unreliable=False)
    assert (after.card.slope, after.card.unreliable) == (2.0, False)
    changed = {"digest", "slope", "unreliable", "created"}
    assert after.card.model_dump(exclude=changed) == before.card.model_dump(exclude=changed)
    assert (after.sites, after.term) == (before.sites, TERM)
    assert torch.equal(after.vectors, before.vectors)


def test_the_digest_changes_with_every_number_and_with_the_card() -> None:
    bent = PromptTerm(TERM.sites, TERM.probes, TERM.offsets, -TERM.vectors)
    variants = [
        direction(),
        direction(VECTORS * 2),
        direction(slope=2.1),
        direction(unreliable=False),
        direction(direction_id="other"),
        direction(term=TERM),
        direction(term=bent),
        direction(term=PromptTerm(TERM.sites, TERM.probes, TERM.offsets + 1, TERM.vectors)),
        direction(term=PromptTerm(TERM.sites, TERM.probes * 2, TERM.offsets, TERM.vectors)),
    ]
    digests = [variant.card.digest for variant in variants]
    assert all(digest.startswith("sha256:") for digest in digests)
    assert len(set(digests)) == len(variants)


@pytest.mark.parametrize("vectors", [VECTORS * 0, VECTORS * float("nan"), VECTORS / 0])
def test_vectors_that_are_zero_or_not_finite_are_no_direction(vectors: Tensor) -> None:
    with pytest.raises(UnfitData, match="zero or not finite"):
        direction(vectors)


def test_a_direction_fits_the_annotator_it_was_made_for() -> None:
    check_fits(direction(), model="tiny", revision="sha256:weights", template="sha256:template", depth=2, width=3)


def test_a_direction_does_not_fit_other_weights() -> None:
    with pytest.raises(UnusableFile, match="direction mine was made for tiny, not for the weights of other"):
        check_fits(direction(), model="other", revision="sha256:others", template="sha256:template", depth=2, width=3)


def test_a_direction_does_not_fit_another_chat_template() -> None:
    with pytest.raises(UnusableFile, match="direction mine was made with another chat template than tiny has now"):
        check_fits(direction(), model="tiny", revision="sha256:weights", template="sha256:others", depth=2, width=3)


@pytest.mark.parametrize(("depth", "width"), [(2, 4), (1, 3)])
def test_a_direction_does_not_fit_another_shape(depth: int, width: int) -> None:
    with pytest.raises(UnusableFile, match="does not have the shape of tiny"):
        check_fits(
            direction(), model="tiny", revision="sha256:weights", template="sha256:template", depth=depth, width=width
        )


def test_a_direction_does_not_fit_an_annotator_that_has_no_layer_where_it_reads_the_request() -> None:
    deep = PromptTerm((Site(3, "request"),), TERM.probes, TERM.offsets, TERM.vectors)
    with pytest.raises(UnusableFile, match="does not have the shape of tiny"):
        check_fits(
            direction(term=deep), model="tiny", revision="sha256:weights", template="sha256:template", depth=2, width=3
        )
