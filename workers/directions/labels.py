"""Single responses with labels of their own, made into rows that read like differences.

Among responses to one prompt whose labels differ, the row of a response is twice its distance from the middle between
the safer and the less safe ones, towards the safer side. Responses whose prompt shows one label only are taken together
with all others of their source. Graded labels count by their distance from the middle grade.
"""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from workers.directions.errors import UnfitData
from workers.directions.rows import Rows


def centre(rows: Rows, labels: Sequence[float | None]) -> Rows:
    """Rows in which those with a label have become differences; a response right in the middle weighs nothing.

    Args:
        rows: a labelled response's row is its activations yet; changed in place.
        labels: [n] label of each row, None where it is a difference already.

    Raises:
        UnfitData: all labels of a source are equal.
    """
    values = torch.tensor([float("nan") if label is None else label for label in labels], dtype=torch.double)
    weights, lengths, refusals, controls = (
        values.clone() for values in (rows.weights, rows.lengths, rows.refusals, rows.controls)
    )
    groups, lost = _groups(rows, values)
    weights[lost] = 0
    for members in groups:
        grades = values[members] - _middle(values[members])
        sides = grades.sign().float()
        weights[members] *= grades.abs() / grades.abs().mean()
        for value in (rows.differences, lengths, refusals, controls):
            _towards_safer(value, members, sides)
    return replace(rows, weights=weights, lengths=lengths, refusals=refusals, controls=controls).part(weights > 0)


def _groups(rows: Rows, values: Tensor) -> tuple[list[Tensor], Tensor]:
    """Indices of the rows that are compared with each other, and of those that have nothing to be compared with."""
    groups: list[Tensor] = []
    lost = [torch.zeros(0, dtype=torch.long)]
    for source in torch.unique(rows.sources[~values.isnan()]):
        members = ((rows.sources == source) & ~values.isnan()).nonzero()[:, 0]
        if len(torch.unique(values[members])) < 2:
            raise UnfitData("all labels of a source are equal: they tell nothing apart")
        families = [members[rows.families[members] == family] for family in torch.unique(rows.families[members])]
        differing = [len(torch.unique(values[family])) > 1 for family in families]
        groups += [family for family, differs in zip(families, differing, strict=True) if differs]
        rest = torch.cat([lost[0], *(f for f, differs in zip(families, differing, strict=True) if not differs)])
        (groups if len(torch.unique(values[rest])) > 1 else lost).append(rest)
    return groups, torch.cat(lost)


def _middle(labels: Tensor) -> float:
    """Halfway between the mean of the labels above the overall mean and that of those below."""
    mean = labels.mean()
    return float(labels[labels > mean].mean() + labels[labels < mean].mean()) / 2


def _towards_safer(values: Tensor, members: Tensor, sides: Tensor) -> None:
    """Replace [n, …] values of the members by twice their distance from the middle, signed towards the safer side."""
    own = values[members]
    middle = (own[sides > 0].mean(dim=0) + own[sides < 0].mean(dim=0)) / 2
    shape = (-1, *[1] * (own.ndim - 1))
    values[members] = 2 * sides.view(shape) * (own - middle)
