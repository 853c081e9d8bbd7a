"""The recipe `contrast` of a taught model: the mean activity pattern as a direction, without labels.

The paper reports no reading of pairs; this is an extension. w_l is the mean of v_l over response tokens, and a response
scores Σ_l h̄_l · w_l / s_l, with h̄_l its mean activation in the taught model and s_l the spread of the layer's margins
over some pairs. Labels of these pairs say how sure a margin is (Platt scaling) and nothing else. The pattern may come
of the same texts: it knows no label of theirs.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import MappingProxyType

import torch
from torch import Tensor

from app.schemas.pairs import Pair
from workers.alignment.calibration import calibrate, families_of, refuse_too_few
from workers.alignment.errors import UnfitData
from workers.directions.balance import balance
from workers.directions.balance_reading import balance_margins
from workers.directions.direction import SafetyDirection, Setting, known, new_direction
from workers.engine.annotator import Annotator
from workers.engine.errors import PairRefused
from workers.engine.forward import read_each
from workers.engine.packing import Group
from workers.engine.sites import Site

PROTOCOL = (
    "no label made the direction, though its pattern may be the mean over these very texts; the model was not taught "
    "with them; one slope is fitted on their labels, the calibration error is five-fold over prompts"
)


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
        progress: told how many pairs of how many are read, those of the balance set included; may raise to end it.

    Raises:
        UnfitData: too few of the pairs can be read, or the patterns are zero.
    """
    sites = tuple(Site(block, "mean") for block in blocks)
    total = len(pairs) + len(balance().pairs)
    margins, families = _margins(taught, mean, sites, pairs, lambda done: progress(done, total))
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
    calibrated = calibrate(margins @ weights, families, PROTOCOL)
    kept, places = balance_margins(taught, direction, cache, (), lambda done: progress(len(pairs) + done, total))
    progress(total, total)
    figures = {name: figure.model_dump() for name, figure in balance().figures(kept, places).items()}
    return known(direction, **calibrated.on_card, **figures)


def _margins(
    taught: Annotator,
    mean: Tensor,
    sites: tuple[Site, ...],
    pairs: Sequence[Pair],
    progress: Callable[[int], None],
) -> tuple[Tensor, Tensor]:
    """[P, L] float64 projections of chosen − rejected of the pairs that can be read, and their [P] prompts."""
    groups: list[Group] = []
    readable: list[Pair] = []
    for pair in pairs:
        with suppress(PairRefused):
            groups.append(taught.template.encode(pair.messages, (pair.chosen, pair.rejected)))
            readable.append(pair)
    refuse_too_few(len(groups))
    margins = torch.zeros(len(groups), len(sites), dtype=torch.double)
    for place, reading in read_each(taught, groups, sites, progress):
        margins[place] = ((reading[0] - reading[1]).double() * mean.double()).sum(dim=1)
    return margins, families_of(readable)
