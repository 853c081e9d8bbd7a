"""What the critical rules of a pair say together."""

import pytest
import torch

from workers.rules.selection import Evidence, Policy, choose
from workers.rules.verdict import Verdict, verdicts

CHOSEN = [0.9, -0.2, 0.1, 0.5]
REJECTED = [-0.7, 0.2, 0.2, 0.5]


def judged(chosen: list[float], rejected: list[float], relevance: list[float], **options: float) -> Verdict:
    """The verdict of the top two by |Δ|."""
    scores, about = torch.tensor([[chosen, rejected]]), torch.tensor([relevance])
    choice = choose(Policy("discrepancy", k=2), Evidence(scores[:, 0] - scores[:, 1], about))
    (verdict,) = verdicts(scores, about, choice, **({"slope": 3.0, "band": 0.1} | options))
    return verdict


def test_the_margin_is_the_calibrated_mean_of_the_critical_differences() -> None:
    verdict = judged(CHOSEN, REJECTED, [1, 1, 1, 1])
    assert verdict.margin == pytest.approx(3 * (1.6 - 0.4) / 2)
    assert (verdict.side, verdict.tie) == ("chosen", None)


def test_contributions_are_sorted_and_add_up() -> None:
    verdict = judged(CHOSEN, REJECTED, [0.6, 0.8, 1, 1])
    first, second = verdict.contributions
    assert (first.rule, second.rule) == (0, 1)
    assert (first.chosen, first.rejected, first.relevance) == pytest.approx((0.9, -0.7, 0.6))
    assert (first.contribution, second.contribution) == pytest.approx((2.4, -0.6))
    assert sum(each.contribution for each in verdict.contributions) == pytest.approx(verdict.margin)


def test_with_the_sides_exchanged_the_other_one_is_safer() -> None:
    one, other = judged(CHOSEN, REJECTED, [1, 1, 1, 1]), judged(REJECTED, CHOSEN, [1, 1, 1, 1])
    assert other.margin == pytest.approx(-one.margin)
    assert other.side == "rejected"
    assert [each.rule for each in one.contributions] == [each.rule for each in other.contributions]


def test_a_margin_within_the_band_is_a_tie_that_keeps_its_margin_and_rules() -> None:
    verdict = judged(CHOSEN, REJECTED, [1, 1, 1, 1], band=2.0)
    assert (verdict.side, verdict.tie) == ("tie", "within_band")
    assert verdict.margin == pytest.approx(1.8)
    assert len(verdict.contributions) == 2


def test_equal_responses_are_a_tie_even_without_a_band() -> None:
    assert judged(CHOSEN, CHOSEN, [1, 1, 1, 1], band=0.0).side == "tie"


def test_where_no_rule_is_relevant_it_is_a_tie_and_says_so() -> None:
    verdict = judged(CHOSEN, REJECTED, [0.1, 0.4, 0.2, 0.0])
    assert verdict == Verdict(margin=0.0, side="tie", tie="no_relevant_rule", contributions=())


def test_one_pair_without_a_relevant_rule_hurts_no_other() -> None:
    scores, about = torch.tensor([[CHOSEN, REJECTED]] * 2), torch.tensor([[0.0] * 4, [1.0] * 4])
    choice = choose(Policy("all"), Evidence(scores[:, 0] - scores[:, 1], about))
    sides = [verdict.side for verdict in verdicts(scores, about, choice, slope=1.0, band=0.0)]
    assert sides == ["tie", "chosen"]


def test_a_score_that_is_no_number_is_an_error_and_no_verdict() -> None:
    with pytest.raises(ValueError, match="not finite"):
        judged([float("nan"), 0, 0, 0], REJECTED, [1, 1, 1, 1])
