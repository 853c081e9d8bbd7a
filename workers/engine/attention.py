"""Attention for packed groups, behind transformers' attention interface; outside a packed pass it is transformers' own.

Every prompt attends within itself once; every response attends to its prompt and to itself, and the prompt's keys and
values are never computed twice. On CUDA devices by FlexAttention (`flex`), elsewhere by products over tiles (`dense`).
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from workers.engine import flex, tiles
from workers.engine.dense import Heads, Plan
from workers.engine.packing import Group, Layout
from workers.engine.sight import Sight

NAME = "safemargin_paired"
"""The name to pass as `attn_implementation`."""

_current: ContextVar["_Batch"] = ContextVar("safemargin_layout")


class _Batch:
    """A layout with what the layers of one forward pass share: plans of products, or blocks on each device."""

    def __init__(self, layout: Layout, last: int | None) -> None:
        self.layout = layout
        self.last = last
        self._tiles: dict[bool, list[tiles.Tile]] = {}
        self._plans: dict[tuple[Any, ...], Plan] = {}
        self._sight = Sight.of(layout.groups, len(layout.tokens)) if flex.serves(layout.tokens.device) else None
        self._blocks: dict[tuple[int | None, torch.device], flex.Blocks] = {}

    def plan(self, window: int | None, heads: Heads, device: torch.device, *, prompts: bool) -> Plan:
        """Products for layers with this sliding window and these heads; of the responses alone if not of `prompts`."""
        if prompts not in self._tiles:
            self._tiles[prompts] = tiles.joined(tiles.pieces(self.layout.groups, prompts=prompts))
        known = (window, heads, device, prompts)
        if known not in self._plans:
            self._plans[known] = Plan(self._tiles[prompts], len(self.layout.tokens), heads, window, device)
        return self._plans[known]

    def blocks(self, window: int | None, device: torch.device) -> flex.Blocks | None:
        """Blocks for layers with this sliding window on this device; None where there is a plan."""
        if self._sight is None:
            return None
        if (window, device) not in self._blocks:
            self._blocks[window, device] = flex.Blocks.of(self._sight.within(window), device)
        return self._blocks[window, device]


def lay_out(groups: Sequence[Group], device: torch.device) -> Layout:
    """Groups in the order given, laid out as attention on this device takes them.

    On a CPU all is rounded up a little so that sizes repeat: oneDNN prepares a product anew for every size, and what it
    prepared is kept for long, scattered over the memory that passes work in, which slows all of them.
    """
    if flex.serves(device):
        return Layout.of(groups, device, flex.MULTIPLE)
    return Layout.of(groups, device, tiles.MULTIPLE if device.type == "cpu" else 1)


def inputs(layout: Layout) -> dict[str, Any]:
    """What the model is called with to compute a layout inside `packed`."""
    given = {"input_ids": layout.tokens[None], "position_ids": layout.positions[None], "use_cache": False}
    if flex.serves(layout.tokens.device):
        # Nobody reads it. Where there is none, transformers looks whether positions start anew, and to look at numbers
        # on a CUDA device is to wait for all that was launched before.
        given["attention_mask"] = layout.tokens.new_empty(1, 1, 1, 1)
    return given


@contextmanager
def packed(layout: Layout, last: int | None = None) -> Iterator[None]:
    """Run forward passes inside this block over `layout`.

    Args:
        layout: what is computed.
        last: a block behind which nothing runs, and of whose output nothing but the responses is read: of the prompts
            it computes what the responses need, and maybe no more.
    """
    token = _current.set(_Batch(layout, last))
    try:
        yield
    finally:
        _current.reset(token)


def in_packed_pass() -> bool:
    """Whether this is inside `packed`."""
    return _current.get(None) is not None


def rows_that_count(block: int, x: Tensor) -> Tensor | None:
    """Those of a block's [1, T, d] activations that anyone reads, [m] indices; None where all do, or x is no such."""
    batch = _current.get(None)
    if batch is None or batch.last != block or x.shape[:-1] != (1, len(batch.layout.tokens)):
        return None
    return batch.layout.answers


def paired_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    **options: Any,
) -> tuple[Tensor, None]:
    """Attention over the current layout, or plain attention where there is none; called by transformers.

    Args:
        query: [1, heads, T, head_dim]; key and value: [1, kv_heads, T, head_dim].

    Returns:
        [1, T, heads, head_dim], and no weights.

    Raises:
        NotImplementedError: the model wants something this attention does not do (soft capping, sinks).
    """
    unknown = [name for name in ("softcap", "s_aux", "sinks") if options.get(name) is not None]
    if unknown:
        raise NotImplementedError(f"packed attention does not support {', '.join(unknown)}")
    batch = _current.get(None)
    if batch is None:
        options |= {"scaling": scaling, "dropout": dropout, "sliding_window": sliding_window}
        return cast(tuple[Tensor, None], sdpa_attention_forward(module, query, key, value, attention_mask, **options))
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    if blocks := batch.blocks(sliding_window, query.device):
        return flex.attend(query, key, value, scale, blocks), None
    heads = Heads(query.shape[1], key.shape[1])
    ending = batch.last is not None and batch.last == getattr(module, "layer_idx", None)
    return batch.plan(sliding_window, heads, query.device, prompts=not ending).attend(query, key, value, scale), None


def _mask(*arguments: Any, **options: Any) -> Tensor | None:
    """Packed passes make their own masks."""
    return None if in_packed_pass() else cast(Tensor | None, sdpa_mask(*arguments, **options))


AttentionInterface.register(NAME, paired_attention)
AttentionMaskInterface.register(NAME, _mask)
