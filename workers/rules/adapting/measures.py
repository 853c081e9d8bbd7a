"""How well a rule adapter chooses: the rules against those that are critical, and the labels that come of them."""

import torch
from torch import Tensor

from app.schemas.ruleadapters import AdapterMeasures, ChooserName, ChooserReading, Estimate
from app.schemas.rulebanks import PolicyReading
from workers.directions.evaluation import accuracy, interval
from workers.rules.adapting.lessons import Lessons
from workers.rules.evaluating import scale_of
from workers.rules.selection import Choice, Policy


def measure(
    held_out: Lessons, taught: Lessons, policy: Policy, likely: Tensor, *, swapped_alike: float, protocol: str
) -> AdapterMeasures:
    """What is known of an adapter.

    Args:
        held_out: P pairs that it did not see; chosen is the human preference.
        taught: those that it was fitted to, which say what is frequent.
        policy: what makes rules critical.
        likely: [P, R] what the adapter says of `held_out`.
        swapped_alike: share of pairs whose choice stays as it is with the sides exchanged.
        protocol: how the pairs were kept apart.
    """
    often = taught.critical(policy).critical.double().mean(dim=0)
    critical = held_out.critical(policy)
    by = Policy("adapter", policy.k)
    choices: dict[ChooserName, Choice] = {
        "adapter": held_out.critical(by, likely),
        "frequent": held_out.critical(by, often.expand(len(held_out), -1)),
        "critical": critical,
        "all": held_out.critical(Policy("all")),
    }
    used = (taught.relevance.amax(dim=0) > 0) | (taught.scores.abs().amax(dim=(0, 1)) > 0)
    return AdapterMeasures(
        pairs=len(held_out),
        prompts=len(torch.unique(held_out.families)),
        chance=float(critical.critical.sum(dim=1).double().mean() / used.sum().clamp(min=1)),
        choosers=[_reading(name, choice, choices, held_out) for name, choice in choices.items()],
        swapped_alike=swapped_alike,
        protocol=protocol,
    )


def calibrate(lessons: Lessons, policy: Policy, likely: Tensor) -> PolicyReading | None:
    """How the margins by an adapter's rules read pairs that it was not fitted to; None if they carry no signal.

    Args:
        lessons: P such pairs, of at least two prompts; chosen is the human preference.
        policy: `adapter`, and how many rules.
        likely: [P, R] what the adapter says of them.
    """
    margins = lessons.margins(lessons.critical(policy, likely))
    scale = scale_of(margins, lessons.families)
    if scale is None:
        return None
    prompts = len(torch.unique(lessons.families))
    return PolicyReading(
        policy=policy.name,
        k=policy.k,
        slope=scale.slope,
        level_edges=scale.level_edges,
        accuracy=accuracy(margins, lessons.families),
        calibration_error=scale.error,
        data=f"{len(lessons)} pairs of {prompts} prompts that the adapter was not fitted to",
    )


def precision_at(choice: Tensor, critical: Tensor) -> Tensor:
    """[P] share of the chosen rules that are critical; both [P, R]."""
    return (choice & critical).sum(dim=1) / choice.sum(dim=1).clamp(min=1)


def recall_at(choice: Tensor, critical: Tensor) -> Tensor:
    """[P] share of the critical rules that are chosen, NaN where a pair has none; both [P, R]."""
    return (choice & critical).sum(dim=1) / critical.sum(dim=1)


def agreement(margins: Tensor, others: Tensor) -> Tensor:
    """[P] whether two margins prefer the same side: 1, 0, or ½ where either prefers none."""
    return (1 + torch.sign(margins) * torch.sign(others)) / 2


def _reading(
    name: ChooserName, choice: Choice, choices: dict[ChooserName, Choice], held_out: Lessons
) -> ChooserReading:
    critical, margins = choices["critical"].critical, held_out.margins(choice)
    guesses = name in ("adapter", "frequent")
    labels = [agreement(margins, held_out.margins(choices[other])) for other in ("all", "critical")]
    with_all, with_critical, with_human = (
        _estimate(values, held_out.families) for values in (*labels, agreement(margins, torch.ones_like(margins)))
    )
    return ChooserReading(
        chooser=name,
        precision=_estimate(precision_at(choice.critical, critical), held_out.families) if guesses else None,
        recall=_estimate(recall_at(choice.critical, critical), held_out.families) if guesses else None,
        with_all=with_all,
        with_critical=with_critical,
        with_human=with_human,
    )


def _estimate(values: Tensor, families: Tensor) -> Estimate:
    known, exact = ~values.isnan(), values.double()
    if not known.any():
        return Estimate(value=0.0, low=0.0, high=0.0)
    low, high, _ = interval(exact[known], families[known])
    return Estimate(value=float(exact[known].mean()), low=low, high=high)
