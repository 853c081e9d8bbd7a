"""Read-outs that the request bends, against brute force and on a rule that turns round with the request."""

import pytest
import torch
from torch import Tensor

from tests.workers.directions.synthetic import chance, gaussian, one_layer, rows, standardised, uneven
from workers.directions import prompted
from workers.directions.errors import UnfitData
from workers.directions.evaluation import accuracy
from workers.directions.prompted import CANDIDATES, Requests, fit_prompted, low_rank
from workers.directions.ridge import fit_ridge
from workers.directions.rows import LayerRows
from workers.directions.selection import Method, choose, cross_validate

COUNT, WIDTH = 40, 5


def layer(*, repeated: bool = True) -> LayerRows:
    families, weights = uneven(COUNT)
    families = families if repeated else torch.arange(COUNT).flip(0)
    prompts = 3 * gaussian(COUNT, WIDTH, seed=1) + gaussian(WIDTH, seed=2)
    return one_layer(gaussian(COUNT, 2, WIDTH) + 0.3, families=families, weights=weights, prompts=prompts)


def turning(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Rows whose safer side is up where the request's third number is positive, else down: [n, 2, d] and [n, d]."""
    prompts = torch.randn(count, 8, generator=chance(seed))
    prompts[:, 2] = 2 * prompts[:, 2].sign()
    differences = torch.randn(count, 2, 8, generator=chance(seed + 1))
    differences[:, 0, 5] += 3 * prompts[:, 2].sign()
    return differences, prompts


PENALTIES = (0.7, 3.0)


def features(here: LayerRows, share: float) -> Tensor:
    """[n, P·d·(1 + d)] rows and √c times their products with the standardised request, over √(1 + c)."""
    scaled, requests = standardised(here), Requests.of(here.prompts).values
    products = torch.einsum("nk,ne->nke", scaled, requests).flatten(1)
    known: Tensor = torch.cat([scaled, share**0.5 * products], dim=1) / (1 + share) ** 0.5
    return known


@pytest.mark.parametrize("repeated", [False, True], ids=["every row its own family", "uneven families"])
@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_held_out_margins_equal_refits_without_the_family(share: float, repeated: bool) -> None:
    here = layer(repeated=repeated)
    known = features(here, share)
    for fit in fit_prompted(here, [(share, penalty) for penalty in PENALTIES]):
        expected = torch.zeros(COUNT).double()
        for family in set(here.families.tolist()):
            out = here.families == family
            kept, weights = known[~out], here.weights[~out]
            moment = kept.T @ (weights[:, None] * kept)
            solution = torch.linalg.solve(moment + fit.penalty * torch.eye(len(moment)).double(), weights @ kept)
            expected[out] = known[out] @ solution
        torch.testing.assert_close(fit.held_out, expected, rtol=1e-8, atol=1e-9)


def test_the_vectors_and_their_modulation_are_the_ridge_solution_and_take_requests_as_they_are() -> None:
    here = layer()
    known = features(here, 1.0)
    fits = fit_prompted(here, [(1.0, penalty) for penalty in PENALTIES])
    assert [fit.penalty for fit in fits] == list(PENALTIES)
    for fit in fits:
        moment = known.T @ (here.weights[:, None] * known)
        solution = torch.linalg.solve(moment + fit.penalty * torch.eye(len(moment)).double(), here.weights @ known)
        torch.testing.assert_close(here.margins(fit.vectors, fit.modulation), known @ solution, rtol=1e-6, atol=1e-8)


def test_without_a_share_for_the_request_it_is_the_plain_ridge() -> None:
    here = layer()
    for bent, plain in zip(
        fit_prompted(here, [(0.0, penalty) for penalty in PENALTIES]), fit_ridge(here, PENALTIES), strict=True
    ):
        torch.testing.assert_close(bent.vectors, plain.vectors, rtol=1e-8, atol=1e-10)
        torch.testing.assert_close(bent.held_out, plain.held_out, rtol=1e-8, atol=1e-9)
        assert bent.modulation is not None
        assert not bent.modulation.any()


def test_where_the_request_tells_nothing_the_read_out_without_it_is_chosen() -> None:
    differences = gaussian(300, 1, 2, 8, seed=11) + 0.3
    known = rows(differences, prompts=gaussian(300, 8, seed=12))
    (fit,) = choose(known, Method(by_prompt=True)).fits
    assert fit.modulation is not None
    assert not fit.modulation.any()
    assert len(fit_prompted(known.at(0))) == len(CANDIDATES)


def test_a_rule_that_turns_round_with_the_request_is_read_by_it_and_by_nothing_that_ignores_it() -> None:
    differences, prompts = turning(400, seed=3)
    known = rows(differences[:, None], prompts=prompts)
    bent = cross_validate(known, Method(by_prompt=True))
    plain = cross_validate(known, Method())
    assert accuracy(bent.raw, known.families).value > 0.85
    assert 0.4 < accuracy(plain.raw, known.families).value < 0.6


def test_the_modulation_of_a_planted_rule_is_where_it_was_planted() -> None:
    differences, prompts = turning(400, seed=5)
    modulation = fit_prompted(one_layer(differences, prompts=prompts), [(1.0, 0.7)])[0].modulation
    assert modulation is not None
    place = torch.unravel_index(modulation.abs().argmax(), modulation.shape)
    assert [int(index) for index in place] == [0, 5, 2]
    assert float(modulation[0, 5, 2]) > 0


def test_products_of_full_rank_reproduce_the_margins_of_any_request() -> None:
    here = layer()
    fit, requests = fit_prompted(here, [(1.0, 0.7)])[0], Requests.of(here.prompts)
    assert fit.modulation is not None
    probes, offsets, vectors, constant = low_rank(fit.modulation, requests, here.scale, WIDTH)
    assert (probes.shape, offsets.shape, vectors.shape) == ((WIDTH, WIDTH), (WIDTH,), (WIDTH, 2, WIDTH))
    fresh = one_layer(gaussian(9, 2, WIDTH, seed=7), prompts=gaussian(9, WIDTH, seed=8))
    values = fresh.prompts.double() @ probes.T - offsets
    bent = fit.vectors + constant + torch.einsum("nr,rpd->npd", values, vectors)
    by_hand = torch.einsum("npd,npd->n", fresh.differences.double(), bent)
    torch.testing.assert_close(by_hand, fresh.margins(fit.vectors, fit.modulation))


def test_a_request_of_average_activations_moves_nothing_whatever_the_rank() -> None:
    here = layer()
    fit, requests = fit_prompted(here, [(1.0, 0.7)])[0], Requests.of(here.prompts)
    assert fit.modulation is not None
    for rank in (1, 3):
        probes, offsets, vectors, constant = low_rank(fit.modulation, requests, here.scale, rank)
        assert (len(probes), len(offsets), len(vectors)) == (rank, rank, rank)
        torch.testing.assert_close(probes @ requests.mean, offsets)
        torch.testing.assert_close(constant, fit.modulation @ requests.mean)


def test_the_products_kept_are_those_that_move_margins_most() -> None:
    differences, prompts = turning(400, seed=9)
    here = one_layer(differences, prompts=prompts)
    fit, requests = fit_prompted(here, [(1.0, 0.7)])[0], Requests.of(prompts)
    assert fit.modulation is not None
    probes, offsets, vectors, constant = low_rank(fit.modulation, requests, here.scale, 1)
    values = prompts.double() @ probes.T - offsets
    bent = torch.einsum("npd,nr,rpd->n", differences.double(), values, vectors)
    margins = here.margins(fit.vectors + constant) + bent
    assert accuracy(margins, here.families).value > 0.9


def test_what_moves_margins_counts_and_not_how_large_the_numbers_of_a_coordinate_are() -> None:
    """A coordinate that hardly moves has large weights; it must not crowd out the planted one."""
    differences, prompts = turning(400, seed=9)
    differences[:, 1, 2:4] *= 1e-4
    here = one_layer(differences, prompts=prompts)
    fit, requests = fit_prompted(here, [(1.0, 0.7)])[0], Requests.of(prompts)
    assert fit.modulation is not None
    probes, offsets, vectors, _ = low_rank(fit.modulation, requests, here.scale, 1)
    bent = torch.einsum("npd,nr,rpd->n", differences.double(), prompts.double() @ probes.T - offsets, vectors)
    assert accuracy(bent, here.families).value > 0.9


def test_requests_are_standardised_so_that_their_mean_length_is_one() -> None:
    prompts = gaussian(50, 6) * torch.tensor([1.0, 10.0, 100.0, 1.0, 1.0, 1.0]) + 7
    prompts[:, 3] = 4.0
    requests = Requests.of(prompts)
    torch.testing.assert_close(requests.values * requests.scale + requests.mean, prompts.double())
    torch.testing.assert_close(requests.values.mean(dim=0), torch.zeros(6).double(), atol=1e-12, rtol=0)
    assert float(requests.values.square().sum(dim=1).mean()) == pytest.approx(5 / 6 * 49 / 50)
    assert not requests.values[:, 3].any()


def test_more_rows_than_a_kernel_may_have_are_refused_before_it_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prompted, "MOST_ROWS", COUNT - 1)
    with pytest.raises(UnfitData, match="40 rows are too many for a direction that depends on the prompt"):
        fit_prompted(layer())


def test_only_the_rows_of_a_part_count_towards_how_many_there_may_be(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prompted, "MOST_ROWS", 30)
    some = rows(gaussian(COUNT, 1, 2, WIDTH)).part(torch.arange(COUNT) < 30)
    assert len(fit_prompted(some.at(0))[0].held_out) == 30
