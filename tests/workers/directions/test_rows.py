"""Rows: parts of them, their scale, and that nothing depends on how many are looked at together."""

import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tests.workers.directions.synthetic import chance, gaussian, one_layer, rows, uneven
from workers.directions import rows as rows_module
from workers.directions.errors import UnfitData
from workers.directions.logistic import fit_logistic
from workers.directions.prompted import fit_prompted
from workers.directions.ridge import LayerFit, fit_mean, fit_ridge
from workers.directions.rows import MIN_ROWS, LayerRows, Rows, spool

READ_OUTS: dict[str, Callable[[LayerRows], list[LayerFit]]] = {
    "ridge": fit_ridge,
    "logistic": fit_logistic,
    "prompted": fit_prompted,
    "mean": lambda layer: [fit_mean(layer)],
}


def test_a_part_keeps_what_belongs_to_its_rows_and_shares_the_activations() -> None:
    whole = rows(gaussian(30, 2, 2, 5), families=torch.arange(30) * 7, weights=torch.arange(1, 31))
    odd = whole.part(torch.arange(30) % 2 == 1).part(torch.arange(15) < 10)
    assert len(odd) == 10
    assert odd.families.tolist() == [7 * i for i in range(1, 20, 2)]
    assert odd.weights.tolist() == [i + 1 for i in range(1, 20, 2)]
    assert torch.equal(odd.prompts, whole.prompts[1:20:2])
    assert odd.differences is whole.differences
    for layer in (0, 1):
        expected = whole.differences[1:20:2, layer].double()
        assert torch.equal(odd.at(layer).take(torch.arange(10)), expected)


def test_fitting_a_part_is_fitting_its_rows_alone() -> None:
    differences, (families, weights) = gaussian(40, 2, 5), uneven(40)
    mask = torch.rand(40, generator=chance(1)) < 0.7
    whole = rows(differences[:, None], families=families, weights=weights, prompts=gaussian(40, 5, seed=2))
    alone = rows(
        differences[mask][:, None], families=families[mask], weights=weights[mask], prompts=whole.prompts[mask]
    )
    for fits in READ_OUTS.values():
        for one, other in zip(fits(whole.part(mask).at(0)), fits(alone.at(0)), strict=True):
            torch.testing.assert_close(one.vectors, other.vectors)
            torch.testing.assert_close(one.held_out, other.held_out)


def test_the_scale_is_the_weighted_root_mean_square_and_one_where_nothing_moves() -> None:
    layer = one_layer(torch.tensor([[[3.0, 0.0]], [[-4.0, 0.0]]]), weights=torch.tensor([3.0, 1.0]))
    assert layer.scale.tolist() == [[pytest.approx(((3 * 9 + 16) / 4) ** 0.5), 1.0]]


def test_margins_are_inner_products_that_the_request_may_move() -> None:
    differences, prompts = gaussian(6, 2, 3), gaussian(6, 3, seed=1)
    vectors, bend = gaussian(2, 3, seed=2), gaussian(2, 3, 3, seed=3)
    layer = one_layer(differences, prompts=prompts)
    plain = torch.stack([(d * vectors).sum() for d in differences]).double()
    bent = torch.stack([(d * (vectors + bend @ p)).sum() for d, p in zip(differences, prompts, strict=True)]).double()
    torch.testing.assert_close(layer.margins(vectors), plain, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(layer.margins(vectors, bend), bent, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("read_out", READ_OUTS)
@pytest.mark.parametrize("width", [4, 40], ids=["by coordinates", "by rows"])
def test_no_read_out_depends_on_how_many_rows_are_looked_at_together(
    monkeypatch: pytest.MonkeyPatch, read_out: str, width: int
) -> None:
    families, weights = uneven(50)
    differences = gaussian(50, 2, width) + 0.3

    def fitted() -> tuple[list[LayerFit], Tensor]:
        layer = one_layer(differences, families=families, weights=weights)
        fits = READ_OUTS[read_out](layer)
        return fits, layer.margins(fits[0].vectors, fits[0].modulation)

    at_once, margins = fitted()
    monkeypatch.setattr(rows_module, "_BLOCK", 7)
    in_blocks, block_margins = fitted()
    assert len(list(one_layer(differences).blocks())) == 8
    torch.testing.assert_close(block_margins, margins)
    for one, other in zip(in_blocks, at_once, strict=True):
        torch.testing.assert_close(one.vectors, other.vectors)
        torch.testing.assert_close(one.held_out, other.held_out)


def test_a_difference_is_a_pair_by_itself_and_of_labelled_responses_every_safer_one_with_every_other() -> None:
    groups, sides = torch.tensor([-1, 7, 7, 3, 7, 3, -1]), torch.tensor([0, 1, -1, 1, -1, -1, 0])
    first, second = rows(gaussian(7, 1, 1, 2), groups=groups, sides=sides).compared()
    assert list(zip(first.tolist(), second.tolist(), strict=True)) == [(0, 0), (6, 6), (3, 5), (1, 2), (1, 4)]


@pytest.mark.parametrize(("safer", "others"), [(1, 100), (80, 10), (9, 14), (10, 100)])
def test_of_a_large_group_sixty_four_pairs_are_drawn_evenly(safer: int, others: int) -> None:
    sides = torch.cat([torch.ones(safer), -torch.ones(others)])
    made = rows(gaussian(len(sides), 1, 1, 2), groups=torch.zeros(len(sides), dtype=torch.long), sides=sides)
    first, second = made.compared()
    assert len(set(zip(first.tolist(), second.tolist(), strict=True))) == len(first) == 64
    assert (sides[first] > 0).all()
    assert (sides[second] < 0).all()
    assert len(set(second.tolist())) > 0.4 * min(64, others)
    assert len(set(first.tolist())) > 0.4 * min(64, safer)


def test_pairs_are_those_of_a_part_within_it() -> None:
    groups, sides = torch.tensor([0, 0, 2, 2]), torch.tensor([1, -1, -1, 1])
    part = rows(gaussian(4, 1, 1, 2), groups=groups, sides=sides).part(torch.arange(4) >= 2)
    assert [indices.tolist() for indices in part.compared()] == [[1], [0]]


def moved(row: int, value: float, count: int = 50) -> Rows:
    differences = torch.zeros(count, 1, 2, 4)
    differences[row, 0, 1, 2] = value
    return rows(differences)


@pytest.mark.parametrize("block", [1024, 7])
@pytest.mark.parametrize(
    ("unfit", "why"),
    [
        (rows(gaussian(MIN_ROWS - 1, 1, 2, 4)), "19 rows are too few to fit a direction; at least 20 are needed"),
        (rows(gaussian(0, 1, 2, 4)), "0 rows are too few"),
        (moved(41, float("nan")), "some activations are not finite"),
        (moved(41, float("inf")), "some activations are not finite"),
        (moved(41, 0.0), "the same activations everywhere"),
        (rows(gaussian(50, 1, 2, 4), prompts=gaussian(50, 4) / 0), "some activations are not finite"),
    ],
    ids=["too few", "none", "nan", "infinite", "constant", "requests"],
)
def test_rows_that_cannot_give_a_direction_are_refused_by_name(
    monkeypatch: pytest.MonkeyPatch, unfit: Rows, why: str, block: int
) -> None:
    monkeypatch.setattr(rows_module, "_BLOCK", block)
    with pytest.raises(UnfitData, match=why):
        unfit.check()


def test_twenty_rows_of_which_one_moves_are_enough() -> None:
    moved(19, 1e-3, count=MIN_ROWS).check()


def test_only_the_rows_of_a_part_are_looked_at() -> None:
    differences = gaussian(50, 1, 2, 4)
    differences[41] = float("nan")
    rows(differences).part(torch.arange(50) < 41).check()
    with pytest.raises(UnfitData, match="not finite"):
        rows(differences).part(torch.arange(50) < 42).check()


def test_a_spool_is_zeros_on_disk_of_which_no_name_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    values = spool((3, 2, 4))
    assert list(tmp_path.iterdir()) == []
    assert (values.shape, values.dtype, bool(values.any())) == ((3, 2, 4), torch.float32, False)
    assert str(tmp_path) in Path("/proc/self/maps").read_text()
    values[2, 1] = 7
    assert float(values.sum()) == 28
    assert spool((0, 2, 4)).shape == (0, 2, 4)


def test_a_full_disk_is_an_error_when_the_spool_is_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_file: int, _start: int, _size: int) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(os, "posix_fallocate", full)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with pytest.raises(OSError, match="no space"):
        spool((3, 2, 4))
    assert list(tmp_path.iterdir()) == []
