"""Margins of labelled pairs from directions that saw neither a pair nor its prompt."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from app.schemas.fit import AnySource, LabelledResponse, LabelledSource, LegendSource, PairsSource
from app.schemas.pairs import Pair
from workers.directions.errors import UnfitData
from workers.directions.fit import candidate_layers, request_layer
from workers.directions.gather import Progress, gather, plan
from workers.directions.rows import MIN_ROWS
from workers.directions.selection import Method, cross_validate
from workers.engine.annotator import Annotator


@dataclass(frozen=True)
class CrossFitted:
    """What cross-fitting gives.

    Attributes:
        margins: [n] log-odds that the chosen response is the safer one.
        tokens: read of all sources.
        layers: read up to the last of these.
    """

    margins: Tensor
    tokens: int
    layers: tuple[int, ...]


def default_recipe(pairs: Sequence[Pair], labelled: Sequence[LabelledResponse]) -> list[AnySource]:
    """Sources of the shipped default, with other pairs and labelled responses."""
    sources: list[AnySource] = [
        PairsSource(recipe="pairs", name="pairs", pairs=list(pairs)),
        PairsSource(recipe="pairs", name="balance", pairs="balance", weight=0.3),
        LegendSource(recipe="legend", two_sided=True, max_new_tokens=72, weight=0.4),
    ]
    if labelled:
        sources.append(LabelledSource(recipe="labelled", responses=list(labelled), weight=0.4))
    return sources


def cross_fit(
    annotator: Annotator,
    sources: Sequence[AnySource],
    unseen: Tensor,
    progress: Progress = lambda _done, _total: None,
) -> CrossFitted:
    """Margins of the pairs of the first source, each from a fold whose fit and calibration saw nothing of its family.

    Args:
        annotator: whose activations to read.
        sources: what to fit on; the annotator can read every pair of the first one.
        unseen: places of the balance set that nothing may be fitted on.
        progress: told how many groups are read.

    Raises:
        UnfitData: the sources give no direction.
    """
    layers = candidate_layers(annotator.depth)
    made = plan(annotator, sources, progress)
    main = sum(note.source == 0 for note in made.notes)
    if main < 2 * MIN_ROWS:
        raise UnfitData(f"{main} pairs to train on are too few to fit directions; at least {2 * MIN_ROWS} are needed")
    rows = gather(made, layers, request_layer(annotator), (), progress)
    rows = rows.part(~torch.isin(rows.balance, unseen))
    method = Method(by_prompt=True, threads=annotator.passes)
    found = cross_validate(rows, method).log_odds[rows.sources == 0]
    return CrossFitted(found, sum(part.group.size for part in made.parts), layers)
