"""The recipe `contrast` of a taught model: the mean activity pattern as a direction, without labels.

The paper reports no reading of pairs; this is an extension. w_l is the mean of v_l over response tokens, and a response
scores Σ_l h̄_l · w_l / s_l, with h̄_l its mean activation in the taught model and s_l the spread of the layer's margins
over some pairs. Labels of these pairs say how sure a margin is (Platt scaling) and nothing else.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import MappingProxyType

import torch
from torch import Tensor

from app.schemas.directions import Reading
from app.schemas.pairs import Pair
from workers.alignment.errors import UnfitData
from workers.directions.balance import balance
from workers.directions.balance_reading import balance_margins
from workers.directions.direction import SafetyDirection, Setting, known, new_direction
from workers.directions.evaluation import accuracy, calibration_error, level_edges, platt_slope
from workers.directions.gather import opening
from workers.engine.annotator import Annotator
from workers.engine.errors import PairRefused
from workers.engine.forward import read_each
from workers.engine.packing import Group
from workers.engine.sites import Site

PROTOCOL = "the direction knows no labels; one slope is fitted on these pairs, which the model was not taught with"

LEVELS = 4
"""Into how many levels margins are cut."""

_FEWEST = 20


def contrast_direction(
    taught: Annotator,
    mean: Tensor,
    blocks: Sequence[int],
    pairs: Sequence[Pair],
    direction_id: str,
    *,
    cache: Path | None = None,
    note: Mapping[str, Setting] = MappingProxyType({}),
    progress: Callable[[int, int], None] = lambda _done, _total: None,
) -> SafetyDirection:
    """Make the direction, calibrate it and measure it.

    Args:
        taught: the taught model, Dual's preferred one; the direction is for it, adapter included.
        mean: [L, d] mean pattern of each block.
        blocks: L of them.
        pairs: labelled ones that the model was not taught with.
        direction_id: its name.
        cache: where readings of the balance set are kept.
        note: what else to put among the card's settings.
        progress: told how many pairs of how many are read.

    Raises:
        UnfitData: too few of the pairs can be read, or the patterns are zero.
    """
    sites = tuple(Site(block, "mean") for block in blocks)
    margins, families = _margins(taught, mean, sites, pairs, progress)
    spread = margins.square().mean(dim=0).sqrt()
    if not bool((spread > 0).all()):
        raise UnfitData("the taught model tells nothing apart: its patterns move no pair")
    weights = 1 / (spread * len(sites))
    direction = new_direction(
        direction_id,
        sites,
        mean.double() * weights[:, None],
        model=(taught.name, taught.revision, taught.template.digest),
        recipe="contrast",
        settings={"pairs": len(margins), "skipped": len(pairs) - len(margins), **note},
    )
    raw = margins @ weights
    slope = platt_slope(raw)
    reading = Reading(
        data="pairs not taught with",
        protocol=PROTOCOL,
        accuracy=accuracy(raw, families),
        calibration_error=calibration_error(raw * slope) if slope else None,
    )
    kept, places = balance_margins(taught, direction, cache)
    return known(
        direction,
        slope=slope,
        level_edges=level_edges(raw * slope, LEVELS) if slope else [],
        readings=[reading.model_dump()],
        unreliable=reading.accuracy.low <= 0.5,
        **{name: figure.model_dump() for name, figure in balance().figures(kept, places).items()},
    )


def _margins(
    taught: Annotator,
    mean: Tensor,
    sites: tuple[Site, ...],
    pairs: Sequence[Pair],
    progress: Callable[[int, int], None],
) -> tuple[Tensor, Tensor]:
    """[P, L] float64 projections of chosen − rejected of the pairs that can be read, and their [P] prompts."""
    groups: list[Group] = []
    openings: list[str] = []
    for pair in pairs:
        with suppress(PairRefused):
            groups.append(taught.template.encode(pair.messages, (pair.chosen, pair.rejected)))
            openings.append(opening(pair.messages))
    if len(groups) < _FEWEST:
        raise UnfitData(f"{len(groups)} pairs are too few to calibrate on; at least {_FEWEST} are needed")
    margins = torch.zeros(len(groups), len(sites), dtype=torch.double)
    for place, reading in read_each(taught, groups, sites, lambda done: progress(done, len(groups))):
        margins[place] = ((reading[0] - reading[1]).double() * mean.double()).sum(dim=1)
    numbers = {text: number for number, text in enumerate(dict.fromkeys(openings))}
    return margins, torch.tensor([numbers[text] for text in openings])
