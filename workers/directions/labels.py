"""Single responses with labels of their own, made into rows that read like differences.

Responses are compared in groups: those to one prompt whose labels differ, and small groups drawn from all the others of
their source, whose prompts show one label each. The row of a response is twice its distance from the middle between
the safer and the less safe ones of its group, towards the safer side; so the mean of a safer and a less safe response's
rows is their difference. A group is one family: its middle must not reach across a split. Graded labels count by their
distance from the middle grade.
"""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from workers.directions.errors import UnfitData
from workers.directions.rows import Rows

_SEED = 0


def centre(rows: Rows, labels: Sequence[float | None]) -> Rows:
    """Rows in which those with a label have become differences; a response right in the middle is left out.

    Args:
        rows: a labelled response's row is its activations yet; changed in place.
        labels: [n] label of each row, None where it is a difference already.

    Raises:
        UnfitData: all labels of a source are equal.
    """
    grades = torch.tensor([float("nan") if label is None else label for label in labels], dtype=torch.double)
    names = ("weights", "families", "lengths", "refusals", "controls", "groups", "sides")
    changed = {name: getattr(rows, name).clone() for name in names}
    for source in torch.unique(rows.sources[~grades.isnan()]):
        members = ((rows.sources == source) & ~grades.isnan()).nonzero()[:, 0]
        if len(torch.unique(grades[members])) < 2:
            raise UnfitData("all labels of a source are equal: they tell nothing apart")
        for group in _groups(rows.families, grades, members):
            distances = grades[group] - _middle(grades[group])
            sides = distances.sign()
            changed["weights"][group] *= distances.abs() / distances.abs().mean()
            together = torch.isin(changed["families"], changed["families"][group])
            changed["families"][together] = changed["families"][group].min()
            changed["groups"][group], changed["sides"][group] = int(group.min()), sides
            for values in (rows.differences, changed["lengths"], changed["refusals"], changed["controls"]):
                _towards_safer(values, group, sides)
    return replace(rows, **changed).part(grades.isnan() | (changed["sides"] != 0))


def _groups(families: Tensor, grades: Tensor, members: Tensor) -> list[Tensor]:
    """Indices of the rows that are compared with each other, a family (a prompt) never in two groups."""
    prompts = [members[families[members] == family] for family in torch.unique(families[members])]
    groups = [prompt for prompt in prompts if len(torch.unique(grades[prompt])) > 1]
    alike = [prompt for prompt in prompts if len(torch.unique(grades[prompt])) == 1]
    middle = grades[members].mean()
    source = torch.Generator().manual_seed(_SEED)
    order = torch.randperm(len(alike), generator=source).tolist()
    above = [alike[i] for i in order if grades[alike[i][0]] > middle]
    below = [alike[i] for i in order if grades[alike[i][0]] <= middle]
    few, many = sorted((above, below), key=len)
    return groups + [torch.cat([prompt, *many[i :: len(few)]]) for i, prompt in enumerate(few)]


def _middle(labels: Tensor) -> float:
    """Halfway between the mean of the labels above the overall mean and that of those below."""
    mean = labels.mean()
    return float(labels[labels > mean].mean() + labels[labels < mean].mean()) / 2


def _towards_safer(values: Tensor, members: Tensor, sides: Tensor) -> None:
    """Replace [n, …] values of the members by twice their distance from the middle, signed towards the safer side."""
    own = values[members]
    middle = (own[sides > 0].mean(dim=0) + own[sides < 0].mean(dim=0)) / 2
    values[members] = 2 * sides.to(own.dtype).view(-1, *[1] * (own.ndim - 1)) * (own - middle)
