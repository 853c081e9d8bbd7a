"""Attention by blocks, as on CUDA devices, here made to serve the CPU: it reads what tiles and transformers do."""

from typing import get_args

import pytest
import torch
from torch import Tensor
from torch._dynamo.testing import CompileCounter
from torch.nn.attention import flex_attention as kernels
from transformers import Qwen2Config, masking_utils

from tests.conftest import DEPTH, encode, tiny_annotator
from tests.workers.engine.test_attention import ARCHITECTURES, WINDOW, mixed
from tests.workers.engine.test_forward import CASES, groups_of
from workers.engine import flex
from workers.engine.annotator import Annotator
from workers.engine.answers import next_token
from workers.engine.attention import lay_out
from workers.engine.flex import Blocks
from workers.engine.forward import read
from workers.engine.packing import Branch, Group
from workers.engine.reference import TOLERANCES, disagreement, read_plainly
from workers.engine.sight import Sight
from workers.engine.sites import Pooling, Site

EVERYWHERE = [Site(layer, pooling) for layer in range(DEPTH + 1) for pooling in get_args(Pooling)]
CPU = torch.device("cpu")


@pytest.fixture
def blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks serve every device; on a CPU nothing is compiled."""
    monkeypatch.setattr(flex, "serves", lambda _device: True)
    monkeypatch.setattr(kernels, "_FLEX_ATTENTION_DISABLE_COMPILE_DEBUG", True)


def uneven(annotator: Annotator) -> list[Group]:
    five = encode(annotator, "hi", "a", "", "b " * 30, "c c c", "d " * 7)
    return [*mixed(annotator), five, encode(annotator, "And you? " * 9, "no")]


@pytest.mark.usefixtures("blocks")
@pytest.mark.parametrize("case", CASES)
def test_every_layer_and_pooling_reads_as_plain_transformers(annotator: Annotator, case: str) -> None:
    groups = groups_of(annotator, case)
    ours, plain = read(annotator, groups, EVERYWHERE), read_plainly(annotator, groups, EVERYWHERE)
    assert disagreement(ours, plain) <= TOLERANCES["float32"]


@pytest.mark.usefixtures("blocks")
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_grouped_heads_and_sliding_windows_read_as_plain_transformers(architecture: str) -> None:
    family, settings = ARCHITECTURES[architecture]
    annotator = tiny_annotator(family, **settings)
    groups = uneven(annotator)
    ours, plain = read(annotator, groups, EVERYWHERE), read_plainly(annotator, groups, EVERYWHERE)
    assert disagreement(ours, plain) <= TOLERANCES["float32"]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_blocks_read_what_tiles_read(architecture: str, request: pytest.FixtureRequest) -> None:
    family, settings = ARCHITECTURES[architecture]
    annotator = tiny_annotator(family, **settings)
    groups = uneven(annotator)
    activations, answers = read(annotator, groups, EVERYWHERE), next_token(annotator, groups)
    request.getfixturevalue("blocks")
    assert disagreement(read(annotator, groups, EVERYWHERE), activations) <= TOLERANCES["float32"]
    torch.testing.assert_close(next_token(annotator, groups), answers, atol=1e-6, rtol=1e-4)


@pytest.mark.usefixtures("blocks")
def test_rows_are_padded_and_no_token_that_was_not_given_is_in_any_reading(annotator: Annotator) -> None:
    group = encode(annotator, "hi", "hello", "ho")
    given = {*group.prefix, *(token for branch in group.branches for token in branch.tokens)}
    others = [token for token in range(len(annotator.tokenizer)) if token not in given]
    again = tiny_annotator()
    again.decoder.embed_tokens.weight[others] = float("nan")
    assert len(lay_out([group], annotator.device).tokens) == flex.MULTIPLE > group.size
    assert torch.equal(read(again, [group], EVERYWHERE), read(annotator, [group], EVERYWHERE))


@pytest.mark.usefixtures("blocks")
def test_blocks_are_made_once_for_all_layers_of_a_window(monkeypatch: pytest.MonkeyPatch) -> None:
    annotator = tiny_annotator(Qwen2Config, use_sliding_window=True, sliding_window=WINDOW, max_window_layers=2)
    made: list[Sight] = []
    blocks_of = Blocks.of

    def counted(sight: Sight, device: torch.device) -> Blocks:
        made.append(sight)
        return blocks_of(sight, device)

    monkeypatch.setattr(Blocks, "of", counted)
    read(annotator, mixed(annotator), EVERYWHERE)
    assert len(made) == 2


def test_blocks_lie_where_the_layers_are_that_take_them(annotator: Annotator) -> None:
    sight = Sight.of(mixed(annotator), 2 * flex.MULTIPLE)
    for place in (CPU, torch.device("meta")):
        assert {tensor.device for tensor in vars(Blocks.of(sight, place)).values()} == {place}


@pytest.mark.usefixtures("blocks")
def test_transformers_does_not_look_at_the_positions_which_would_wait_for_the_device(
    annotator: Annotator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(masking_utils, "find_packed_sequence_indices", lambda _positions: pytest.fail("looked"))
    read(annotator, mixed(annotator), [Site(2, "mean")])
    next_token(annotator, mixed(annotator))


def test_rows_of_whatever_length_window_and_company_share_two_kernels() -> None:
    counter = CompileCounter()
    compiled = torch.compile(flex._attend, fullgraph=True, backend=counter)
    prompt = Group((5,) * 100, (Branch((7,) * 40, content=39),) * 2, prompt=100, request=(0, 1))
    with torch.inference_mode():
        for multiples, window in ((1, None), (2, None), (3, WINDOW), (2, WINDOW), (5, None), (4, 3)):
            length = multiples * flex.MULTIPLE
            blocks = Blocks.of(Sight.of([prompt] * multiples, length).within(window), CPU)
            query, key, value = projections(length)
            compiled(query, key, value, 0.5, *vars(blocks).values())
    assert counter.frame_count == 2


def projections(length: int) -> list[Tensor]:
    """Query, key and value with grouped heads, as a model lays them out."""
    return [torch.ones(1, length, heads, 8).transpose(1, 2) for heads in (4, 2, 2)]
