"""What comes next: only the last token of every branch meets the vocabulary head, and gives what a plain pass gives."""

import torch

from tests.conftest import encode
from workers.engine import attention
from workers.engine.annotator import Annotator
from workers.engine.answers import next_token


def test_a_packed_batch_gives_what_plain_transformers_gives_each_branch(annotator: Annotator) -> None:
    groups = [encode(annotator, "How do I sharpen a knife?", "Slowly.", "no", ""), encode(annotator, "hi", "b " * 30)]
    ours = next_token(annotator, groups)
    annotator.model.set_attn_implementation("eager")
    try:
        with torch.inference_mode():
            plain = [
                annotator.model(torch.tensor([[*group.prefix, *branch.tokens]])).logits[0, -1].softmax(dim=-1)
                for group in groups
                for branch in group.branches
            ]
    finally:
        annotator.model.set_attn_implementation(attention.NAME)
    assert ours.shape == (4, len(annotator.tokenizer))
    torch.testing.assert_close(ours, torch.stack(plain), atol=1e-6, rtol=1e-4)


def test_the_vocabulary_head_sees_one_token_a_branch(annotator: Annotator) -> None:
    seen: list[int] = []
    handle = annotator.model.lm_head.register_forward_pre_hook(lambda _module, inputs: seen.append(inputs[0].shape[1]))
    try:
        next_token(annotator, [encode(annotator, "hi", "a long answer " * 5, "short")])
    finally:
        handle.remove()
    assert seen == [2]
