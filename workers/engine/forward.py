"""The forward pass up to the last layer that anyone reads."""

from collections.abc import Callable, Iterator, Mapping, Sequence

import torch
from torch import Tensor

from workers.engine.accelerator import awaited, turn
from workers.engine.annotator import Annotator
from workers.engine.attention import inputs, lay_out, packed
from workers.engine.memory import within_memory
from workers.engine.packing import Group, Layout, in_half, pack
from workers.engine.process import side_by_side
from workers.engine.sites import Pooling, Site
from workers.engine.taps import recording

_AHEAD = 32


def read(annotator: Annotator, groups: Sequence[Group], sites: Sequence[Site]) -> Tensor:
    """Pooled activations of every response in one packed batch.

    Layers behind the deepest site, the final norm (unless read), the vocabulary head and a KV cache are never touched.

    Args:
        annotator: the loaded model.
        groups: prompts with their responses; all of their tokens go through together, if memory suffices.
        sites: S places to read.

    Returns:
        [n, S, d] float32 on the CPU, n the responses of all groups in order.

    Raises:
        OutOfMemory: memory does not suffice for one response.
    """
    return by_memory(annotator, groups, lambda some: _read(annotator, some, sites))


def by_memory(annotator: Annotator, groups: Sequence[Group], run: Callable[[Sequence[Group]], Tensor]) -> Tensor:
    """What `run` makes of the n responses of some groups, [n, …], in as many passes as memory asks for.

    Raises:
        OutOfMemory: it does not suffice for one response.
    """
    return torch.cat(within_memory(annotator.budget, run, groups, _tokens, in_half))


def _tokens(groups: Sequence[Group]) -> int:
    return sum(group.size for group in groups)


@torch.inference_mode()
def _read(annotator: Annotator, groups: Sequence[Group], sites: Sequence[Site]) -> Tensor:
    layout = lay_out(groups, annotator.device)
    pools = _Pools(layout, sites)
    last = pools.last if annotator.numbered else None
    with packed(layout, last), turn(annotator.device):
        with recording(pools.poolings, pools.pool) as pooled:
            annotator.decoder(**inputs(layout))
        fetch = awaited(torch.stack([pools.at(site, pooled).to(annotator.device) for site in sites], dim=1))
    return fetch()


class _Pools:
    """Which poolings each layer is read with, and what they weigh on each device."""

    def __init__(self, layout: Layout, sites: Sequence[Site]) -> None:
        self.poolings: dict[int, list[Pooling]] = {}
        for site in dict.fromkeys(sites):
            self.poolings.setdefault(site.layer, []).append(site.pooling)
        self._layout = layout
        self._weights: dict[tuple[Pooling, torch.device], Tensor] = {}

    @property
    def last(self) -> int | None:
        """The deepest layer, if only responses are read there."""
        deepest = max(self.poolings)
        return None if "request" in self.poolings[deepest] else deepest

    def pool(self, layer: int, hidden: Tensor) -> Tensor:
        """[P, n, d] float32 of a layer's [T, d] by its P poolings."""
        return means([self._weigh(pooling, hidden.device) for pooling in self.poolings[layer]], hidden)

    def at(self, site: Site, pooled: Mapping[int, Tensor]) -> Tensor:
        """[n, d] of one site, of what `pool` gave for all layers."""
        return pooled[site.layer][self.poolings[site.layer].index(site.pooling)]

    def _weigh(self, pooling: Pooling, device: torch.device) -> Tensor:
        if (pooling, device) not in self._weights:
            self._weights[pooling, device] = pooling_weights(self._layout, pooling).to(device)
        return self._weights[pooling, device]


def means(weights: Sequence[Tensor], hidden: Tensor) -> Tensor:
    """[P, n, d] float32 means of [T, d] activations by P poolings' [n, T] weights, each row of which are equal or zero.

    Of half precision on an accelerator, where a float32 copy of a large pass costs more than its means, it is the sum
    in float32 of the numbers themselves that is taken, by one product for all poolings.
    """
    if hidden.device.type == "cpu" or hidden.dtype == torch.float32:
        exact = hidden.float()
        return torch.stack([own @ exact for own in weights])
    every = torch.stack(list(weights))
    sums = torch.mm((every > 0).flatten(0, 1).to(hidden.dtype), hidden, out_dtype=torch.float32)
    return sums.view(*every.shape[:2], -1) * every.amax(dim=2, keepdim=True)


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
    batches = list(pack(groups, annotator.budget.tokens))
    done = 0

    def read_batch(batch: list[int]) -> Tensor:
        return read(annotator, [groups[i] for i in batch], sites)

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
