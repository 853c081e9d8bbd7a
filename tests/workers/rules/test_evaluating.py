"""Figures of policies on ratings whose answers are known."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from app.schemas.evaluation import EVALUATED, PolicyFigure
from app.schemas.judging import PolicyName
from workers.directions.balance import balance
from workers.directions.evaluation import folds
from workers.rules.errors import UnfitPairs
from workers.rules.evaluating import (
    Contrast,
    RatedPairs,
    best_rules,
    evaluate,
    held_out_fixed,
    held_out_log_odds,
    readings_of,
)
from workers.rules.selection import Policy, choose
from workers.rules.verdict import verdicts

PAIRS, RULES = 200, 12
KNOWING = (3, 8)


def rated(differences: Tensor, relevance: Tensor | None = None) -> RatedPairs:
    """Pairs whose rejected response scores nothing; two pairs a prompt."""
    pairs, rules = differences.shape
    return RatedPairs(
        scores=torch.stack([differences, torch.zeros_like(differences)], dim=1),
        relevance=torch.ones(pairs, rules).double() if relevance is None else relevance,
        families=torch.arange(pairs) // 2,
        seeds=torch.arange(pairs),
        noise=torch.full((rules,), 0.3).double(),
        correlation=torch.eye(rules).double(),
    )


def knowing(seed: int = 0) -> RatedPairs:
    """Two rules are right in nine pairs of ten and matter; the others are as often right as wrong, and do not."""
    source = torch.Generator().manual_seed(seed)
    signs = torch.randint(2, (PAIRS, RULES), generator=source).double() * 2 - 1
    right = torch.rand(PAIRS, len(KNOWING), generator=source) < 0.9
    signs[:, list(KNOWING)] = torch.where(right, 1.0, -1.0).double()
    relevance = torch.full((PAIRS, RULES), 0.2).double()
    relevance[:, list(KNOWING)] = 0.9
    return rated(0.5 * signs, relevance)


def figure(pairs: RatedPairs, policy: PolicyName, k: int = 2) -> PolicyFigure:
    (found,) = evaluate(pairs, [policy], [k], "probes", None)
    return found


def test_policies_that_find_the_rules_that_know_read_better_than_all_of_them() -> None:
    everything, chance = figure(knowing(), "all"), figure(knowing(), "random")
    assert (everything.k, everything.gain) == (RULES, None)
    for policy in ("relevance", "published", "robust", "fixed"):
        found = figure(knowing(), policy)
        assert found.accuracy.value > everything.accuracy.value > chance.accuracy.value
        assert found.gain is not None
        assert found.gain.value == pytest.approx(found.accuracy.value - everything.accuracy.value)
        assert 0 < found.gain.low < found.gain.value < found.gain.high
    assert figure(knowing(), "relevance", k=1).accuracy.value == pytest.approx(0.9, abs=0.05)


def test_there_is_a_row_for_every_k_and_one_for_all_rules() -> None:
    found = evaluate(knowing(), EVALUATED, [5, 1, 40, 30], "probes", None)
    assert [(row.policy, row.k) for row in found if row.policy in ("all", "robust")] == [
        ("all", RULES),
        ("robust", 1),
        ("robust", 5),
        ("robust", RULES),
    ]
    assert [row.policy for row in found if row.k == 5] == [policy for policy in EVALUATED if policy != "all"]


def test_robust_is_left_out_where_nobody_knows_the_noise() -> None:
    found = evaluate(replace(knowing(), noise=None), EVALUATED, [5], "logits", None)
    assert [row.policy for row in found] == [policy for policy in EVALUATED if policy != "robust"]
    assert {row.rater for row in found} == {"logits"}


def test_a_pair_to_which_no_rule_is_relevant_is_a_tie_and_half_right() -> None:
    relevance = torch.ones(PAIRS, RULES).double()
    relevance[:50] = 0.49
    found = figure(rated(torch.ones(PAIRS, RULES).double(), relevance), "all")
    assert found.ties == 0.25
    assert found.accuracy.value == pytest.approx(0.875)


@pytest.mark.parametrize("policy", EVALUATED)
def test_margins_are_those_of_verdicts(policy: PolicyName) -> None:
    source = torch.Generator().manual_seed(3)
    pairs = rated(
        torch.rand(40, RULES, generator=source).double() * 2 - 1,
        torch.rand(40, RULES, generator=source).double() * 0.52,
    )
    asked = Policy(policy, 3, (1, 4) if policy == "fixed" else ())
    choice = choose(asked, pairs.evidence)
    said = verdicts(pairs.scores, pairs.relevance, choice, slope=1.0, band=0.0)
    assert any(verdict.tie for verdict in said)
    assert pairs.margins(asked).tolist() == pytest.approx([verdict.margin for verdict in said])


def test_fixed_rules_are_those_that_agree_with_the_labels_most_often() -> None:
    differences = knowing().evidence.differences
    assert sorted(best_rules(differences, 2)) == list(KNOWING)
    assert best_rules(torch.tensor([[0.1, 0.0, -2.0], [0.1, 0.0, 0.4]]), 2) == [0, 1]


def test_fixed_rules_are_chosen_without_the_pairs_that_they_read() -> None:
    source = torch.Generator().manual_seed(0)
    noise = rated(torch.randn(PAIRS, 400, generator=source).double().sign())
    fold = folds(noise.families)
    seen = noise.margins(Policy("fixed", fixed=best_rules(noise.evidence.differences, 5)))
    held_out = held_out_fixed(noise, 5, fold)
    assert (seen > 0).double().mean() > 0.6
    assert abs((held_out > 0).double().mean() - 0.5) < 0.1


def test_a_fold_is_scaled_by_the_others() -> None:
    margins = torch.cat([torch.full((80,), 1.0), torch.full((20,), -1.0)])[torch.randperm(100)]
    fold = torch.arange(100) % 5
    changed = margins.clone()
    changed[fold == 0] *= -3
    before, after = held_out_log_odds(margins, fold), held_out_log_odds(changed, fold)
    assert torch.allclose(after[fold == 0], -3 * before[fold == 0])
    assert not torch.allclose(after[fold != 0], before[fold != 0])


def test_margins_that_mean_what_they_say_have_a_small_calibration_error_and_the_right_slope() -> None:
    source = torch.Generator().manual_seed(1)
    log_odds = torch.randn(4000, generator=source).double() * 2
    right = torch.rand(4000, generator=source) < torch.sigmoid(log_odds.abs())
    found = figure(rated(torch.where(right, log_odds.abs(), -log_odds.abs())[:, None] / 4), "all")
    assert found.slope == pytest.approx(4.0, rel=0.1)
    assert found.calibration_error is not None
    assert found.calibration_error < 0.03
    low, middle, high = found.level_edges
    assert low < middle < high
    assert middle > 0


def test_margins_without_signal_have_no_slope_and_calibrate_nothing() -> None:
    wrong = figure(rated(-torch.ones(PAIRS, RULES).double()), "all")
    assert (wrong.slope, wrong.calibration_error, wrong.level_edges) == (None, None, [])
    assert readings_of([wrong], "mine") == []


def test_readings_are_for_policies_whose_rules_do_not_depend_on_who_asks() -> None:
    found = evaluate(knowing(), ["all", "fixed", "robust"], [2, 3], "probes", None)
    readings = readings_of(found, "mine")
    assert [(reading.policy, reading.k) for reading in readings] == [("all", RULES), ("robust", 2), ("robust", 3)]
    assert {reading.data for reading in readings} == {"mine"}
    assert readings[1].slope == found[3].slope
    assert readings[1].accuracy == found[3].accuracy


def test_the_balance_set_is_read_by_the_same_policy() -> None:
    benign = torch.tensor(balance().benign.nonzero()[:30, 0].tolist())
    harmful = torch.tensor((~balance().benign).nonzero()[:30, 0].tolist())
    differences = torch.full((60, RULES), -1.0).double()
    differences[30:] = 1.0
    contrast = Contrast(rated(differences), torch.cat([benign, harmful]))
    for policy in EVALUATED:
        (found,) = evaluate(knowing(), [policy], [2], "probes", contrast)
        assert found.should_respond is not None
        assert found.should_refuse is not None
        assert (found.should_respond.value, found.should_refuse.value) == (0.0, 1.0)


def test_too_few_pairs_or_prompts_are_refused() -> None:
    few = rated(torch.ones(19, RULES).double())
    with pytest.raises(UnfitPairs, match="19 pairs that can be read are too few; at least 20 of 5 prompts"):
        evaluate(few, EVALUATED, [5], "probes", None)
    alike = replace(knowing(), families=torch.zeros(PAIRS, dtype=torch.long))
    with pytest.raises(UnfitPairs, match="of 5 prompts"):
        evaluate(alike, EVALUATED, [5], "probes", None)
