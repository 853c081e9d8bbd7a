"""Making a direction: sources in, a calibrated and measured direction with its report out."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import torch

from app.schemas.directions import Accuracy, Reading
from app.schemas.fit import BALANCE, AnySource, FitRequest, LegendSource
from app.schemas.report import DirectionReport
from workers.directions.balance import balance
from workers.directions.balance_reading import balance_margins
from workers.directions.direction import PromptTerm, SafetyDirection, Setting, known, new_direction
from workers.directions.errors import UnfitData
from workers.directions.evaluation import accuracy, calibration_error, level_edges, platt_slope
from workers.directions.gather import POOLINGS, Progress, gather, plan
from workers.directions.legend import LegendSettings, fit_legend, read_requests
from workers.directions.prompted import Requests, low_rank
from workers.directions.reporting import bare_report, full_report
from workers.directions.rows import MIN_ROWS, Rows
from workers.directions.selection import PROTOCOL, CrossValidation, Method, ReadOut, choose, cross_validate
from workers.engine.annotator import Annotator
from workers.engine.sites import Site

RANK = 64
"""How many products of the request's activations a direction that depends on the prompt keeps."""

_LABELLED = ("pairs", "labelled")


@dataclass(frozen=True)
class Fitted:
    """A direction with all that was measured of it."""

    direction: SafetyDirection
    report: DirectionReport


def candidate_layers(depth: int) -> tuple[int, ...]:
    """Two layers behind the middle: deeper ones tell responses apart hardly better, and cost more to read."""
    return tuple(sorted({round(depth * share / 30) for share in (18, 22)}))


def fit(
    annotator: Annotator,
    request: FitRequest,
    *,
    controls: Sequence[SafetyDirection] = (),
    cache: Path | None = None,
    note: Mapping[str, Setting] = MappingProxyType({}),
    progress: Progress = lambda _done, _total: None,
) -> Fitted:
    """Make a direction.

    Args:
        annotator: whose activations to read; others may read it meanwhile.
        request: what of, and how.
        controls: directions to compare it with in its report.
        cache: folder where readings of the balance set are kept between fits.
        note: what else to put among the card's settings.
        progress: told how many groups are read.

    Raises:
        UnfitData: the sources give no direction.
    """
    _check_layers(annotator, request)
    first = request.sources[0]
    if len(request.sources) == 1 and isinstance(first, LegendSource) and not (first.two_sided or request.by_prompt):
        return _fit_legend(annotator, request, first, cache, note, progress)
    layers = sorted(set(request.layers)) if request.layers else candidate_layers(annotator.depth)
    made = plan(annotator, request.sources, progress)
    if len(made.notes) < MIN_ROWS:
        skipped = f" ({made.skipped} are left out: too long or refusals themselves)" if made.skipped else ""
        raise UnfitData(
            f"{len(made.notes)} rows are too few to fit a direction; at least {MIN_ROWS} are needed{skipped}"
        )
    rows = gather(made, layers, request_layer(annotator), controls, progress)
    main = int((rows.sources == 0).sum())
    if main < MIN_ROWS:
        raise UnfitData(f"{main} rows of the first source are too few to calibrate on; at least {MIN_ROWS} are needed")
    groups = len(made.parts)

    def beat() -> None:
        progress(groups, groups)

    method = Method(request.estimator, request.by_prompt, request.read_layers, annotator.passes, beat)
    read_out = choose(rows, method)
    direction = _assemble(annotator, request, rows, read_out, note)
    trial = cross_validate(rows, method) if _enough(rows) else None
    direction = _measure(annotator, request, direction, rows, read_out, trial, cache)
    return Fitted(direction, full_report(annotator, direction, made, rows, trial, controls))


def request_layer(annotator: Annotator) -> int:
    """Where a request is read: three fifths up."""
    return round(annotator.depth * 0.6)


def _assemble(
    annotator: Annotator, request: FitRequest, rows: Rows, read_out: ReadOut, note: Mapping[str, Setting]
) -> SafetyDirection:
    """The read-out as a direction: what its layers weigh, and how the request bends that."""
    sites = tuple(Site(rows.layers[layer], pooling) for layer in read_out.layers for pooling in POOLINGS)
    weighted = list(zip(read_out.fits, read_out.weights, strict=True))
    vectors = torch.cat([fit.vectors * weight for fit, weight in weighted])
    term = None
    scale = torch.cat([rows.at(layer).scale for layer in read_out.layers])
    bends = [fit.modulation * weight for fit, weight in weighted if fit.modulation is not None]
    if any(fit.by_prompt for fit in read_out.fits):
        probes, offsets, bent, constant = low_rank(torch.cat(bends), Requests.of(rows.prompts), scale, RANK)
        site = Site(request_layer(annotator), "request")
        parts = (values.float().contiguous() for values in (probes[:, None], offsets, bent))
        vectors, term = vectors + constant, PromptTerm((site,), *parts)
    settings: dict[str, Setting] = {
        "sources": ", ".join(f"{name_of(source)} × {source.weight:g}" for source in request.sources),
        "rows": len(rows),
        "skipped": rows.skipped,
        "estimator": request.estimator,
        "penalties": ", ".join(f"{fit.penalty:g}" for fit in read_out.fits),
        "candidate_layers": ", ".join(map(str, rows.layers)),
        "read_layers": request.read_layers,
        "by_prompt": request.by_prompt,
        **note,
    }
    model = (annotator.name, annotator.revision, annotator.template.digest)
    recipe = "+".join(dict.fromkeys(source.recipe for source in request.sources))
    return new_direction(request.id, sites, vectors, model=model, recipe=recipe, settings=settings, term=term)


def _measure(
    annotator: Annotator,
    request: FitRequest,
    direction: SafetyDirection,
    rows: Rows,
    read_out: ReadOut,
    trial: CrossValidation | None,
    cache: Path | None,
) -> SafetyDirection:
    """The direction with its calibration and figures on its card."""
    labelled = request.sources[0].recipe in _LABELLED
    held_out = rows.pairs(0).mean(read_out.held_out)
    slope = platt_slope(held_out) if labelled else None
    readings = [] if trial is None else _readings(request.sources, rows, trial)
    sides = _balance_figures(annotator, direction, rows, trial, cache)
    return known(
        direction,
        slope=slope,
        level_edges=level_edges(held_out * slope, request.levels) if slope else [],
        readings=[reading.model_dump() for reading in readings],
        unreliable=_unreliable(readings, sides, labelled=labelled),
        **{name: figure.model_dump() for name, figure in sides.items()},
    )


def _readings(sources: Sequence[AnySource], rows: Rows, trial: CrossValidation) -> list[Reading]:
    found = []
    for index, source in enumerate(sources):
        pairs = rows.pairs(index)
        if not len(pairs.first) or source.recipe not in _LABELLED:
            continue
        found.append(
            Reading(
                data=name_of(source),
                protocol=PROTOCOL,
                accuracy=accuracy(pairs.mean(trial.raw), pairs.families),
                calibration_error=calibration_error(pairs.mean(trial.log_odds)),
            )
        )
    return found


def _balance_figures(
    annotator: Annotator, direction: SafetyDirection, rows: Rows, trial: CrossValidation | None, cache: Path | None
) -> dict[str, Accuracy]:
    """Held out where the balance set was a source, else simply read."""
    fitted = rows.balance >= 0
    if fitted.any():
        return balance().figures(trial.raw[fitted], rows.balance[fitted]) if trial else {}
    candidates = [Site(layer, pooling) for layer in rows.layers for pooling in POOLINGS]
    candidates.append(Site(request_layer(annotator), "request"))
    margins, places = balance_margins(annotator, direction, cache, candidates)
    return balance().figures(margins, places)


def _unreliable(readings: Sequence[Reading], sides: dict[str, Accuracy], *, labelled: bool) -> bool:
    """Whether no figure shows that the direction reads better than chance.

    That is the held-out accuracy on the first source or, where that is not labelled, both sides of the balance set.
    """
    if labelled:
        return not readings or readings[0].accuracy.low <= 0.5
    return not sides or min(side.low for side in sides.values()) <= 0.5


def _fit_legend(
    annotator: Annotator,
    request: FitRequest,
    source: LegendSource,
    cache: Path | None,
    note: Mapping[str, Setting],
    progress: Progress,
) -> Fitted:
    """Legend's own recipe, of one site and unit length; nothing is labelled, so that nothing is calibrated."""
    layer = request.layers[0] if request.layers else None
    how = LegendSettings(paper=source.paper, max_new_tokens=source.max_new_tokens, layer=layer)
    requests = source.requests or read_requests()
    direction = fit_legend(
        annotator,
        requests,
        direction_id=request.id,
        settings=how,
        progress=lambda done: progress(done, len(requests)),
    )
    margins, places = balance_margins(annotator, direction, cache)
    sides = balance().figures(margins, places)
    figures = {name: figure.model_dump() for name, figure in sides.items()}
    settings = direction.card.settings | dict(note)
    direction = known(direction, settings=settings, unreliable=_unreliable([], sides, labelled=False), **figures)
    return Fitted(direction, bare_report(direction))


def _check_layers(annotator: Annotator, request: FitRequest) -> None:
    beyond = [layer for layer in request.layers or () if layer > annotator.depth]
    if beyond:
        raise UnfitData(f"{annotator.name} has no layer {beyond[0]}; its layers are 0 to {annotator.depth}")


def _enough(rows: Rows) -> bool:
    """Whether the first source has enough families to hold some out."""
    return len(torch.unique(rows.families[rows.sources == 0])) >= 2 * MIN_ROWS


def name_of(source: AnySource) -> str:
    """What reports call a source."""
    if source.name:
        return source.name
    return BALANCE if getattr(source, "pairs", None) == BALANCE else source.recipe
