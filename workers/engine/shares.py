"""What every token has in the pooled activations of its response, before they are added up."""

from collections.abc import Sequence

import torch
from torch import Tensor

from workers.engine.accelerator import awaited, turn
from workers.engine.annotator import Annotator
from workers.engine.attention import inputs, lay_out, packed
from workers.engine.forward import pooling_weights
from workers.engine.memory import within_memory
from workers.engine.packing import Group, in_half
from workers.engine.sites import Site
from workers.engine.taps import recording


def shares(annotator: Annotator, group: Group, sites: Sequence[Site]) -> list[Tensor]:
    """What `read` would pool, token by token.

    Args:
        annotator: the loaded model.
        group: a prompt with K responses.
        sites: S places to read.

    Returns:
        For each response [t, S, d] float32 on the CPU, t its tokens with the end of its turn. At a site of the response
        the rows add up to what `read` gives for it; at one of the prompt every row is what `read` gives.

    Raises:
        OutOfMemory: memory does not suffice for one response.
    """
    parts = within_memory(annotator.budget, lambda some: _shares(annotator, some, sites), [group], _tokens, in_half)
    return [own for part in parts for own in part]


def _tokens(groups: Sequence[Group]) -> int:
    return sum(group.size for group in groups)


@torch.inference_mode()
def _shares(annotator: Annotator, groups: Sequence[Group], sites: Sequence[Site]) -> list[Tensor]:
    layout = lay_out(groups, annotator.device)
    layers = sorted({site.layer for site in sites})
    with packed(layout), turn(annotator.device):
        with recording(layers, lambda _layer, hidden: hidden.to(torch.float32, copy=True)) as hidden:
            annotator.decoder(**inputs(layout))
        fetch = awaited(torch.stack([hidden[layer].to(annotator.device) for layer in layers]))
    every = dict(zip(layers, fetch(), strict=True))
    weights = {site.pooling: pooling_weights(layout, site.pooling).cpu() for site in sites}
    rows, lengths = layout.branch_rows.cpu(), layout.branch_lengths.tolist()
    found = []
    for response, length in enumerate(lengths):
        own = rows[response, :length]
        parts = [_share(every[site.layer], weights[site.pooling][response], own, site) for site in sites]
        found.append(torch.stack(parts, dim=1))
    return found


def _share(hidden: Tensor, weights: Tensor, rows: Tensor, site: Site) -> Tensor:
    """[t, d] of one site, from the [T, d] activations of its layer and the [T] weights of its pooling."""
    if site.pooling == "request":
        return (weights @ hidden).expand(len(rows), -1)
    return hidden[rows] * weights[rows, None]
