"""Attention for packed groups, behind transformers' attention interface; outside a packed pass it is transformers' own.

Every prompt attends within itself once; every response attends to its prompt and to itself. Two rectangles a layer
instead of one square over the whole batch, and the prompt's keys and values are never computed twice. On CUDA devices
`flex` does the same without rectangles.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from workers.engine import flex
from workers.engine.packing import Group, Layout
from workers.engine.sight import Sight

NAME = "safemargin_paired"
"""The name to pass as `attn_implementation`."""

MULTIPLE = 16
"""Rows, and the sides of attention's rectangles, are padded to a multiple of this on a CPU, so that sizes repeat."""

_DIRECT_LIMIT = 1024
_FAR = 1e25
_current: ContextVar["_Batch"] = ContextVar("safemargin_layout")


class _Batch:
    """A layout with the masks that the layers of one forward pass share: additive ones, or blocks on each device."""

    def __init__(self, layout: Layout, dtype: torch.dtype, last: int | None) -> None:
        self.layout = layout
        self.last = last
        self._dtype = dtype
        self._masks: dict[int | None, tuple[Tensor, Tensor]] = {}
        self._sight = Sight.of(layout.groups, len(layout.tokens)) if flex.serves(layout.tokens.device) else None
        self._blocks: dict[tuple[int | None, torch.device], flex.Blocks] = {}

    def masks(self, window: int | None) -> tuple[Tensor, Tensor]:
        """Masks of the prompts [1, P, P] and of the responses [n, R, P + R], for layers with this sliding window."""
        if window not in self._masks:
            self._masks[window] = tuple(_additive(m, self._dtype) for m in _allowed(self.layout, window))  # type: ignore[assignment]
        return self._masks[window]

    def blocks(self, window: int | None, device: torch.device) -> flex.Blocks | None:
        """Blocks for layers with this sliding window on this device; None where rectangles serve."""
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
    multiple = MULTIPLE if device.type == "cpu" else 1
    return Layout.of(groups, device, multiple, side=multiple)


def inputs(layout: Layout) -> dict[str, Any]:
    """What the model is called with to compute a layout inside `packed`."""
    given = {"input_ids": layout.tokens[None], "position_ids": layout.positions[None], "use_cache": False}
    if flex.serves(layout.tokens.device):
        # Nobody reads it. Where there is none, transformers looks whether positions start anew, and to look at numbers
        # on a CUDA device is to wait for all that was launched before.
        given["attention_mask"] = layout.tokens.new_empty(1, 1, 1, 1)
    return given


@contextmanager
def packed(layout: Layout, dtype: torch.dtype, last: int | None = None) -> Iterator[None]:
    """Run forward passes of a model of this dtype inside this block over `layout`.

    Args:
        layout: what is computed.
        dtype: the model's.
        last: a block behind which nothing runs, and of whose output nothing but the responses is read: of the prompts
            it computes what the responses need, and maybe no more.
    """
    token = _current.set(_Batch(layout, dtype, last))
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
    layout = batch.layout
    prefix_mask, branch_mask = batch.masks(sliding_window)
    q, k, v = query[0], key[0], value[0]
    prefix_k, prefix_v = _take(k, layout.prefix_rows), _take(v, layout.prefix_rows)
    branch_k, branch_v = _take(k, layout.branch_rows), _take(v, layout.branch_rows)
    if batch.last is not None and batch.last == getattr(module, "layer_idx", None):
        prefix = v.new_zeros(len(layout.groups), len(q), layout.prefix_rows.shape[1], v.shape[-1])
    else:
        prefix = _attend(_take(q, layout.prefix_rows), prefix_k, prefix_v, prefix_mask, scale)
    k_all = torch.cat([prefix_k[layout.parents], branch_k], dim=2)
    v_all = torch.cat([prefix_v[layout.parents], branch_v], dim=2)
    branch = _attend(_take(q, layout.branch_rows), k_all, v_all, branch_mask, scale)
    flat = torch.cat([_flatten(prefix), _flatten(branch)])
    return flat.index_select(0, layout.scatter)[None], None


def _take(x: Tensor, rows: Tensor) -> Tensor:
    """[heads, T, d] at [b, r] -> [b, heads, r, d]."""
    taken = x.index_select(1, rows.flatten())
    return taken.view(x.shape[0], *rows.shape, x.shape[2]).transpose(0, 1)


def _flatten(x: Tensor) -> Tensor:
    """[b, heads, r, d] -> [b * r, heads, d]."""
    return x.transpose(1, 2).reshape(-1, x.shape[1], x.shape[3])


def _attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor, scale: float) -> Tensor:
    """Softmax attention of q [b, h, r, d] over k, v [b, kv, s, d] with an additive mask [b or 1, r, s]."""
    batch, heads, rows, width = q.shape
    if q.device.type != "cpu" or k.shape[2] > _DIRECT_LIMIT:
        grouped = heads != k.shape[1]
        return scaled_dot_product_attention(q, k, v, attn_mask=mask[:, None], scale=scale, enable_gqa=grouped)
    # On a CPU two batched bf16 products around a softmax run at twice the speed of the fused kernel, and the heads
    # that share keys can share one product.
    shared = heads // k.shape[1]
    folded = q.reshape(batch, k.shape[1], shared * rows, width).flatten(0, 1) * scale
    keys, values = k.flatten(0, 1).transpose(1, 2), v.flatten(0, 1)
    weights, total = _exponentials(_scores(folded, keys, mask))
    if weights is None:
        return torch.bmm(_scores(folded, keys, mask).softmax(-1), values).view(batch, heads, rows, width)
    return (torch.bmm(weights, values) / total).view(batch, heads, rows, width)


def _scores(q: Tensor, k: Tensor, mask: Tensor) -> Tensor:
    """[b * kv, shared * r, s] of folded queries and keys, an additive mask [b or 1, r, s] applied."""
    scores = torch.bmm(q, k)
    scores.view(mask.shape[0], -1, *mask.shape[1:]).add_(mask[:, None])
    return scores


def _exponentials(scores: Tensor) -> tuple[Tensor | None, Tensor]:
    """Exponentials of scores, in place, and the sum of every row: a softmax, the division left to do.

    To subtract the largest score of each row first, as a softmax does, takes as long as all the rest. None where that
    is needed because a sum is not far from what the dtype can hold.
    """
    weights = scores.exp_()
    total = weights.sum(-1, keepdim=True)
    least, most = total.aminmax()
    roomy = torch.finfo(total.dtype).max > _FAR  # float16 is not
    return (weights if roomy and least > 1 / _FAR and most < _FAR else None), total


def _allowed(layout: Layout, window: int | None) -> tuple[Tensor, Tensor]:
    """Who may look at whom: in the prompts [1, P, P], from the responses at prompt and themselves [n, R, P + R]."""
    device = layout.tokens.device
    depth, width = layout.prefix_rows.shape[1], layout.branch_rows.shape[1]
    places, steps = torch.arange(depth, device=device), torch.arange(width, device=device)
    length = layout.prefix_lengths[layout.parents][:, None, None]
    causal = places <= places[:, None]
    own = (steps <= steps[:, None]).expand(len(layout.parents), width, width)
    prompt = (places < length).expand(-1, width, depth)
    if window is not None:
        causal = causal & (places[:, None] - places < window)
        own = own & (steps[:, None] - steps < window)
        prompt = prompt & (length + steps[:, None] - places < window)
    return causal[None], torch.cat([prompt, own], dim=2)


def _additive(allowed: Tensor, dtype: torch.dtype) -> Tensor:
    return torch.zeros(allowed.shape, dtype=dtype, device=allowed.device).masked_fill_(~allowed, float("-inf"))


def _mask(*arguments: Any, **options: Any) -> Tensor | None:
    """Packed passes make their own masks."""
    return None if in_packed_pass() else cast(Tensor | None, sdpa_mask(*arguments, **options))


AttentionInterface.register(NAME, paired_attention)
AttentionMaskInterface.register(NAME, _mask)
