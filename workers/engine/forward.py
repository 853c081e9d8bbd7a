"""The forward pass up to the last layer that anyone reads."""

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from workers.engine.annotator import Annotator
from workers.engine.attention import packed
from workers.engine.packing import Group, Layout, pack
from workers.engine.process import side_by_side
from workers.engine.sites import Pooling, Site
from workers.engine.taps import recording

_AHEAD = 32


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


def read_each(
    annotator: Annotator,
    groups: Sequence[Group],
    sites: Sequence[Site],
    progress: Callable[[int], None] = lambda _done: None,
) -> Iterator[tuple[int, Tensor]]:
    """Pooled activations of any number of groups as they come, `annotator.passes` batches side by side.

    Args:
        annotator: the loaded model.
        groups: prompts with their responses.
        sites: S places to read.
        progress: told after every batch how many groups are read.

    Yields:
        Index of a group and its [K, S, d] float32 activations on the CPU, in an order that packs well.
    """
    batches = list(pack(groups, annotator.budget))
    done = 0

    def read_batch(batch: list[int]) -> Tensor:
        return read(annotator, [groups[i] for i in batch], sites).cpu()

    with side_by_side(annotator.passes) as pool:
        for start in range(0, len(batches), _AHEAD):
            some = batches[start : start + _AHEAD]
            for batch, pooled in zip(some, pool.map(read_batch, some), strict=True):
                yield from zip(batch, torch.split(pooled, [len(groups[i].branches) for i in batch]), strict=True)
                done += len(batch)
                progress(done)


def read_all(
    annotator: Annotator,
    groups: Sequence[Group],
    sites: Sequence[Site],
    progress: Callable[[int], None] = lambda _done: None,
) -> list[Tensor]:
    """What `read_each` gives, in the order of the groups: [K, S, d] for each."""
    readings = dict(read_each(annotator, groups, sites, progress))
    return [readings[i] for i in range(len(groups))]


def pooling_weights(layout: Layout, pooling: Pooling) -> Tensor:
    """How a pooling weighs the tokens of a packed batch.

    Args:
        layout: where the responses and their prompts are.
        pooling: `mean` over the response, its `last` token, or its `end_of_turn` token; an empty response is read at
            its end of turn whatever the pooling. `request`: mean over the last user turn before it; where truncation
            left nothing of that, the last token before the response.

    Returns:
        [n, T] float32, every row summing to 1; times [T, d] activations it gives one vector a response.
    """
    if pooling == "request":
        rows = layout.prefix_rows[layout.parents]
        starts, stops = layout.requests[layout.parents, :1], layout.requests[layout.parents, 1:]
    else:
        rows = layout.branch_rows
        contents, ends = layout.contents.clamp(min=1)[:, None], layout.branch_lengths[:, None]
        spans = {"mean": (0 * ends, contents), "last": (contents - 1, contents), "end_of_turn": (ends - 1, ends)}
        starts, stops = spans[pooling]
    steps = torch.arange(rows.shape[1], device=rows.device)
    share = ((steps >= starts) & (steps < stops)) / (stops - starts)
    weights = torch.zeros(len(rows), len(layout.tokens), device=rows.device)
    return weights.scatter_add_(1, rows, share)
