"""The forward pass up to the last layer that anyone reads."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import torch
from torch import Tensor, nn

from workers.engine.annotator import Annotator
from workers.engine.attention import packed
from workers.engine.packing import Group, Layout, pack
from workers.engine.sites import Pooling, Site


class _DeepEnough(Exception):
    """Leaves the model's forward pass once the last wanted layer has spoken."""


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
    deepest = max(site.layer for site in sites)
    layers = {site.layer for site in sites}
    recording = _recording(annotator, layers, deepest)
    with recording as activations, packed(layout, annotator.dtype), suppress(_DeepEnough):
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
    """Pooled activations of any number of groups, batch by batch.

    Args:
        annotator: the loaded model.
        groups: prompts with their responses.
        sites: S places to read.
        progress: told after every batch how many groups are read.

    Returns:
        One [K, S, d] float32 tensor on the CPU for each group, in the order given.
    """
    readings: dict[int, Tensor] = {}
    for batch in pack(groups, annotator.budget):
        pooled = read(annotator, [groups[i] for i in batch], sites).cpu()
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


@contextmanager
def _recording(annotator: Annotator, layers: set[int], deepest: int) -> Iterator[dict[int, Tensor]]:
    """Collect the [T, d] output of `layers`; the hook on the deepest one ends the pass. Hooks are always removed."""
    activations: dict[int, Tensor] = {}

    def hook(layer: int) -> Any:
        def record(_module: nn.Module, _inputs: Any, output: Tensor | tuple[Tensor, ...]) -> None:
            hidden = output if isinstance(output, Tensor) else output[0]
            activations[layer] = hidden[0]
            if layer == deepest:
                raise _DeepEnough

        return record

    handles = [annotator.module_at(layer).register_forward_hook(hook(layer)) for layer in sorted(layers)]
    try:
        yield activations
    finally:
        for handle in handles:
            handle.remove()
