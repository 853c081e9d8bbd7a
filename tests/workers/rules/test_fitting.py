"""Probes of rules with few labels: planted directions are found, what is shared is shared, nothing leaks."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from workers.rules.fitting import (
    ALONE,
    SHARING,
    Prior,
    Space,
    fit,
    fit_relevance,
    held_out,
    held_out_relevance,
    priors_for,
)
from workers.rules.labels import Labels, folds, mean_area

RULES, EACH, WIDTH = 12, 16, 40


def planted(*, shared: float, own: float, seed: int = 0) -> tuple[Tensor, Labels]:
    """Activations [N, 1, d] where each rule's sides differ along a common and along its own direction."""
    source = torch.Generator().manual_seed(seed)
    rules = torch.arange(RULES).repeat_interleave(EACH)
    targets = torch.tensor([1.0, -1.0], dtype=torch.double).repeat(RULES * EACH // 2)
    common, subjects, directions = (torch.randn(n, WIDTH, generator=source) for n in (1, RULES, RULES))
    noise = torch.randn(len(rules), WIDTH, generator=source)
    sides = targets[:, None].float() * (shared * common + own * directions[rules])
    relevance = torch.where(rules[:, None] == torch.arange(RULES), 1.0, -1.0).double()
    families = torch.arange(len(rules))
    labels = Labels(torch.arange(len(rules)), rules, targets, families, relevance, torch.arange(RULES) % 3)
    return (3 * subjects[rules] + sides + noise)[:, None], labels


def area(scores: Tensor, labels: Labels) -> float:
    table, sides = (torch.zeros(len(labels), RULES, dtype=torch.double) for _ in range(2))
    table[labels.items, labels.rules], sides[labels.items, labels.rules] = scores, labels.targets
    return mean_area(table, sides)


def test_what_rules_have_in_common_is_learnt_from_all_of_them() -> None:
    activations, labels = planted(shared=0.15, own=0.0)
    gram, fold = Space.of(activations).gram, folds(labels, 8)
    together = area(held_out(gram, labels, fold, Prior(1.0, common=1.0)), labels)
    alone = area(held_out(gram, labels, fold, Prior(1.0)), labels)
    assert together > 0.8
    assert together > alone + 0.05


def test_a_rule_of_its_own_is_found_beside_what_is_shared() -> None:
    activations, labels = planted(shared=0.0, own=0.5)
    gram, fold = Space.of(activations).gram, folds(labels, 8)
    assert area(held_out(gram, labels, fold, Prior(1.0, common=0.3)), labels) > 0.9


@pytest.mark.parametrize("prior", [SHARING[1], ALONE[2]])
def test_labels_that_mean_nothing_read_at_chance(prior: Prior) -> None:
    """No split leaks: neither through a rule's centre, nor through the other rules, nor through the whitening."""
    areas = []
    for seed in range(6):
        activations, labels = planted(shared=0.0, own=0.0, seed=seed)
        areas.append(area(held_out(Space.of(activations).gram, labels, folds(labels, 8), prior), labels))
    assert sum(areas) / len(areas) == pytest.approx(0.5, abs=0.04)


@pytest.mark.parametrize("prior", [SHARING[1], ALONE[2]])
def test_vectors_and_constants_score_activations_as_the_gram_matrix_does(prior: Prior) -> None:
    activations, labels = planted(shared=0.3, own=0.5)
    space = Space.of(activations)
    read_outs = fit(space.gram, labels, torch.ones(len(labels), dtype=torch.bool), prior)
    vectors, constants = space.vectors(read_outs)
    by_hand = activations.flatten(1).double() @ vectors.T - constants
    torch.testing.assert_close(by_hand, read_outs.scores(space.gram), atol=1e-5, rtol=1e-4)


def test_the_kernel_gives_the_ridge_solution_of_the_split_weights() -> None:
    """Without whitening: w_r = √a w₀ + u_r minimises squared errors plus λ times the squared lengths of the parts."""
    activations, labels = planted(shared=0.3, own=0.5)
    space = Space.of(activations)
    prior = Prior(0.5, common=0.4)
    read_outs = fit(space.gram, labels, torch.ones(len(labels), dtype=torch.bool), prior)
    rows = space.rows.double()
    means = torch.stack([rows[labels.rules == r].mean(dim=0) for r in range(RULES)])
    centred = rows - means[labels.rules]
    centred = centred / centred.square().sum(dim=1).mean().sqrt()
    split = torch.zeros(len(rows), RULES + 1, WIDTH, dtype=torch.double)
    split[:, 0] = prior.common**0.5 * centred
    split[torch.arange(len(rows)), labels.rules + 1] = centred
    flat = split.flatten(1)
    weights = torch.linalg.solve(flat.T @ flat + prior.penalty * torch.eye(flat.shape[1]), flat.T @ labels.targets)
    parts = weights.view(RULES + 1, WIDTH)
    scores = (centred * (prior.common**0.5 * parts[0] + parts[1:][labels.rules])).sum(dim=1)
    ours = read_outs.scores(space.gram)[labels.items, labels.rules]
    torch.testing.assert_close(ours, scores, atol=1e-6, rtol=1e-4)


def test_a_rule_with_one_side_only_gets_no_read_out_and_disturbs_no_other() -> None:
    activations, labels = planted(shared=0.3, own=0.5)
    gram = Space.of(activations).gram
    used = (labels.rules != 0) | (labels.targets > 0)
    one_sided = fit(gram, labels, used, SHARING[1])
    without = fit(gram, labels, labels.rules != 0, SHARING[1])
    assert not one_sided.coefficients[0].any()
    torch.testing.assert_close(one_sided.coefficients[1:], without.coefficients[1:])


def test_relevance_tells_a_rules_subject_from_the_others() -> None:
    activations, labels = planted(shared=0.0, own=0.0)
    gram, fold = Space.of(activations).gram, folds(labels, 8)
    assert mean_area(held_out_relevance(gram, labels.relevance, fold, 1.0), labels.relevance) > 0.95
    read_outs = fit_relevance(gram, labels.relevance, torch.ones(len(fold), dtype=torch.bool), 1.0)
    assert mean_area(read_outs.scores(gram), labels.relevance) > 0.99


def test_rules_with_plenty_of_labels_are_fitted_each_for_itself() -> None:
    _, labels = planted(shared=0.0, own=0.0)
    items, rules, targets = (part.repeat(30) for part in (labels.items, labels.rules, labels.targets))
    many = replace(labels, items=items, rules=rules, targets=targets)
    assert any(prior.shares for prior in priors_for(labels))
    assert not any(prior.shares for prior in priors_for(many))
