"""Recipe `pairs`: the direction that best tells chosen from rejected in labelled pairs."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from app.schemas.directions import Reading
from app.schemas.pairs import Pair
from workers.directions.direction import SafetyDirection, Setting, new_direction
from workers.directions.errors import UnfitData
from workers.directions.evaluation import accuracy, calibration_error, folds, platt_slope
from workers.directions.families import families_of
from workers.directions.ridge import MIN_PAIRS, RidgeFit, check_differences, fit_ridge
from workers.engine.annotator import Annotator
from workers.engine.errors import PairRefused
from workers.engine.forward import read_all
from workers.engine.packing import Group
from workers.engine.sites import Pooling, Site

POOLINGS: tuple[Pooling, ...] = ("mean", "end_of_turn")


@dataclass(frozen=True)
class LabelledActivations:
    """What the annotator makes of labelled pairs.

    Attributes:
        layers: the layers read, P poolings each.
        differences: [n, layers, P, d] chosen minus rejected.
        families: [n] family of each pair.
        skipped: pairs left out because the annotator cannot read them.
    """

    layers: tuple[int, ...]
    differences: Tensor
    families: Tensor
    skipped: int


@dataclass(frozen=True)
class Selected:
    """A read-out chosen among layers and penalties on held-out families.

    Attributes:
        layer: index into the candidates.
        fit: the ridge at that layer.
        penalty: index of its λ.
    """

    layer: int
    fit: RidgeFit
    penalty: int

    @property
    def vectors(self) -> Tensor:
        """[P, d] read-outs."""
        return self.fit.vectors[self.penalty]

    @property
    def held_out(self) -> Tensor:
        """[n] held-out margins of the pairs fitted on."""
        return self.fit.held_out[self.penalty]


def candidate_layers(depth: int) -> tuple[int, ...]:
    """Layers between two fifths and two thirds of the network: later ones read hardly better and cost more."""
    return tuple(sorted({round(depth * share / 30) for share in (12, 14, 16, 18, 20)}))


def read_labelled(
    annotator: Annotator,
    pairs: Sequence[Pair],
    layers: Sequence[int],
    progress: Callable[[int], None] = lambda _done: None,
) -> LabelledActivations:
    """Activations of labelled pairs at every layer in one forward pass.

    Raises:
        UnfitData: the annotator has no such layer.
    """
    if absent := [layer for layer in layers if not 0 <= layer <= annotator.depth]:
        raise UnfitData(f"{annotator.name} has no layer {absent[0]}; its layers are 0 to {annotator.depth}")
    kept: list[Pair] = []
    groups: list[Group] = []
    for pair in pairs:
        try:
            groups.append(annotator.template.encode(pair.messages, [pair.chosen, pair.rejected]))
            kept.append(pair)
        except PairRefused:
            continue
    sites = [Site(layer, pooling) for layer in layers for pooling in POOLINGS]
    readings = read_all(annotator, groups, sites, progress)
    differences = [(r[0] - r[1]).view(len(layers), len(POOLINGS), -1) for r in readings]
    stacked = torch.stack(differences) if differences else torch.zeros(0, len(layers), len(POOLINGS), annotator.width)
    return LabelledActivations(tuple(layers), stacked, families_of(kept), len(pairs) - len(kept))


def select(differences: Tensor, families: Tensor) -> Selected:
    """Choose layer and λ by the held-out likelihood of the families fitted on.

    Args:
        differences: [n, layers, P, d].
        families: [n].
    """
    choices = []
    for layer in range(differences.shape[1]):
        fit = fit_ridge(differences[:, layer], families)
        choices.append(Selected(layer, fit, fit.best()))
    return max(choices, key=lambda choice: _quality(choice.held_out))


def cross_validate(differences: Tensor, families: Tensor) -> tuple[Tensor, Tensor]:
    """Margins of pairs from fits that saw nothing of their family, selection included.

    Returns:
        [n] raw margins in units of their own fit's held-out spread, and [n] calibrated log-odds.
    """
    raw = torch.zeros(len(differences), dtype=torch.double)
    log_odds = torch.zeros_like(raw)
    fold = folds(families)
    for number in range(int(fold.max()) + 1):
        train, test = fold != number, fold == number
        chosen = select(differences[train], families[train])
        margins = torch.einsum("npd,pd->n", differences[test, chosen.layer].double(), chosen.vectors.double())
        raw[test] = margins / chosen.held_out.square().mean().sqrt()
        log_odds[test] = margins * (platt_slope(chosen.held_out) or 0.0)
    return raw, log_odds


def fit_pairs(
    annotator: Annotator,
    pairs: Sequence[Pair],
    *,
    direction_id: str,
    data: str,
    layers: Sequence[int] | None = None,
    progress: Callable[[int], None] = lambda _done: None,
) -> SafetyDirection:
    """Fit, calibrate and measure a direction on labelled pairs.

    Args:
        annotator: whose activations to read.
        pairs: labelled pairs, chosen the safer one.
        direction_id: name of the new direction.
        data: what to call the pairs in its report.
        layers: candidates; `candidate_layers` where left out.
        progress: told how many pairs are read.

    Raises:
        UnfitData: the pairs give no direction.
    """
    read = read_labelled(annotator, pairs, layers or candidate_layers(annotator.depth), progress)
    check_differences(read.differences)
    chosen = select(read.differences, read.families)
    slope = platt_slope(chosen.held_out)
    settings: dict[str, Setting] = {
        "data": data,
        "pairs": len(read.differences),
        "skipped": read.skipped,
        "lambda": chosen.fit.lambdas[chosen.penalty],
        "candidate_layers": ",".join(map(str, read.layers)),
    }
    sites = tuple(Site(read.layers[chosen.layer], pooling) for pooling in POOLINGS)
    return new_direction(
        direction_id,
        sites,
        chosen.vectors,
        model=(annotator.name, annotator.revision, annotator.template.digest),
        recipe="pairs",
        settings=settings,
        slope=slope,
        readings=_readings(read, data),
    )


def _readings(read: LabelledActivations, data: str) -> list[Reading]:
    if len(torch.unique(read.families)) < 2 * MIN_PAIRS:
        return []
    raw, log_odds = cross_validate(read.differences, read.families)
    chosen = "layer and penalty" if len(read.layers) > 1 else f"penalty at the given layer {read.layers[0]}"
    return [
        Reading(
            data=data,
            protocol=f"five-fold cross-validation over prompts, {chosen} chosen inside the folds",
            accuracy=accuracy(raw, read.families),
            calibration_error=calibration_error(log_odds),
        )
    ]


def _quality(held_out: Tensor) -> float:
    """Mean log-likelihood of held-out margins at their best scale."""
    slope = platt_slope(held_out) or 0.0
    return -float(torch.nn.functional.softplus(-slope * held_out).mean())
