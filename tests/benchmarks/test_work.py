import pytest
from transformers import LlamaConfig

from benchmarks.work import Shape, paired, separate, sequences
from workers.engine.packing import Branch, Group

# A prompt of 3 tokens with responses of 2 and 1 tokens.
GROUP = Group(prefix=(1, 2, 3), branches=(Branch((4, 5), 1), Branch((6,), 0)), prompt=3, request=(0, 3))
SHAPE = Shape(layers=2, weights=10, channels=4, keyed=3)


def test_the_prompt_counts_once_and_in_the_last_layer_only_its_keys_and_values() -> None:
    prompt, responses = 1 + 2 + 3, (4 + 5) + 4  # looks of the prompt's tokens, of either response's
    first = 2 * 10 * 6 + 4 * 4 * (prompt + responses)
    last = 2 * 3 * 3 + 2 * 10 * 3 + 4 * 4 * responses
    assert paired(SHAPE, [GROUP]) == first + last


def test_separate_sequences_count_the_prompt_for_each() -> None:
    looks = (1 + 2 + 3 + 4 + 5) + (1 + 2 + 3 + 4)
    assert [len(sequence) for sequence in sequences(GROUP)] == [5, 4]
    assert separate(SHAPE, [GROUP]) == 2 * (2 * 10 * 9 + 4 * 4 * looks)


def test_the_vocabulary_head_is_multiplied_with_every_token() -> None:
    spoken = Shape(layers=2, weights=10, channels=4, keyed=3, head=100)
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
    assert Shape.of(config, 2, head=head) == Shape(2, weights, queries, keyed=2 * 8 * keys, head=50 * 8 if head else 0)
