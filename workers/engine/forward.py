"""The forward pass up to the last layer that anyone reads."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from workers.engine.annotator import Annotator
from workers.engine.attention import packed
from workers.engine.packing import Group, Layout, pack
from workers.engine.process import side_by_side
from workers.engine.sites import Pooling, Site
from workers.engine.taps import recording


@torch.inference_mode()
def read(annotator: Annotator, groups: Sequence[Group], sites: Sequence[Site]) -> Tensor:
    """Pooled activations of every response in one packed batch.

    Layers behind the deepest site, the final norm (unless read), the vocabulary head and a KV cache are never touched.

    Args:
        annotator: the loaded model.
        groups: prompts with their responses; all of their tokens go through together.
        sites: S places to read.

    Returns:
        [n, S, d] float32 on the annotator's device, n the responses of all groups in order.
    """
    layout = Layout.of(groups, annotator.device)
    layers = {site.layer for site in sites}
    with packed(layout, annotator.dtype), recording(layers) as activations:
        annotator.decoder(input_ids=layout.tokens[None], position_ids=layout.positions[None], use_cache=False)
    weights = {pooling: pooling_weights(layout, pooling) for pooling in {site.pooling for site in sites}}
    exact = {layer: hidden.float() for layer, hidden in activations.items()}
    return torch.stack([weights[site.pooling] @ exact[site.layer] for site in sites], dim=1)


def read_all(
    annotator: Annotator,
    groups: Sequence[Group],
    sites: Sequence[Site],
    progress: Callable[[int], None] = lambda _done: None,
) -> list[Tensor]:
    """Pooled activations of any number of groups, batch by batch, `annotator.passes` of them side by side.

    Args:
        annotator: the loaded model.
        groups: prompts with their responses.
        sites: S places to read.
        progress: told after every batch how many groups are read.

    Returns:
        One [K, S, d] float32 tensor on the CPU for each group, in the order given.
    """
    batches = list(pack(groups, annotator.budget))
    readings: dict[int, Tensor] = {}

    def read_batch(batch: list[int]) -> Tensor:
        return read(annotator, [groups[i] for i in batch], sites).cpu()

    with side_by_side(annotator.passes) as pool:
        for batch, pooled in zip(batches, pool.map(read_batch, batches), strict=True):
            parts = torch.split(pooled, [len(groups[i].branches) for i in batch])
            readings.update(zip(batch, parts, strict=True))
            progress(len(readings))
    return [readings[i] for i in range(len(groups))]


def pooling_weights(layout: Layout, pooling: Pooling) -> Tensor:
    """How a pooling weighs the tokens of a packed batch.

    Args:
        layout: where the responses are.
        pooling: `mean` over the response, its `last` token, or its `end_of_turn` token. An empty response is read at
            its end of turn whatever the pooling.

    Returns:
        [n, T] float32, every row summing to 1; times [T, d] activations it gives one vector a response.
    """
    rows = layout.branch_rows
    counts = layout.contents.clamp(min=1)[:, None]
    steps = torch.arange(rows.shape[1], device=rows.device)
    weights = torch.zeros(len(rows), len(layout.tokens), device=rows.device)
    if pooling == "mean":
        share = (steps < counts) / counts
    elif pooling == "last":
        share = (steps == counts - 1).float()
    else:
        share = (steps == layout.branch_lengths[:, None] - 1).float()
    return weights.scatter_add_(1, rows, share)
