"""What rule adapters are taught with: ratings and activations of pairs, and which rules are critical."""

import pytest
import torch

from app.schemas.pairs import Pair
from tests.workers.rules.adapting.conftest import NUMBERS, SHOUTING, telling_pairs
from tests.workers.rules.test_bank import POOL
from workers.engine.annotator import Annotator
from workers.engine.sites import Site
from workers.rules.adapting.lessons import Lessons, gather
from workers.rules.bank import ProbeRater, RuleBank
from workers.rules.errors import UnfitExamples
from workers.rules.logits import LogitRater
from workers.rules.rating import Answered, Ratings
from workers.rules.selection import Policy


def test_a_bank_rates_in_the_pass_that_reads(roomy: Annotator, bank: RuleBank, lessons: Lessons) -> None:
    first = lessons.pairs[0]
    (rated,) = ProbeRater(roomy, bank).rate([Answered(first.messages, (first.chosen, first.rejected))])
    assert isinstance(rated, Ratings)
    torch.testing.assert_close(lessons.scores[0], rated.scores, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(lessons.relevance[0], rated.relevance, atol=1e-5, rtol=1e-5)
    assert lessons.activations.shape == (60, 2, len(bank.reads), roomy.width)
    assert (lessons.noise is not None, lessons.correlation is not None, lessons.skipped) == (True, True, 0)


def test_the_annotator_itself_can_be_asked_and_read_elsewhere(roomy: Annotator) -> None:
    told: list[tuple[int, int]] = []
    rater = LogitRater(roomy, [rule.text for rule in POOL.ordered])
    lessons = gather(roomy, rater, telling_pairs(40), [Site(2, "mean")], lambda *step: told.append(step))
    assert lessons.scores.shape == (40, 2, 3)
    assert lessons.activations.shape == (40, 2, 1, roomy.width)
    assert lessons.activations.abs().sum() > 0
    assert lessons.noise is None
    assert (told[-1], sorted(told)) == ((80, 80), told)
    assert {(done, 80) for done in range(1, 81)} == set(told)  # every pair is told of


def test_without_places_to_read_nothing_is_kept_of_activations(roomy: Annotator, bank: RuleBank) -> None:
    assert gather(roomy, bank, telling_pairs(40)).activations.shape == (40, 2, 0, roomy.width)


def test_pairs_of_one_prompt_are_of_one_family(lessons: Lessons) -> None:
    prompts = [pair.prompt for pair in lessons.pairs]
    alike = torch.tensor([[first == second for second in prompts] for first in prompts])
    assert torch.equal(lessons.families[:, None] == lessons.families, alike)


def test_a_pair_that_cannot_be_read_is_left_out(roomy: Annotator, bank: RuleBank) -> None:
    pairs = telling_pairs(41)
    pairs[7] = Pair(prompt="secret", chosen="x" * 5000, rejected="y")
    lessons = gather(roomy, bank, pairs, bank.reads)
    assert (len(lessons), lessons.skipped) == (40, 1)
    assert lessons.pairs == [*pairs[:7], *pairs[8:]]
    assert lessons.members.tolist() == [*range(7), *range(8, 41)]
    rater = LogitRater(roomy, [rule.text for rule in POOL.ordered])
    assert len(gather(roomy, rater, pairs)) == 40
    with pytest.raises(UnfitExamples, match="39 pairs are too few") as refused:
        gather(roomy, bank, pairs[:40])
    assert "secret" not in str(refused.value)


def test_some_of_the_pairs_are_the_same_activations_at_other_places(lessons: Lessons) -> None:
    some = lessons.at(torch.tensor([3, 5])).at(torch.tensor([1]))
    assert some.activations is lessons.activations
    assert some.members.tolist() == [5]
    turned = some.turned()
    assert torch.equal(turned.activations[turned.members], lessons.activations[[5]].flip(1))
    assert torch.equal(turned.differences, -some.differences)


def test_many_pairs_are_encoded_some_at_a_time(
    roomy: Annotator, bank: RuleBank, lessons: Lessons, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("workers.rules.adapting.lessons._ENCODED", 7)
    again = gather(roomy, bank, telling_pairs(), bank.reads)
    torch.testing.assert_close(again.scores, lessons.scores, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(again.activations, lessons.activations, atol=1e-4, rtol=1e-4)


def test_what_is_critical_is_what_the_policy_says(lessons: Lessons) -> None:
    choice = lessons.critical(Policy("published", 1))
    some = lessons.at(torch.tensor([3, 5]))
    assert torch.equal(some.critical(Policy("published", 1)).critical, choice.critical[[3, 5]])
    likely = torch.zeros_like(lessons.relevance)
    likely[:, NUMBERS] = 1
    assert lessons.critical(Policy("adapter", 1), likely).critical[:, NUMBERS].all()


def test_a_rule_that_the_bank_does_not_use_is_never_critical(lessons: Lessons) -> None:
    (unused,) = {0, NUMBERS, SHOUTING} - {NUMBERS, SHOUTING}
    likely = torch.zeros_like(lessons.relevance)
    likely[:, unused] = 1
    for policy in (Policy("adapter", 3), Policy("all"), Policy("published", 3)):
        assert not lessons.critical(policy, likely).critical[:, unused].any()
