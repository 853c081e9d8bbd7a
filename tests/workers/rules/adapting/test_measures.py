"""Figures of a rule adapter, on choices whose figures are known."""

from dataclasses import replace

import pytest
import torch

from workers.directions.evaluation import platt_slope
from workers.rules.adapting.lessons import Lessons
from workers.rules.adapting.measures import agreement, calibrate, measure, precision_at, recall_at
from workers.rules.selection import Policy

TOP = Policy("published", 2)


def lessons(pairs: int = 12, rules: int = 6) -> Lessons:
    """Pairs of three prompts with random ratings."""
    source = torch.Generator().manual_seed(0)
    return Lessons(
        pairs=[],
        families=torch.arange(pairs) % 3,
        scores=2 * torch.rand(pairs, 2, rules, generator=source).double() - 1,
        relevance=torch.rand(pairs, rules, generator=source).double(),
        activations=torch.zeros(pairs, 2, 0, 4),
        members=torch.arange(pairs),
    )


@pytest.fixture(autouse=True)
def counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """The pairs themselves do not matter here."""
    monkeypatch.setattr(Lessons, "__len__", lambda self: len(self.families))


def test_precision_recall_and_agreement() -> None:
    chosen = torch.tensor([[True, True, False, False], [True, True, False, False], [True, False, False, False]])
    critical = torch.tensor([[True, False, True, False], [True, True, False, True], [False, False, False, False]])
    assert precision_at(chosen, critical).tolist() == [0.5, 1.0, 0.0]
    assert recall_at(chosen, critical)[:2].tolist() == pytest.approx([0.5, 2 / 3])
    assert recall_at(chosen, critical)[2].isnan()
    margins, others = torch.tensor([1.0, -2.0, 3.0, 0.0]), torch.tensor([5.0, 1.0, 0.0, 0.0])
    assert agreement(margins, others).tolist() == [1.0, 0.0, 0.5, 0.5]


def test_an_adapter_that_knows_what_is_critical_is_as_good_as_rating_everything() -> None:
    held_out = lessons()
    known = held_out.critical(TOP).critical.double()
    found = measure(held_out, held_out, TOP, known, swapped_alike=1.0, protocol="none")
    adapter, critical = found.of("adapter"), found.of("critical")
    assert adapter.precision is not None
    assert adapter.recall is not None
    assert (adapter.precision.value, adapter.recall.value, adapter.with_critical.value) == (1, 1, 1)
    assert (adapter.with_all, adapter.with_human) == (critical.with_all, critical.with_human)
    assert found.of("all").with_all.value == 1
    assert (found.pairs, found.prompts, found.swapped_alike) == (12, 3, 1)
    assert [reading.chooser for reading in found.choosers] == ["adapter", "frequent", "critical", "all"]


def test_the_most_frequent_rules_are_counted_where_it_was_taught() -> None:
    held_out, taught = lessons(), lessons()
    taught.relevance[:] = 0
    taught.relevance[:, :2] = 9
    held_out.relevance[:] = taught.relevance
    found = measure(held_out, taught, TOP, torch.rand(12, 6), swapped_alike=1.0, protocol="none").of("frequent")
    assert found.precision is not None
    assert found.precision.value == 1


def test_chance_counts_only_rules_that_the_rater_uses() -> None:
    held_out = lessons()
    assert measure(held_out, held_out, TOP, held_out.relevance, swapped_alike=1, protocol="").chance == pytest.approx(
        1 / 3
    )
    held_out.relevance[:, :2] = 0
    held_out.scores[..., :2] = 0
    assert measure(held_out, held_out, TOP, held_out.relevance, swapped_alike=1, protocol="").chance == pytest.approx(
        1 / 2
    )


def test_human_agreement_is_the_share_of_positive_margins() -> None:
    held_out = lessons()
    exchanged = replace(held_out, scores=held_out.scores.flip(1))
    for chooser in ("all", "critical"):
        values = [
            measure(one, one, TOP, one.relevance, swapped_alike=1, protocol="").of(chooser).with_human.value
            for one in (held_out, exchanged)
        ]
        assert sum(values) == pytest.approx(1)


def test_a_pair_of_no_relevant_rule_is_a_tie_here_as_in_verdicts() -> None:
    held_out = lessons()
    held_out.relevance[:] = 0.4
    found = measure(held_out, held_out, TOP, held_out.relevance, swapped_alike=1, protocol="")
    assert [found.of(chooser).with_human.value for chooser in ("adapter", "critical", "all")] == [0.5] * 3
    assert not held_out.margins(held_out.critical(TOP)).any()


def test_margins_by_the_adapters_rules_are_calibrated() -> None:
    unfitted = lessons(400)
    unfitted.scores[:, 0, :2] += 0.8  # the chosen response keeps these two rules better
    likely = torch.tensor([1.0, 1, 0, 0, 0, 0]).expand(400, -1)
    reading = calibrate(unfitted, Policy("adapter", 2), likely)
    assert reading is not None
    assert (reading.policy, reading.k, reading.accuracy.pairs, reading.accuracy.prompts) == ("adapter", 2, 400, 3)
    margins = unfitted.margins(unfitted.critical(Policy("adapter", 2), likely))
    assert reading.slope == pytest.approx(platt_slope(margins))
    assert reading.accuracy.value == pytest.approx(float(((margins > 0).double() + (margins >= 0).double()).mean() / 2))
    assert len(reading.level_edges) == 3
    assert reading.calibration_error < 0.2
    assert reading.data == "400 pairs of 3 prompts that the adapter was not fitted to"


def test_margins_without_a_signal_are_not_calibrated() -> None:
    unfitted = lessons()
    unfitted.scores[:] = 0
    assert calibrate(unfitted, Policy("adapter", 2), unfitted.relevance) is None
