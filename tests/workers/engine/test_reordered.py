"""Faster modules of packed passes in bfloat16: what they compute, and when a module keeps to its own way."""

import copy
from typing import Any

import pytest
import torch
from transformers import Gemma2Config, LlamaConfig, Qwen2Config, Qwen3Config

from tests.conftest import DEPTH, encode, tiny_annotator
from workers.engine import reordered
from workers.engine.annotator import Annotator
from workers.engine.attention import packed
from workers.engine.forward import read
from workers.engine.packing import Group, Layout
from workers.engine.reference import TOLERANCES, disagreement, read_plainly
from workers.engine.sites import Site

SITES = [Site(layer, "mean") for layer in range(DEPTH)]
LINEARS = {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}
NORMS = {"input_layernorm", "post_attention_layernorm"}


@pytest.fixture
def fast() -> Annotator:
    return tiny_annotator(dtype=torch.bfloat16)


def groups_of(annotator: Annotator) -> list[Group]:
    return [
        encode(annotator, "How do I sharpen a knife?", "Slowly.", "I can't help with that."),
        encode(annotator, "hi", ""),
    ]


def faster(annotator: Annotator) -> set[str]:
    """Last names of the modules of a block that have a faster way."""
    named = annotator.blocks[0].named_modules()
    return {name.split(".")[-1] for name, module in named if type(module).__name__.startswith("Faster")}


def test_linear_layers_gated_mlps_and_norms_of_a_bf16_model_become_faster(fast: Annotator) -> None:
    assert faster(fast) == LINEARS | NORMS | {"mlp"}


def test_a_float32_model_stays_as_it_is(annotator: Annotator) -> None:
    assert faster(annotator) == set()


def test_a_model_too_large_to_hold_its_weights_twice_stays_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reordered, "_MOST_BYTES", 1)
    assert faster(tiny_annotator(dtype=torch.bfloat16)) == set()


def test_modules_that_only_look_alike_stay_as_they_are() -> None:
    gemma = tiny_annotator(Gemma2Config, dtype=torch.bfloat16, head_dim=8, attn_logit_softcapping=None)
    assert faster(gemma) == LINEARS  # its norms add one to their weights, its MLPs gate by GELU


@pytest.mark.parametrize("family", [LlamaConfig, Qwen2Config, Qwen3Config])
def test_readings_stay_within_the_published_tolerance(family: type) -> None:
    annotator = tiny_annotator(family, dtype=torch.bfloat16)
    groups = groups_of(annotator)
    distance = disagreement(read(annotator, groups, SITES), read_plainly(annotator, groups, SITES))
    assert 0 < distance <= TOLERANCES["bfloat16"]


def test_outside_a_packed_pass_a_module_computes_its_own_way(fast: Annotator) -> None:
    mlp: Any = fast.blocks[0].mlp
    x = torch.randn(1, 5, fast.width, dtype=torch.bfloat16)
    own = mlp.down_proj(mlp.act_fn(mlp.gate_proj(x)) * mlp.up_proj(x))
    assert torch.equal(mlp(x), own)


def test_weights_changed_after_loading_are_those_that_count(fast: Annotator) -> None:
    groups = groups_of(fast)
    with torch.no_grad():
        for name, weight in fast.blocks.named_parameters():
            if "up_proj" in name or "v_proj" in name:
                weight.mul_(-2)
    assert disagreement(read(fast, groups, SITES), read_plainly(fast, groups, SITES)) <= TOLERANCES["bfloat16"]


def test_gradients_take_the_module_s_own_way(fast: Annotator) -> None:
    mlp: Any = fast.blocks[0].mlp
    x = torch.randn(1, 5, fast.width, dtype=torch.bfloat16, requires_grad=True)
    with packed(Layout.of(groups_of(fast), fast.device)):
        mlp(x).sum().backward()
    assert x.grad is not None
    assert x.grad.count_nonzero() > 0


def test_a_copy_multiplies_with_its_own_weights(fast: Annotator) -> None:
    mlp: Any = fast.blocks[0].mlp
    twin = copy.deepcopy(mlp)
    with torch.no_grad():
        twin.down_proj.weight.zero_()
    x = torch.randn(1, 5, fast.width, dtype=torch.bfloat16)
    layout = Layout.of(groups_of(fast), fast.device)
    with packed(layout), torch.inference_mode():
        assert twin(x).count_nonzero() == 0
        assert mlp(x).count_nonzero() > 0
