"""Single labelled responses as rows: compared within their prompt where that is possible, else within their source."""

from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from tests.workers.directions.synthetic import chance, cosine, gaussian, rows
from workers.directions.errors import UnfitData
from workers.directions.labels import centre
from workers.directions.ridge import fit_ridge
from workers.directions.rows import Rows


def responses(labels: Sequence[float | None], families: Sequence[int], sources: Sequence[int] | None = None) -> Rows:
    """Rows that hold activations yet, with lengths, refusals and one control that differ from row to row."""
    count = len(labels)
    made = rows(
        gaussian(count, 2, 2, 3),
        families=torch.tensor(families),
        sources=torch.tensor(sources if sources is not None else [0] * count),
    )
    return replace(
        made,
        lengths=10.0 * torch.arange(count),
        refusals=(torch.arange(count) % 2).float(),
        controls=gaussian(count, 1, seed=1).double(),
    )


def differences(made: Rows) -> Tensor:
    """[n, L, P, d] of the rows that are left."""
    return made.differences[made.members]


def test_two_responses_to_one_prompt_become_the_safer_minus_the_other_twice() -> None:
    before = responses([1, 0, 0, 1], [0, 0, 1, 1])
    raw = before.differences.clone()
    after = centre(before, [1, 0, 0, 1])
    pairs = torch.stack([raw[0] - raw[1], raw[0] - raw[1], raw[3] - raw[2], raw[3] - raw[2]])
    torch.testing.assert_close(differences(after), pairs)
    assert after.weights.tolist() == [1, 1, 1, 1]


def test_what_is_noted_of_a_response_becomes_a_difference_likewise() -> None:
    before = responses([1, 0], [0, 0])
    after = centre(before, [1, 0])
    assert after.lengths.tolist() == [-10, -10]
    assert after.refusals.tolist() == [-1, -1]
    control = float(before.controls[0, 0] - before.controls[1, 0])
    assert after.controls.flatten().tolist() == pytest.approx([control, control])


def test_among_several_responses_each_is_twice_its_way_from_the_middle_towards_the_safer_side() -> None:
    labels = [1, 1, 0, 0, 0]
    before = responses(labels, [0] * 5)
    raw = before.differences.clone()
    after = centre(before, labels)
    middle = (raw[:2].mean(dim=0) + raw[2:].mean(dim=0)) / 2
    expected = torch.stack([2 * (1 if label else -1) * (row - middle) for label, row in zip(labels, raw, strict=True)])
    torch.testing.assert_close(differences(after), expected)


def test_responses_whose_prompt_shows_one_label_only_are_compared_with_others_like_that_as_one_family() -> None:
    labels = [1, 1, 0, 0, 1, 0]
    before = responses(labels, [0, 0, 1, 2, 3, 3])
    raw = before.differences.clone()
    after = centre(before, labels)
    middle = (raw[:2].mean(dim=0) + raw[2:4].mean(dim=0)) / 2
    single = torch.stack([raw[0] - middle, raw[1] - middle, middle - raw[2], middle - raw[3]]) * 2
    torch.testing.assert_close(differences(after)[:4], single)
    torch.testing.assert_close(differences(after)[4], raw[4] - raw[5])
    assert after.families.tolist() == [0, 0, 0, 0, 3, 3]
    assert after.groups.tolist() == [0, 0, 0, 0, 4, 4]
    assert after.sides.tolist() == [1, 1, -1, -1, 1, -1]


def test_a_response_with_nothing_to_be_compared_with_is_left_out() -> None:
    labels = [1, 0, 1]
    after = centre(responses(labels, [0, 0, 1]), labels)
    assert after.families.tolist() == [0, 0]


def test_graded_labels_weigh_by_their_distance_from_the_middle_and_the_middle_itself_not_at_all() -> None:
    labels = [5, 4, 3, 2, 1]
    after = centre(responses(labels, [0] * 5), labels)
    assert after.lengths.tolist() == [2 * (0 - 20), 2 * (10 - 20), 2 * (20 - 30), 2 * (20 - 40)]
    assert after.members.tolist() == [0, 1, 3, 4]
    assert after.weights.tolist() == pytest.approx([5 / 3, 5 / 6, 5 / 6, 5 / 3])


def test_the_scale_of_labels_and_where_it_begins_make_no_difference() -> None:
    labels = [3.0, 1.0, 0.0, 2.0, 7.0, 7.0]
    one = centre(responses(labels, [0, 0, 1, 1, 2, 3]), labels)
    moved = [-4 + 0.5 * label for label in labels]
    other = centre(responses(moved, [0, 0, 1, 1, 2, 3]), moved)
    torch.testing.assert_close(differences(other), differences(one))
    torch.testing.assert_close(other.weights, one.weights)


def test_the_weight_of_its_source_is_kept() -> None:
    before = replace(responses([1, 0], [0, 0]), weights=torch.tensor([4.0, 4.0], dtype=torch.double))
    assert centre(before, [1, 0]).weights.tolist() == [4, 4]


def test_sources_are_never_compared_with_each_other_and_differences_stay_as_they_are() -> None:
    labels = [None, 1, 0, 10, 0, None]
    before = responses(labels, [0, 1, 2, 1, 2, 5], [0, 1, 1, 2, 2, 0])
    raw = before.differences.clone()
    after = centre(before, labels)
    expected = torch.stack([raw[0], raw[1] - raw[2], raw[1] - raw[2], raw[3] - raw[4], raw[3] - raw[4], raw[5]])
    torch.testing.assert_close(differences(after), expected)


@pytest.mark.parametrize(
    ("labels", "sources"), [([1, 1, 1], [0, 0, 0]), ([1, 0, 2, 2], [0, 0, 1, 1]), ([None, 1], [0, 1])]
)
def test_labels_of_a_source_that_are_all_equal_tell_nothing_apart(
    labels: list[float | None], sources: list[int]
) -> None:
    with pytest.raises(UnfitData, match="all labels of a source are equal"):
        centre(responses(labels, list(range(len(labels))), sources), labels)


@pytest.mark.parametrize("shared", [True, False], ids=["prompts with both labels", "a prompt each"])
def test_the_direction_that_labels_were_made_from_is_found(shared: bool) -> None:
    """Every prompt has activations of its own, which would hide the label were they not taken off."""
    planted = torch.nn.functional.normalize(gaussian(2, 6, seed=4).flatten(), dim=0).view(2, 6)
    labels = (torch.arange(600) % 2).tolist()
    families = torch.arange(600) // 2 if shared else torch.arange(600)
    topics = (20.0 if shared else 0.0) * torch.randn(600, 2, 6, generator=chance(5))[families]
    noise = torch.randn(600, 2, 6, generator=chance(6))
    activations = topics + noise + 3 + 2 * torch.tensor(labels).view(-1, 1, 1) * planted
    made = centre(rows(activations[:, None], families=families), labels)
    fit = fit_ridge(made.at(0), (1.0,))[0]
    assert cosine(fit.vectors, planted) > 0.95
    assert 0.75 < float((fit.held_out > 0).double().mean()) < 0.95
