"""What the annotator would say next: the one use of its vocabulary head besides generation."""

from collections.abc import Sequence

import torch
from torch import Tensor

from workers.engine.accelerator import turn
from workers.engine.annotator import Annotator
from workers.engine.attention import inputs, lay_out, packed
from workers.engine.forward import by_memory
from workers.engine.packing import Group


def next_token(annotator: Annotator, groups: Sequence[Group]) -> Tensor:
    """How likely each token is to follow each branch of one packed batch.

    All layers run; the vocabulary head sees only the last token of every branch.

    Returns:
        [n, V] float32 probabilities on the annotator's device, n the branches of all groups in order.

    Raises:
        OutOfMemory: memory does not suffice for one branch.
    """
    return by_memory(annotator, groups, lambda some: _next_token(annotator, some))


@torch.inference_mode()
def _next_token(annotator: Annotator, groups: Sequence[Group]) -> Tensor:
    layout = lay_out(groups, annotator.device)
    last = layout.branch_rows.gather(1, layout.branch_lengths[:, None] - 1)[:, 0]
    with packed(layout), turn(annotator.device):
        output = annotator.model(**inputs(layout), logits_to_keep=last.to(annotator.devices[-1]))
        probabilities: Tensor = output.logits[0].float().softmax(dim=-1)
    return probabilities
