"""How much arithmetic a forward pass needs: what a share of the machine's matrix rate is a share of."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

import torch
from transformers import AutoModelForCausalLM, PretrainedConfig

from workers.engine.packing import Group


@dataclass(frozen=True)
class Shape:
    """What a decoder's arithmetic depends on.

    Attributes:
        layers: blocks that are executed.
        weights: numbers in the matrices of one block; each is multiplied with every token.
        channels: heads times their width, what queries and values of a token hold.
        keyed: numbers in those of a block's matrices that make keys and values.
        head: numbers in the vocabulary head where it is executed, else 0.
    """

    layers: int
    weights: int
    channels: int
    keyed: int = 0
    head: int = 0

    @classmethod
    def of(cls, config: PretrainedConfig, layers: int, *, head: bool = False) -> "Shape":
        """The shape of a dense decoder that stops after so many layers.

        The matrices are counted in a model without storage, so that fusing or quantising them changes no count.
        """
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config)
        text = config.get_text_config()
        blocks = next(m for m in model.modules() if isinstance(m, torch.nn.ModuleList))
        width = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
        keys = getattr(text, "num_key_value_heads", None) or text.num_attention_heads
        return cls(
            layers=layers,
            weights=sum(parameter.numel() for parameter in blocks[0].parameters() if parameter.ndim == 2),
            channels=text.num_attention_heads * width,
            keyed=2 * keys * width * text.hidden_size,
            head=text.vocab_size * text.hidden_size if head else 0,
        )


def paired(shape: Shape, groups: Iterable[Group]) -> int:
    """FLOPs of groups whose prompt is computed once, and of which nobody reads more than the responses.

    With N tokens (prompts once, then responses), W weights in a block's matrices, C attention channels and A pairs of
    tokens that may look at each other, a layer needs

        2 · W · N + 4 · C · A

    A multiplication and an addition are two; attention multiplies every such pair once for the score and once for the
    value. A prompt of P tokens has P(P + 1)/2 pairs, a response of R tokens R · P + R(R + 1)/2. The last layer needs of
    prompts no more than keys and values. What a rectangle computes beyond that is no work, nor are norms, rotary
    embedding, softmax or copies: they show as a lower share.
    """
    prompts = responses = looks = answered = 0
    for group in groups:
        prompt = len(group.prefix)
        prompts += prompt
        looks += prompt * (prompt + 1) // 2
        for branch in group.branches:
            response = len(branch.tokens)
            responses += response
            answered += response * prompt + response * (response + 1) // 2
    whole = _flops(replace(shape, layers=shape.layers - 1), prompts + responses, looks + answered)
    return whole + 2 * shape.keyed * prompts + _flops(replace(shape, layers=1, head=0), responses, answered)


def separate(shape: Shape, groups: Iterable[Group]) -> int:
    """FLOPs of the same groups where every response brings its own prompt; padding is no work."""
    lengths = [len(sequence) for group in groups for sequence in sequences(group)]
    return _flops(shape, sum(lengths), sum(length * (length + 1) // 2 for length in lengths))


def sequences(group: Group) -> Iterator[tuple[int, ...]]:
    """The whole token sequence of every response."""
    return (group.prefix + branch.tokens for branch in group.branches)


def _flops(shape: Shape, tokens: int, looks: int) -> int:
    return shape.layers * (2 * shape.weights * tokens + 4 * shape.channels * looks) + 2 * shape.head * tokens
