"""Attention of packed groups: windows, kernels, and what it refuses."""

from typing import Any, get_args

import pytest
import torch
from torch import nn
from transformers import Gemma2Config, LlamaConfig, MistralConfig, Qwen2Config

from tests.conftest import DEPTH, encode, tiny_annotator
from workers.engine import tiles
from workers.engine.annotator import Annotator
from workers.engine.attention import lay_out, packed, paired_attention
from workers.engine.forward import read
from workers.engine.packing import Group, Layout
from workers.engine.reference import TOLERANCES, disagreement, read_plainly
from workers.engine.sites import Pooling, Site

EVERYWHERE = [Site(layer, pooling) for layer in range(DEPTH + 1) for pooling in get_args(Pooling)]
ENDING = [Site(DEPTH - 1, pooling) for pooling in get_args(Pooling) if pooling != "request"]
WINDOW = 12


def mixed(annotator: Annotator) -> list[Group]:
    """Prompts and responses shorter and longer than a sliding window of 12."""
    texts = [("hi", "a", ""), ("word " * 12, "yes", "response " * 6), ("How do I sharpen a knife?", "no " * 20, "ok")]
    return [encode(annotator, *text) for text in texts]


ARCHITECTURES: dict[str, tuple[Any, dict[str, Any]]] = {
    "grouped heads": (LlamaConfig, {}),
    "a sliding window in every layer": (MistralConfig, {"sliding_window": WINDOW}),
    "a sliding window in some layers": (
        Qwen2Config,
        {"use_sliding_window": True, "sliding_window": WINDOW, "max_window_layers": 2},
    ),
}


@pytest.mark.parametrize("piece", [128, 16])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_architecture_reads_as_plain_transformers_in_pieces_of_any_size(
    architecture: str, piece: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tiles, "_PIECE", piece)
    family, settings = ARCHITECTURES[architecture]
    annotator = tiny_annotator(family, **settings)
    groups = mixed(annotator)
    for sites in (EVERYWHERE, ENDING):
        assert (
            disagreement(read(annotator, groups, sites), read_plainly(annotator, groups, sites))
            <= TOLERANCES["float32"]
        )


def test_a_sliding_window_hides_what_lies_further_back() -> None:
    wide, narrow = (tiny_annotator(MistralConfig, sliding_window=window) for window in (None, WINDOW))
    groups = mixed(wide)
    assert disagreement(read(narrow, groups, EVERYWHERE), read(wide, groups, EVERYWHERE)) > 0.01


def test_responses_of_a_prompt_do_not_see_each_other(annotator: Annotator) -> None:
    one, other = (encode(annotator, "hi", sibling, "me") for sibling in ("short", "something else entirely"))
    mine, mine_again = (read(annotator, [group], EVERYWHERE)[1:] for group in (one, other))
    assert disagreement(mine, mine_again) <= TOLERANCES["float32"]


def test_a_response_sees_its_prompt(annotator: Annotator) -> None:
    one, other = (encode(annotator, prompt, "me") for prompt in ("hi there", "ho there"))
    assert disagreement(read(annotator, [one], EVERYWHERE), read(annotator, [other], EVERYWHERE)) > 0.01


def test_soft_capping_is_refused() -> None:
    annotator = tiny_annotator(Gemma2Config, attn_logit_softcapping=50.0, head_dim=8)
    with pytest.raises(NotImplementedError, match="softcap"):
        read(annotator, mixed(annotator), [Site(1, "mean")])


def test_on_a_cpu_sizes_are_rounded_up_so_that_they_repeat(annotator: Annotator) -> None:
    layouts = [lay_out([encode(annotator, "hi", "me" * words)], annotator.device) for words in range(1, 9)]
    sizes = {len(own.tokens) for own in layouts}
    assert len(sizes) < len(layouts) / 2
    assert not any(size % 16 for size in sizes)


def test_attention_sinks_are_refused() -> None:
    x = torch.zeros(1, 4, 3, 8)
    with pytest.raises(NotImplementedError, match="s_aux"):
        paired_attention(nn.Identity(), x, x, x, None, s_aux=torch.zeros(4))


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_outside_a_packed_pass_attention_is_transformers_own(architecture: str) -> None:
    family, settings = ARCHITECTURES[architecture]
    ours, plain = tiny_annotator(family, **settings), tiny_annotator(family, **settings)
    plain.model.set_attn_implementation("eager")
    layout = Layout.of([encode(ours, "hi", "hello")], ours.device)
    with packed(layout), torch.inference_mode():
        ours.decoder(input_ids=layout.tokens[None], position_ids=layout.positions[None], use_cache=False)
    tokens, mask = torch.randint(3, 200, (2, 20)), torch.ones(2, 20, dtype=torch.long)
    mask[1, :8] = 0  # a batch padded on the left, as generation makes them
    with torch.inference_mode():
        one, other = (a.model(input_ids=tokens, attention_mask=mask).logits[mask.bool()] for a in (ours, plain))
    torch.testing.assert_close(one, other)
