"""Why few critical rules can say as much as all of them, and where that argument ends: both computed."""

from itertools import combinations, product

import pytest
import torch
from torch import Tensor

from app.schemas.judging import PolicyName
from workers.rules.selection import Evidence, Policy, choose, diverse

PAIRS = 10_000
RULES = 30


def entropy(chances: Tensor) -> float:
    """In bits."""
    positive = chances[chances > 0]
    return float(-(positive * positive.log2()).sum())


def information(reliability: Tensor, copies_of: list[int]) -> float:
    """I(Y; votes) in bits, by enumeration; vote i repeats the vote of source `copies_of[i]`.

    Y is ±1 with equal chances; a source agrees with Y with its reliability, independently of the others given Y.
    """
    votes: dict[tuple[int, ...], Tensor] = {}
    for said in product((0, 1), repeat=len(reliability)):
        agree = torch.tensor(said, dtype=torch.double)
        given_up = (agree * reliability + (1 - agree) * (1 - reliability)).prod()
        given_down = (agree * (1 - reliability) + (1 - agree) * reliability).prod()
        key = tuple(said[source] for source in copies_of)
        votes[key] = votes.get(key, torch.zeros(2, dtype=torch.double)) + torch.stack([given_up, given_down])
    table = torch.stack(list(votes.values()))
    return entropy(table.mean(dim=1)) - entropy(table[:, 0]) / 2 - entropy(table[:, 1]) / 2


def evidence(differences: Tensor, noise: Tensor, correlation: Tensor | None = None) -> Evidence:
    rules = differences.shape[1]
    known = torch.eye(rules) if correlation is None else correlation
    return Evidence(differences, torch.ones_like(differences), noise, known)


def agreement(name: PolicyName, seen: Evidence, truth: Tensor, k: int = 5) -> float:
    margins = choose(Policy(name, k=k), seen).margins(seen.differences)
    return float((margins * truth > 0).float().mean())


@pytest.fixture
def source() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def sides(source: torch.Generator) -> Tensor:
    """[P, 1] which response of each pair is the safer one, ±1."""
    return torch.randint(2, (PAIRS, 1), generator=source) * 2.0 - 1


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("k", [1, 3, 4])
def test_the_largest_discrepancies_tell_most_about_the_safer_side(seed: int, k: int) -> None:
    """The argument as published, by exact enumeration of all sets of k among 8 rules.

    Assumed: Y is ±1 with equal chances; every rule votes by the sign of its difference; the votes are independent given
    Y; no rule is wrong more often than right; a rule's reliability grows with |Δ|, here σ(2|Δ|), and with nothing else.
    Then the top k by |Δ| have the largest I(Y; votes) of all sets of k: a less reliable vote is a more reliable one
    sent through a noisier channel, so that each exchange for a larger |Δ| can only gain.
    """
    differences = torch.randn(1, 8, generator=torch.Generator().manual_seed(seed), dtype=torch.double)
    reliability = torch.sigmoid(2 * differences[0].abs())
    known = {
        chosen: information(reliability[list(chosen)], list(range(k)))
        for chosen in combinations(range(len(reliability)), k)
    }
    top = choose(Policy("discrepancy", k=k), evidence(differences, torch.ones(8))).critical[0]
    assert known[tuple(top.nonzero()[:, 0].tolist())] == pytest.approx(max(known.values()), abs=1e-12)


def test_where_votes_repeat_each_other_the_largest_discrepancies_tell_less_than_diverse_ones() -> None:
    """Independence given Y fails: rules 0, 1 and 2 are paraphrases that always vote alike.

    The top three by |Δ| are one vote of reliability .90, .531 bits; the paraphrase of it with the two weaker but
    independent rules (.85 and .80) tells .757 bits, and that is what the greedy choice takes.
    """
    differences = torch.tensor([[1.2, 1.19, 1.18, 0.9, 0.8]])
    alike = torch.eye(5)
    alike[:3, :3] = 1
    (taken,) = diverse(differences, alike, 3)
    assert taken.nonzero()[:, 0].tolist() == [0, 3, 4]
    reliability = torch.tensor([0.90, 0.85, 0.80], dtype=torch.double)
    assert information(reliability[:1], [0, 0, 0]) == pytest.approx(0.531, abs=1e-3)
    assert information(reliability, [0, 1, 2]) == pytest.approx(0.757, abs=1e-3)


def test_where_discrepancy_is_noise_the_mean_of_all_rules_beats_the_critical_ones(source: torch.Generator) -> None:
    """Reliability does not grow with |Δ| enough: the largest of many noisy differences is mostly noise.

    30 rules that truly differ by .2 each, for each pair 15 % of them with the wrong sign, noise of sd .5: the mean of
    all agrees with the truth in .93 of the pairs, the top 5 by |Δ| in .87. The robust policy does not repair that
    (.86): all rules are equally noisy here, so that z-scores and shrinkage keep the order of |Δ|. Only asking more
    rules does: with k = 30 it reaches .92.
    """
    truth = sides(source)
    sign = 1.0 - 2 * (torch.rand(PAIRS, RULES, generator=source) < 0.15).float()
    seen = truth * sign * 0.2 + 0.5 * torch.randn(PAIRS, RULES, generator=source)
    known = evidence(seen, torch.full((RULES,), 0.5))
    assert agreement("all", known, truth[:, 0]) == pytest.approx(0.932, abs=0.01)
    assert agreement("discrepancy", known, truth[:, 0]) == pytest.approx(0.867, abs=0.012)
    assert agreement("robust", known, truth[:, 0]) == pytest.approx(0.863, abs=0.012)
    assert agreement("robust", known, truth[:, 0], k=RULES) == pytest.approx(0.921, abs=0.01)


def test_where_some_rules_are_noisier_the_robust_policy_asks_the_others(source: torch.Generator) -> None:
    """The same with noise between sd .1 and .9 by rule, known from the bank: all .91, top 5 by |Δ| .775, robust .92."""
    truth = sides(source)
    sign = 1.0 - 2 * (torch.rand(PAIRS, RULES, generator=source) < 0.15).float()
    noise = torch.linspace(0.1, 0.9, RULES)
    seen = truth * sign * 0.2 + noise * torch.randn(PAIRS, RULES, generator=source)
    known = evidence(seen, noise)
    assert agreement("all", known, truth[:, 0]) == pytest.approx(0.912, abs=0.012)
    assert agreement("discrepancy", known, truth[:, 0]) == pytest.approx(0.775, abs=0.015)
    assert agreement("robust", known, truth[:, 0]) == pytest.approx(0.920, abs=0.01)


def test_where_rules_share_their_noise_the_robust_policy_counts_them_once(source: torch.Generator) -> None:
    """Ten of 30 rules are paraphrases whose errors correlate by .9: all .87, top 5 by |Δ| .91, robust .93."""
    truth = sides(source)
    noise = torch.randn(PAIRS, RULES, generator=source)
    noise[:, :10] = 0.9**0.5 * torch.randn(PAIRS, 1, generator=source) + 0.1**0.5 * noise[:, :10]
    correlation = torch.eye(RULES)
    correlation[:10, :10] = 0.9
    seen = truth * 0.2 + 0.5 * noise
    known = evidence(seen, torch.full((RULES,), 0.5), correlation.fill_diagonal_(1))
    assert agreement("all", known, truth[:, 0]) == pytest.approx(0.870, abs=0.012)
    assert agreement("discrepancy", known, truth[:, 0]) == pytest.approx(0.909, abs=0.012)
    assert agreement("robust", known, truth[:, 0]) == pytest.approx(0.931, abs=0.012)
