"""The plain way: transformers alone, one sequence at a time, every hidden state. What the engine is checked against."""

from collections.abc import Sequence

import torch
from torch import Tensor

from workers.engine import attention
from workers.engine.annotator import Annotator
from workers.engine.forward import pooling_weights
from workers.engine.packing import Group, Layout
from workers.engine.sites import Site

TOLERANCES = {"float32": 1e-4, "float16": 1e-2, "bfloat16": 5e-2}
"""Largest distance allowed between the engine's and the plain activations, relative to their length, by dtype."""


@torch.inference_mode()
def read_plainly(annotator: Annotator, groups: Sequence[Group], sites: Sequence[Site]) -> Tensor:
    """What `forward.read` returns, computed by transformers' own eager attention and `output_hidden_states`.

    Not for use while other threads read: the attention implementation is exchanged meanwhile.
    """
    annotator.model.set_attn_implementation("eager")
    try:
        single = [_sequence(group, k) for group in groups for k in range(len(group.branches))]
        return torch.stack([_read_one(annotator, group, sites) for group in single])
    finally:
        annotator.model.set_attn_implementation(attention.NAME)


def disagreement(ours: Tensor, plain: Tensor) -> float:
    """Largest relative distance between two [n, S, d] readings."""
    distance = (ours - plain).norm(dim=-1) / plain.norm(dim=-1).clamp(min=1e-12)
    return float(distance.max())


def _sequence(group: Group, branch: int) -> Group:
    return Group(group.prefix, (group.branches[branch],), group.prompt, group.request)


def _read_one(annotator: Annotator, group: Group, sites: Sequence[Site]) -> Tensor:
    layout = Layout.of([group], annotator.device)
    before_norm: list[Tensor] = []
    last_block = annotator.module_at(annotator.depth - 1)
    handle = last_block.register_forward_hook(lambda _m, _i, output: before_norm.append(output))
    try:
        states = annotator.decoder(layout.tokens[None], output_hidden_states=True, use_cache=False).hidden_states
    finally:
        handle.remove()
    rows = []
    for site in sites:
        hidden = before_norm[0] if site.layer == annotator.depth - 1 else states[min(site.layer + 1, annotator.depth)]
        rows.append((pooling_weights(layout, site.pooling).to(hidden.device) @ hidden[0].float())[0].cpu())
    return torch.stack(rows)
