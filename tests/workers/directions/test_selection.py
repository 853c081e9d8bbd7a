"""Which penalty and which layers are chosen, and that cross-validation sees nothing it should not."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from tests.workers.directions.synthetic import chance, gaussian, rows
from workers.directions import selection
from workers.directions.evaluation import quality
from workers.directions.ridge import LayerFit
from workers.directions.rows import LayerRows, Rows
from workers.directions.selection import Method, best_fit, choose, cross_validate

METHODS = {
    "ridge": Method(),
    "logistic": Method(estimator="logistic"),
    "mean": Method(estimator="mean"),
    "by prompt": Method(by_prompt=True),
}


def planted(count: int, *signals: float, seed: int = 0, width: int = 6) -> Rows:
    """Rows with white noise at every layer and a signal of this strength at each."""
    values = torch.randn(count, len(signals), 2, width, generator=chance(seed))
    values[:, :, 1, 4] += torch.tensor(signals)
    return rows(values)


def right(margins: Tensor) -> float:
    return float((margins > 0).double().mean())


def test_the_penalty_chosen_is_the_one_whose_held_out_margins_are_likeliest_at_any_scale() -> None:
    unsure, wrong, sure = [100.0, 100.0, 100.0, -1.0], [-9.0, -9.0, -8.0, -9.0], [0.01, 0.01, 0.01, 0.01]
    nothing = torch.zeros(1, 1)
    fits = [LayerFit(penalty, nothing, torch.tensor(held)) for penalty, held in enumerate((unsure, wrong, sure))]
    assert best_fit(fits, torch.ones(4)).penalty == 2
    assert best_fit(fits[:2], torch.ones(4)).penalty == 0


@pytest.mark.parametrize(("helped", "penalty"), [(8, 0.0), (200, 1.0)])
def test_a_read_out_that_depends_on_the_prompt_is_chosen_where_it_helps_beyond_chance(
    helped: int, penalty: float
) -> None:
    plain = 1 + gaussian(400, seed=2)
    better = plain.clone()
    better[:helped] += 1
    better[helped:] += 0.2 * gaussian(400 - helped, seed=3)
    bent = LayerFit(1.0, torch.ones(1, 1), better, torch.ones(1, 1, 1))
    straight = LayerFit(0.0, torch.ones(1, 1), plain, torch.zeros(1, 1, 1))
    assert best_fit([straight, bent], torch.ones(400)).penalty == penalty


def test_rows_that_weigh_more_count_for_more_in_the_choice() -> None:
    left, other = torch.tensor([1.0, 1.0, 1.0, -1.0, -1.0]), torch.tensor([-1.0, -1.0, 1.0, 1.0, 1.0])
    fits = [LayerFit(0, torch.zeros(1, 1), left), LayerFit(1, torch.zeros(1, 1), other)]
    assert best_fit(fits, torch.tensor([9.0, 9.0, 1.0, 1.0, 1.0])).penalty == 0
    assert best_fit(fits, torch.tensor([1.0, 1.0, 1.0, 9.0, 9.0])).penalty == 1


@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
@pytest.mark.parametrize("layer", range(3))
def test_the_one_layer_with_a_signal_is_chosen_where_one_may_be_read(method: Method, layer: int) -> None:
    one = Method(method.estimator, method.by_prompt, read_layers=1)
    read_out = choose(planted(200, *[2.0 if i == layer else 0.0 for i in range(3)]), one)
    assert read_out.layers == (layer,)
    assert int(read_out.fits[0].vectors.abs().argmax()) == 6 + 4
    assert right(read_out.held_out) > 0.85


def test_layers_of_noise_are_left_out_though_more_might_be_read() -> None:
    read_out = choose(planted(400, 0.0, 1.5, 0.0, 1.5, 0.0), Method())
    assert read_out.layers == (1, 3)


def test_layers_that_add_to_each_other_are_averaged_and_read_better_than_any_alone() -> None:
    known, fresh = planted(400, 1.0, 1.0, 1.0), planted(2000, 1.0, 1.0, 1.0, seed=1)
    together, alone = choose(known, Method()), choose(known, Method(read_layers=1))
    assert together.layers == (0, 1, 2)
    assert right(together.margins(fresh)) > right(alone.margins(fresh)) + 0.05


def test_no_more_layers_are_read_than_asked_for_and_the_weakest_go_first() -> None:
    known = planted(400, 1.2, 0.4, 1.2, 0.2, 1.2)
    assert choose(known, Method(read_layers=3)).layers == (0, 2, 4)
    assert len(choose(known, Method(read_layers=2)).layers) == 2


def test_a_layer_that_only_repeats_another_is_no_reason_to_read_worse() -> None:
    values = planted(300, 1.5).differences
    read_out = choose(rows(values.repeat(1, 3, 1, 1)), Method())
    single = choose(rows(values), Method())
    assert quality(read_out.held_out, torch.ones(300)) == pytest.approx(quality(single.held_out, torch.ones(300)))


def test_every_layer_is_averaged_in_units_of_its_own_spread() -> None:
    known = planted(200, 1.5, 1.5)
    known.differences[:, 1] *= 1000
    read_out = choose(known, Method(estimator="mean"))
    assert read_out.layers == (0, 1)
    parts = [known.at(i).margins(fit.vectors) for i, fit in enumerate(read_out.fits)]
    spreads = [float(fit.held_out.square().mean().sqrt()) for fit in read_out.fits]
    torch.testing.assert_close(read_out.margins(known), (parts[0] / spreads[0] + parts[1] / spreads[1]) / 2)
    held_out = sum((fit.held_out / s for fit, s in zip(read_out.fits, spreads, strict=True)), torch.zeros(200)) / 2
    torch.testing.assert_close(read_out.held_out, held_out.double())


@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
def test_labels_that_mean_nothing_are_read_like_the_toss_of_a_coin(method: Method) -> None:
    """With this many candidates, whoever looked at the test rows to choose would do far better."""
    noise = planted(120, *[0.0] * 6, width=16)
    assert 0.38 < right(cross_validate(noise, method).raw) < 0.62


@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
def test_cross_validated_margins_come_from_fits_that_saw_nothing_of_the_family(method: Method) -> None:
    """Twins in pure noise: whoever has seen one reads the other; an honest fit cannot know either."""
    twins = gaussian(80, 1, 2, 60).repeat_interleave(2, dim=0)
    prompts = gaussian(80, 60, seed=1).repeat_interleave(2, dim=0)
    together = rows(twins, families=torch.arange(80).repeat_interleave(2), prompts=prompts)
    assert 0.35 < right(cross_validate(together, method).raw) < 0.65
    assert right(cross_validate(rows(twins, prompts=prompts), method).raw) > 0.7


def test_every_fold_is_read_by_what_the_others_chose(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[int, ...]] = []
    original: Callable[[Rows, Method], selection.ReadOut] = choose

    def watched(train: Rows, method: Method) -> selection.ReadOut:
        seen.append(tuple(train.members.tolist()))
        return original(train, method)

    monkeypatch.setattr(selection, "choose", watched)
    known = planted(60, 1.0, 0.5)
    trial = cross_validate(known, Method())
    assert len(seen) == 5
    for train in seen:
        out = torch.tensor([i not in train for i in range(60)])
        assert int(out.sum()) == 12
        torch.testing.assert_close(trial.raw[out], original(known.part(~out), Method()).margins(known.part(out)))


def test_cross_validated_log_odds_are_calibrated_margins() -> None:
    trial = cross_validate(planted(300, 1.2), Method())
    assert torch.equal(trial.raw > 0, trial.log_odds > 0)
    assert right(trial.raw) > 0.8
    assert float(torch.sigmoid(trial.log_odds.abs()).mean()) == pytest.approx(right(trial.raw), abs=0.05)


def test_the_calibration_is_that_of_the_source_asked_about() -> None:
    """The second source has its signs turned at random: calibrated on it, nothing is certain."""
    known = planted(400, 1.5)
    sources = torch.arange(400) % 2
    turned = torch.where(torch.rand(400, generator=chance(9)) < 0.5, -1.0, 1.0)
    known.differences.mul_(torch.where(sources == 1, turned, 1.0).view(-1, 1, 1, 1))
    mixed = rows(known.differences, sources=sources)
    first, second = (cross_validate(mixed, Method(), main=source) for source in (0, 1))
    torch.testing.assert_close(first.raw, second.raw)
    assert float(first.log_odds.abs().mean()) > 5 * float(second.log_odds.abs().mean())


def test_the_estimators_are_what_they_are_called() -> None:
    here: LayerRows = planted(50, 1.0).at(0)
    counts = {name: len(method.fits(here)) for name, method in METHODS.items()}
    assert counts == {"ridge": 7, "logistic": 4, "mean": 1, "by prompt": 5}
    assert [METHODS[name].fits(here)[0].modulation is None for name in METHODS] == [True, True, True, False]
