"""What the annotator would say next: the one use of its vocabulary head besides generation."""

from collections.abc import Sequence

import torch
from torch import Tensor

from workers.engine.annotator import Annotator
from workers.engine.attention import packed
from workers.engine.packing import Group, Layout


@torch.inference_mode()
def next_token(annotator: Annotator, groups: Sequence[Group]) -> Tensor:
    """How likely each token is to follow each branch of one packed batch.

    All layers run; the vocabulary head sees only the last token of every branch.

    Returns:
        [n, V] float32 probabilities on the annotator's device, n the branches of all groups in order.
    """
    layout = Layout.of(groups, annotator.device)
    last = layout.branch_rows.gather(1, layout.branch_lengths[:, None] - 1)[:, 0]
    with packed(layout, annotator.dtype):
        output = annotator.model(
            input_ids=layout.tokens[None],
            position_ids=layout.positions[None],
            use_cache=False,
            logits_to_keep=last,
        )
    probabilities: Tensor = output.logits[0].float().softmax(dim=-1)
    return probabilities
