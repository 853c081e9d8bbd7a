"""Attention of packed rows on CUDA devices: FlexAttention, which skips the blocks of keys that none of a block sees.

The row stays as it is, and nothing is copied or padded but its end.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, flex_attention

from workers.engine.accelerator import sent
from workers.engine.sight import Sight

_BLOCK = 128
_KERNELS = 64

MULTIPLE = 2 * _BLOCK
"""Rows are padded to a multiple of this: whole blocks, and never one alone, which would be compiled as a case apart."""


def serves(device: torch.device) -> bool:
    """Whether attention on this device is done here."""
    return device.type == "cuda"


@dataclass(frozen=True)
class Blocks:
    """Sight of a packed row as the kernel takes it; all layers of a pass with the same window on one device share it.

    Attributes:
        first, last, own: [T] int32, as in `Sight`.
        counts, indices: [1, 1, B] and [1, 1, B, B] int32, as `Sight.blocks` gives them.
    """

    first: Tensor
    last: Tensor
    own: Tensor
    counts: Tensor
    indices: Tensor

    @classmethod
    def of(cls, sight: Sight, device: torch.device) -> "Blocks":
        """On a device."""
        counts, indices = sight.blocks(_BLOCK)
        parts = (sight.first, sight.last, sight.own, counts[None, None], indices[None, None])
        return cls(*(sent(part, device) for part in parts))


def attend(query: Tensor, key: Tensor, value: Tensor, scale: float, blocks: Blocks) -> Tensor:
    """Softmax attention of a packed row.

    Args:
        query: [1, heads, T, head_dim]; key and value: [1, kv_heads, T, head_dim].
        scale: of the products.
        blocks: who sees whom.

    Returns:
        [1, T, heads, head_dim].
    """
    kernel = _attend if query.device.type == "cpu" else _compiled()
    parts = (blocks.first, blocks.last, blocks.own, blocks.counts, blocks.indices)
    return kernel(query, key, value, scale, *parts).transpose(1, 2)


@cache
def _compiled() -> Callable[..., Tensor]:
    """The kernel: compiled for the length of the first row it meets, and then, for each device, once for all lengths.

    It takes tensors alone, also where a window makes the difference, as anything else would be compiled into it. Past
    the limit, as where it cannot be compiled whole, there is an error: uncompiled it would hold [T, T] scores.
    """
    compiled: Callable[..., Tensor]
    compiled = torch.compile(_attend, fullgraph=True, recompile_limit=_KERNELS)  # type: ignore[call-overload]
    return compiled


def _attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    scale: float,
    first: Tensor,
    last: Tensor,
    own: Tensor,
    counts: Tensor,
    indices: Tensor,
) -> Tensor:
    def sees(_batch: Tensor, _head: Tensor, q: Tensor, k: Tensor) -> Tensor:
        return (k <= q) & ((k >= own[q]) | ((k >= first[q]) & (k < last[q])))

    mask = BlockMask.from_kv_blocks(counts, indices, BLOCK_SIZE=_BLOCK, mask_mod=sees, compute_q_blocks=False)
    grouped = query.shape[1] != key.shape[1]
    return flex_attention(query, key, value, block_mask=mask, scale=scale, enable_gqa=grouped)
