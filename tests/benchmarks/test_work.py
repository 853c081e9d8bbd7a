import pytest
from transformers import LlamaConfig

from benchmarks.work import Shape, paired, separate, sequences
from workers.engine.packing import Branch, Group

# A prompt of 3 tokens with responses of 2 and 1 tokens.
GROUP = Group(prefix=(1, 2, 3), branches=(Branch((4, 5), 1), Branch((6,), 0)), prompt=3, request=(0, 3))
SHAPE = Shape(layers=2, weights=10, channels=4)


def test_the_prompt_counts_once() -> None:
    looks = (1 + 2 + 3) + (4 + 5) + 4  # of the prompt's tokens, of either response's
    assert paired(SHAPE, [GROUP]) == 2 * (2 * 10 * 6 + 4 * 4 * looks)


def test_separate_sequences_count_the_prompt_for_each() -> None:
    looks = (1 + 2 + 3 + 4 + 5) + (1 + 2 + 3 + 4)
    assert [len(sequence) for sequence in sequences(GROUP)] == [5, 4]
    assert separate(SHAPE, [GROUP]) == 2 * (2 * 10 * 9 + 4 * 4 * looks)


def test_the_vocabulary_head_is_multiplied_with_every_token() -> None:
    spoken = Shape(layers=2, weights=10, channels=4, head=100)
    assert separate(spoken, [GROUP]) - separate(SHAPE, [GROUP]) == 2 * 100 * 9


@pytest.mark.parametrize("head", [False, True])
def test_a_shape_counts_the_matrices_of_a_block(head: bool) -> None:
    config = LlamaConfig(
        vocab_size=50,
        hidden_size=8,
        intermediate_size=16,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=6,
    )
    queries, keys = 4 * 6, 2 * 6
    weights = 8 * queries + 2 * 8 * keys + queries * 8 + 3 * 8 * 16
    assert Shape.of(config, 2, head=head) == Shape(2, weights, queries, head=50 * 8 if head else 0)
