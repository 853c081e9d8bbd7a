"""What is measured of a fit beyond its card: every place by itself, calibration, controls."""

from collections.abc import Sequence

import torch
from torch import Tensor

from app.schemas.report import Behaviour, Control, DirectionReport, HistogramBin, ReliabilityBin, SiteReading
from workers.directions.direction import SafetyDirection
from workers.directions.evaluation import accuracy, auroc, calibration_error, correlation
from workers.directions.gather import POOLINGS, Plan
from workers.directions.ridge import LayerFit, fit_ridge
from workers.directions.rows import MIN_ROWS, LayerRows, Pairs, Rows
from workers.directions.selection import PROTOCOL, CrossValidation, best_fit
from workers.engine.annotator import Annotator
from workers.engine.forward import read_all
from workers.engine.packing import Group

_BINS = 10
_HISTOGRAM_HALF = 12
_SWAPPED = 16
_RANDOM_SEED = 7


def full_report(
    annotator: Annotator,
    direction: SafetyDirection,
    made: Plan,
    rows: Rows,
    trial: CrossValidation | None,
    controls: Sequence[SafetyDirection],
) -> DirectionReport:
    """The report of a fit, measured on the pairs of its first source."""
    report = bare_report(direction).model_copy(update={"swap_error": swap_error(annotator, direction, made)})
    if trial is None:
        return report
    pairs, calibrated = rows.pairs(0), direction.card.slope is not None
    margins = pairs.mean(trial.log_odds if calibrated else trial.raw)
    labelled = bool(direction.card.readings)
    what = "pairs of the first source" if labelled else "rows of the first source, which nobody labelled"
    measured = {
        "measured_on": f"{len(margins)} {what}: {PROTOCOL}",
        "accuracy": accuracy(margins, pairs.families) if labelled else None,
        "behaviour": _behaviour(margins, pairs),
        "split_half_cosine": _whole_cosine(rows, direction),
        "calibration_error": calibration_error(margins) if calibrated else None,
        "histogram": histogram(margins),
        "reliability": reliability(margins) if calibrated else [],
        "sites": [_site(pairs, i, p) for i in range(len(rows.layers)) for p in range(len(POOLINGS))],
        "controls": _controls(pairs, direction, controls),
    }
    return DirectionReport.model_validate(report.model_dump() | {k: _plain(v) for k, v in measured.items()})


def bare_report(direction: SafetyDirection) -> DirectionReport:
    """The report of a direction of which only its card is known."""
    known = "only its card says how it reads" if direction.card.readings else "only the balance set says how it reads"
    return DirectionReport(
        card=direction.card,
        measured_on=f"no pairs are at hand for this report: {known}",
        accuracy=None,
        behaviour=None,
        swap_error=None,
        split_half_cosine=None,
        calibration_error=None,
        histogram=[],
        reliability=[],
        sites=[],
        controls=[],
    )


def swap_error(annotator: Annotator, direction: SafetyDirection, made: Plan) -> float | None:
    """Largest |margin + margin with sides swapped| of a few pairs read again, both ways, in calibrated units."""
    pairs = [part.group for part in made.parts if part.coefficients == (1, -1)][:_SWAPPED]
    if not pairs:
        return None
    swapped = [Group(g.prefix, g.branches[::-1], g.prompt, g.request, g.truncated) for g in pairs]
    scores = [direction.scores(reading) for reading in read_all(annotator, [*pairs, *swapped], direction.reads)]
    margins = torch.stack([score[0] - score[1] for score in scores]) * (direction.card.slope or 1.0)
    return float((margins[: len(pairs)] + margins[len(pairs) :]).abs().max())


def histogram(margins: Tensor) -> list[HistogramBin]:
    """Counts of [n] margins in bins of equal width that meet at zero; the outermost hold whatever lies beyond."""
    width = float(torch.quantile(margins.abs(), 0.99).clamp(min=1e-12)) / _HISTOGRAM_HALF
    places = (margins / width).floor().long().clamp(-_HISTOGRAM_HALF, _HISTOGRAM_HALF - 1) + _HISTOGRAM_HALF
    counts = torch.bincount(places, minlength=2 * _HISTOGRAM_HALF).tolist()
    edges = [(i - _HISTOGRAM_HALF) * width for i in range(2 * _HISTOGRAM_HALF + 1)]
    return [HistogramBin(low=edges[i], high=edges[i + 1], count=count) for i, count in enumerate(counts)]


def reliability(log_odds: Tensor) -> list[ReliabilityBin]:
    """Confidence of the preferred side against how often it is right, in equal parts from one half to one."""
    confidence, right = torch.sigmoid(log_odds.abs()), (log_odds > 0).double() + 0.5 * (log_odds == 0).double()
    places = ((confidence - 0.5) * 2 * _BINS).long().clamp(max=_BINS - 1)
    bins = []
    for number in range(_BINS):
        inside = places == number
        if inside.any():
            mean, share = float(confidence[inside].mean()), float(right[inside].mean())
            bins.append(ReliabilityBin(confidence=mean, accuracy=share, count=int(inside.sum())))
    return bins


def _behaviour(margins: Tensor, pairs: Pairs) -> Behaviour:
    return Behaviour(
        auroc=auroc(margins),
        length_correlation=correlation(margins, pairs.mean(pairs.rows.lengths)) or 0.0,
        refusal_correlation=correlation(margins, pairs.mean(pairs.rows.refusals)),
    )


def _site(pairs: Pairs, layer: int, pooling: int) -> SiteReading:
    """A ridge at one place alone, fitted on all rows and measured on the pairs."""
    rows = pairs.rows
    here = LayerRows(
        rows.differences[:, layer, pooling : pooling + 1], rows.members, rows.families, rows.weights, rows.prompts
    )
    fit = best_fit(fit_ridge(here), rows.weights)
    margins = pairs.mean(fit.held_out)
    return SiteReading(
        layer=rows.layers[layer],
        pooling=POOLINGS[pooling],
        accuracy=accuracy(margins, pairs.families),
        split_half_cosine=_halves_cosine(here, fit),
        **_behaviour(margins, pairs).model_dump(),
    )


def _halves_cosine(rows: LayerRows, fit: LayerFit) -> float:
    """Cosine of the ridges fitted on two halves of the families, at the penalty of the whole."""
    _, inverse = torch.unique(rows.families, return_inverse=True)
    order = torch.randperm(int(inverse.max()) + 1, generator=torch.Generator().manual_seed(0))
    vectors = []
    for side in (0, 1):
        half = order[inverse] % 2 == side
        parts = (values[half] for values in (rows.members, rows.families, rows.weights, rows.prompts))
        vectors.append(fit_ridge(LayerRows(rows.differences, *parts), [fit.penalty])[0].vectors.flatten())
    return float(torch.nn.functional.cosine_similarity(vectors[0], vectors[1], dim=0))


def _whole_cosine(rows: Rows, direction: SafetyDirection) -> float | None:
    """The same for the layers that the direction reads, averaged."""
    layers = sorted({site.layer for site in direction.sites} & set(rows.layers))
    if len(torch.unique(rows.families)) < 2 * MIN_ROWS or not layers:
        return None
    cosines = []
    for layer in layers:
        here = rows.at(rows.layers.index(layer))
        cosines.append(_halves_cosine(here, best_fit(fit_ridge(here), rows.weights)))
    return sum(cosines) / len(cosines)


def _controls(pairs: Pairs, direction: SafetyDirection, controls: Sequence[SafetyDirection]) -> list[Control]:
    """Length alone (its sign chosen on these very pairs), a random direction at the same layers, other directions."""
    rows, families = pairs.rows, pairs.families
    lengths = pairs.mean(rows.lengths)
    sign = 1.0 if float(lengths.sign().mean()) >= 0 else -1.0
    source = torch.Generator().manual_seed(_RANDOM_SEED)
    noise = torch.zeros(len(rows), dtype=torch.double)
    for layer in sorted({site.layer for site in direction.sites} & set(rows.layers)):
        here = rows.at(rows.layers.index(layer))
        noise += here.margins(torch.randn(here.scale.shape, generator=source, dtype=torch.double) / here.scale)
    found = [
        Control(name="length alone", accuracy=accuracy(sign * lengths, families)),
        Control(name="a random direction", accuracy=accuracy(pairs.mean(noise), families)),
    ]
    for column, control in enumerate(controls):
        card = control.card
        found.append(
            Control(
                name=f"{card.id} ({card.recipe})",
                accuracy=accuracy(pairs.mean(rows.controls[:, column]), families),
                should_respond=card.should_respond,
                should_refuse=card.should_refuse,
            )
        )
    return found


def _plain(value: object) -> object:
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return value.model_dump() if hasattr(value, "model_dump") else value
