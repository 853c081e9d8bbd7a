"""From what every model read to the figures of every arm: pure mathematics on gaps of rewards."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from app.schemas.directions import Accuracy
from app.schemas.evaluation import Gain
from app.schemas.marginreport import ArmFigures, ArmOn
from workers.directions.evaluation import calibration_error, central, interval, resampled_means, right

_LEVEL = 0.05


def arm_on(gaps: Sequence[Tensor], plain: Sequence[Tensor] | None, families: Tensor) -> ArmOn:
    """How an arm reads one set.

    Args:
        gaps: [n] of each seed.
        plain: of the same seeds without margins; None for that itself.
        families: [n] prompts, which are resampled; what is resampled is the mean over seeds.
    """
    hits = torch.stack([right(own) for own in gaps])
    gain, p = (None, None) if plain is None else paired(hits, torch.stack(list(map(right, plain))), families)
    errors = [calibration_error(own) for own in gaps]
    return ArmOn(
        accuracy=mean_accuracy(gaps, families),
        by_seed=hits.mean(dim=1).tolist(),
        gain=gain,
        p=p,
        calibration_error=sum(errors) / len(errors),
    )


def mean_accuracy(gaps: Sequence[Tensor], families: Tensor) -> Accuracy:
    """Accuracy, mean over seeds, with an interval over prompts."""
    hits = torch.stack([right(own) for own in gaps]).mean(dim=0)
    low, high, count = interval(hits, families)
    return Accuracy(value=float(hits.mean()), low=low, high=high, pairs=len(hits), prompts=count)


def paired(hits: Tensor, others: Tensor, families: Tensor) -> tuple[Gain, float]:
    """Mean of [S, n] hits less that of others, seed for seed and pair for pair, and the p of no difference."""
    more = (hits - others).mean(dim=0)
    means = resampled_means(more, families)
    low, high = central(means)
    worse = float(((means < 0).double() + 0.5 * (means == 0).double()).mean())
    least = 1 / len(means)
    return Gain(value=float(more.mean()), low=low, high=high), max(least, min(1.0, 2 * min(worse, 1 - worse)))


def beyond_doubt(ps: Mapping[str, float], level: float = _LEVEL) -> set[str]:
    """Names whose p stays below a level where so many are tried at once (Holm's procedure)."""
    found: set[str] = set()
    for tried, name in enumerate(sorted(ps, key=lambda name: ps[name])):
        if ps[name] > level / (len(ps) - tried):
            break
        found.add(name)
    return found


def verdict(arms: Sequence[ArmFigures], on: str) -> str:
    """In a sentence or two what the arms' gains on one set come to."""
    found = {arm.arm: arm.sets[on] for arm in arms if on in arm.sets and arm.sets[on].gain is not None}
    if not found:
        return "Nothing is compared: there is no arm beside no margin."
    certain = beyond_doubt({name: one.p if one.p is not None else 1.0 for name, one in found.items()})
    better = [name for name in found if name in certain and _gain(found[name]) > 0]
    worse = [name for name in found if name in certain and _gain(found[name]) < 0]
    best = max(found, key=lambda name: _gain(found[name]))
    gain = found[best].gain
    said = []
    if better:
        said.append(f"Better than no margin on {on} pairs, beyond doubt: {', '.join(better)}.")
    else:
        said.append(f"No arm is better than no margin on {on} pairs beyond doubt.")
    if worse:
        said.append(f"Worse, beyond doubt: {', '.join(worse)}.")
    if gain is not None:
        said.append(f"The highest is {best}, {gain.value:+.3f} [{gain.low:+.3f}, {gain.high:+.3f}].")
    said.append(f"(Holm's procedure at {_LEVEL} over {len(found)} arms.)")
    return " ".join(said)


def _gain(found: ArmOn) -> float:
    return found.gain.value if found.gain else 0.0
