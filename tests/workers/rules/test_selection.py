"""Which rules are critical for a pair."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from app.schemas.judging import POLICIES, PolicyName
from workers.rules.selection import Evidence, Policy, choose, diverse, shrinkage

RULES = 12


def seen(pairs: int = 6, seed: int = 0) -> Evidence:
    source = torch.Generator().manual_seed(seed)
    mixed = torch.randn(RULES, RULES, generator=source, dtype=torch.double)
    covariance = mixed @ mixed.T
    scale = covariance.diagonal().sqrt()
    return Evidence(
        differences=torch.rand(pairs, RULES, generator=source, dtype=torch.double) * 4 - 2,
        relevance=torch.rand(pairs, RULES, generator=source, dtype=torch.double),
        noise=torch.rand(RULES, generator=source, dtype=torch.double) + 0.1,
        correlation=covariance / scale / scale[:, None],
        seeds=torch.arange(pairs),
        likely=torch.rand(pairs, RULES, generator=source, dtype=torch.double),
    )


def part(evidence: Evidence, places: list[int]) -> Evidence:
    """The evidence of some of the pairs."""
    assert evidence.seeds is not None
    assert evidence.likely is not None
    rows = (evidence.differences[places], evidence.relevance[places])
    return Evidence(*rows, evidence.noise, evidence.correlation, evidence.seeds[places], evidence.likely[places])


def policy(name: PolicyName, k: int = 5) -> Policy:
    return Policy(name, k=k, fixed=(1, 3, 4) if name == "fixed" else ())


def places(critical: Tensor) -> list[list[int]]:
    return [row.nonzero()[:, 0].tolist() for row in critical]


def of_one(
    differences: list[float],
    relevance: list[float],
    noise: list[float] | None = None,
    likely: list[float] | None = None,
) -> Evidence:
    """Evidence of one pair and independent rules."""
    count = len(differences)
    sd = torch.tensor(noise if noise is not None else [0.1] * count)
    guess = None if likely is None else torch.tensor([likely])
    rows = torch.tensor([differences]), torch.tensor([relevance])
    return Evidence(*rows, sd, torch.eye(count), torch.tensor([0]), guess)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("all", [0, 1, 2, 3]),
        ("fixed", [1, 3]),
        ("relevance", [0, 3]),
        ("discrepancy", [1, 2]),
        ("published", [1, 3]),
        ("robust", [0, 3]),
        ("adapter", [0, 1]),
    ],
)
def test_every_policy_takes_what_it_says(name: PolicyName, expected: list[int]) -> None:
    """Rule 1 differs most and is barely relevant; rule 2 is as noisy as it differs, and not relevant."""
    pair = of_one([0.3, -1.9, 1.2, -0.9], [0.8, 0.45, 0.1, 0.95], [0.1, 0.1, 1.2, 0.1], [0.9, 0.8, 0.7, 0.1])
    assert places(choose(Policy(name, k=2, fixed=(1, 3)), pair).critical) == [expected]


def test_published_is_relevance_and_half_the_discrepancy() -> None:
    close = of_one([0.5, 0.0, -1.0], [0.5, 0.74, 0.26])
    assert places(choose(Policy("published", k=2), close).critical) == [[0, 2]]


@pytest.mark.parametrize("name", POLICIES)
def test_with_the_sides_exchanged_the_rules_stay_and_the_margin_changes_its_sign(name: PolicyName) -> None:
    pairs = seen()
    swapped = replace(pairs, differences=-pairs.differences)
    one, other = choose(policy(name), pairs), choose(policy(name), swapped)
    assert one.critical.equal(other.critical)
    torch.testing.assert_close(one.margins(pairs.differences), -other.margins(swapped.differences))


@pytest.mark.parametrize("name", POLICIES)
def test_a_pair_is_judged_alike_alone_and_among_others(name: PolicyName) -> None:
    pairs = seen()
    together = choose(policy(name), pairs)
    for place in range(len(pairs.differences)):
        alone = choose(policy(name), part(pairs, [place]))
        assert alone.critical.equal(together.critical[[place]])
        torch.testing.assert_close(alone.weights, together.weights[[place]])


@pytest.mark.parametrize("name", POLICIES)
def test_only_critical_rules_have_weight_and_no_pairs_are_no_trouble(name: PolicyName) -> None:
    choice = choose(policy(name), seen())
    assert (choice.weights[~choice.critical] == 0).all()
    assert choose(policy(name), part(seen(), [])).critical.shape == (0, RULES)


@pytest.mark.parametrize("k", [1, 5, RULES, 100])
@pytest.mark.parametrize("name", ["random", "relevance", "discrepancy", "published"])
def test_k_rules_count_alike_and_as_one(name: PolicyName, k: int) -> None:
    choice = choose(policy(name, k), seen())
    assert (choice.critical.sum(dim=1) == min(k, RULES)).all()
    torch.testing.assert_close(choice.weights.sum(dim=1), torch.ones(6, dtype=torch.double))
    assert choice.margins(torch.full((6, RULES), 0.7, dtype=torch.double)).tolist() == pytest.approx([0.7] * 6)


def test_random_rules_depend_on_the_seed_of_the_pair() -> None:
    assert len({tuple(row) for row in places(choose(policy("random"), seen(20)).critical)}) > 1


def test_a_difference_that_is_all_noise_shrinks_by_half_and_a_clear_one_hardly() -> None:
    shares = shrinkage(torch.tensor([[0.5, 1.0, 0.0]]), torch.tensor([0.5, 0.1, 0.5]))
    assert shares[0].tolist() == pytest.approx([0.5, 1 / 1.01, 0.0])


def test_robust_takes_no_rule_that_is_not_relevant_nor_one_that_says_nothing() -> None:
    pair = of_one([1.5, 0.0, 0.4], [0.49, 0.9, 0.9])
    choice = choose(Policy("robust"), pair)
    assert places(choice.critical) == [[2]]
    assert choice.margins(pair.differences).item() == pytest.approx(0.9 * 0.4 * 0.16 / 0.17)


def test_robust_prefers_the_less_noisy_of_two_rules() -> None:
    assert places(choose(Policy("robust", k=1), of_one([0.6, 0.5], [1, 1], [0.5, 0.2])).critical) == [[1]]


def test_five_paraphrases_are_not_five_votes() -> None:
    alike = torch.eye(8)
    alike[:5, :5] = 0.97
    alike.fill_diagonal_(1)
    utility = torch.tensor([[1.0, 0.99, 0.98, 0.97, 0.96, 0.6, 0.5, 0.4]])
    assert places(diverse(utility, alike, 4)) == [[0, 5, 6, 7]]


def test_an_opposite_is_a_paraphrase_as_well() -> None:
    opposite = torch.tensor([[1.0, -0.97, 0.0], [-0.97, 1.0, 0.0], [0.0, 0.0, 1.0]])
    assert places(diverse(torch.tensor([[1.0, 0.9, 0.5]]), opposite, 2)) == [[0, 2]]


@pytest.mark.parametrize("seed", range(3))
def test_every_step_takes_what_adds_most_to_the_log_determinant(seed: int) -> None:
    """The running Cholesky factor gives what determinants computed anew give."""
    pairs = seen(4, seed)
    assert pairs.correlation is not None
    utility = pairs.differences.abs()
    kernel = 0.999 * pairs.correlation + 0.001 * torch.eye(RULES, dtype=torch.double)
    for row, taken in zip(utility, places(diverse(utility, pairs.correlation, 4)), strict=True):
        scaled, greedy = row[:, None] * kernel * row, list[int]()
        for _ in range(4):
            left = [i for i in range(RULES) if i not in greedy]
            greedy.append(max(left, key=lambda i: float(torch.logdet(scaled[[*greedy, i]][:, [*greedy, i]]))))
        assert taken == sorted(greedy)


def test_rules_that_all_say_the_same_leave_no_gap_in_the_numbers() -> None:
    taken = diverse(torch.ones(1, 6), torch.ones(6, 6), 6)
    assert taken.all()


@pytest.mark.parametrize("name", ["fixed", "random", "robust"])
def test_a_policy_without_its_evidence_says_what_is_missing(name: PolicyName) -> None:
    with pytest.raises(ValueError, match=f"`{name}` needs"):
        choose(Policy(name), Evidence(torch.ones(1, 3), torch.ones(1, 3)))


def test_no_critical_rule_at_all_cannot_be_asked_for() -> None:
    with pytest.raises(ValueError, match="one critical rule"):
        choose(Policy("all", k=0), seen())
