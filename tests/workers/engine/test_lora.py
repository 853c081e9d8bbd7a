"""Low-rank adapters of annotators: what they change, what they share, and their files."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from torch import Tensor
from transformers import LlamaConfig, Qwen2Config

from tests.conftest import encode, tiny_annotator
from workers.engine.annotator import Annotator
from workers.engine.errors import UnusableAdapter
from workers.engine.forward import read
from workers.engine.lora import (
    ALL_LINEAR,
    CONFIG,
    TENSORS,
    LowRank,
    adapted,
    add,
    from_files,
    joined,
    modules_of,
    taken,
    to_files,
    twin_of,
)
from workers.engine.sites import Site

SITES = (Site(1, "mean"), Site(3, "last"))


def some(annotator: Annotator, *targets: str, rank: int = 3, seed: int = 0, last: int = 3) -> LowRank:
    """An adapter of random numbers, large enough to be seen."""
    source = torch.Generator().manual_seed(seed)
    shapes = {
        name: module.weight.shape for name, module in annotator.model.named_modules() if hasattr(module, "weight")
    }
    return LowRank(
        {
            name: (
                torch.randn(rank, shapes[name][1], generator=source) / 8,
                torch.randn(shapes[name][0], rank, generator=source) / 8,
            )
            for name in modules_of(annotator, targets or ("q_proj", "v_proj"), last)
        }
    )


def reading(annotator: Annotator) -> Tensor:
    return read(annotator, [encode(annotator, "How do I sharpen a knife?", "Slowly.", "no")], SITES)


def merged(annotator: Annotator, adapter: LowRank) -> Annotator:
    """A model of its own whose weights have the adapter in them."""
    made = tiny_annotator(type(annotator.model.config))
    made.model.load_state_dict(annotator.model.state_dict())
    for name, (a, b) in adapter.factors.items():
        made.model.get_submodule(name).weight.data += b @ a
    return made


@pytest.mark.parametrize("family", [LlamaConfig, Qwen2Config])
def test_it_adds_b_a_to_the_weights_of_the_modules_named(family: Any) -> None:
    annotator = tiny_annotator(family)
    adapter = some(annotator, "q_proj", "down_proj")
    torch.testing.assert_close(reading(adapted(annotator, adapter)), reading(merged(annotator, adapter)))


def test_the_annotator_stays_as_it_is_and_shares_its_weights(annotator: Annotator) -> None:
    before = reading(annotator)
    made = adapted(annotator, some(annotator))
    assert not torch.equal(reading(made), before)
    assert torch.equal(reading(annotator), before)
    lent = {weight.data_ptr() for weight in annotator.model.parameters()}
    base = {weight.data_ptr() for name, weight in made.model.named_parameters() if "lora_" not in name}
    assert base == lent
    assert not any(weight.requires_grad for weight in made.model.parameters())


def test_its_revision_names_annotator_and_adapter(annotator: Annotator) -> None:
    one, other = some(annotator), some(annotator, seed=1)
    assert adapted(annotator, one).revision == f"{annotator.revision}+{one.digest}"
    assert one.digest != other.digest
    assert one.digest == some(annotator).digest


def test_two_adapters_joined_add_what_both_add(annotator: Annotator) -> None:
    first, second = some(annotator, "q_proj", rank=2), some(annotator, "q_proj", "up_proj", seed=1, last=1)
    both = adapted(annotator, first)
    add(both, second.ranks, "second", second.factors)
    whole = joined(first, second)
    assert set(whole.ranks.values()) == {2, 3, 5}
    torch.testing.assert_close(reading(adapted(annotator, whole)), reading(both))


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")  # peft asks by a former name
def test_peft_loads_its_files_and_computes_the_same(annotator: Annotator, tmp_path: Path) -> None:
    adapter = joined(some(annotator), some(annotator, "q_proj", "o_proj", rank=1, seed=2, last=2))
    for name, content in to_files(adapter, annotator.name).items():
        (tmp_path / name).write_bytes(content)
    own = tiny_annotator()
    loaded = PeftModel.from_pretrained(own.model, tmp_path)
    tokens = torch.tensor([[5, 9, 7, 30, 12]])
    with torch.inference_mode():
        expected = adapted(annotator, adapter).model(tokens).logits
        torch.testing.assert_close(loaded(tokens).logits, expected)


def test_what_was_written_is_read_again(annotator: Annotator) -> None:
    adapter = joined(some(annotator), some(annotator, "q_proj", rank=1, seed=2, last=2))
    assert from_files("mine", to_files(adapter, "tiny")).digest == adapter.digest


def test_an_adapter_scaled_as_peft_scales_is_read_as_it_counts(annotator: Annotator) -> None:
    adapter = some(annotator)
    files = to_files(adapter, "tiny")
    config = json.loads(files[CONFIG]) | {"lora_alpha": 12}
    doubled = from_files("mine", files | {CONFIG: json.dumps(config).encode()})
    a, b = adapter.factors["model.layers.0.self_attn.q_proj"]
    assert torch.equal(doubled.factors["model.layers.0.self_attn.q_proj"][0], a)
    assert torch.equal(doubled.factors["model.layers.0.self_attn.q_proj"][1], 4 * b)


@pytest.mark.parametrize(
    "change", [{"use_dora": True}, {"peft_type": "IA3"}, {"bias": "all"}, {"modules_to_save": ["lm_head"]}, {"r": 0}]
)
def test_an_adapter_that_does_something_else_is_refused_by_the_setting(annotator: Annotator, change: Any) -> None:
    files = to_files(some(annotator), "tiny")
    config = json.loads(files[CONFIG]) | change
    with pytest.raises(UnusableAdapter, match=f"mine: adapter_config.json: {next(iter(change))}"):
        from_files("mine", files | {CONFIG: json.dumps(config).encode()})


def test_damaged_files_are_refused(annotator: Annotator) -> None:
    files = to_files(some(annotator), "tiny")
    with pytest.raises(UnusableAdapter, match="mine: unreadable adapter"):
        from_files("mine", {CONFIG: files[CONFIG]})
    with pytest.raises(UnusableAdapter, match="mine: unreadable adapter"):
        from_files("mine", files | {TENSORS: files[TENSORS][:100]})
    a, b = torch.ones(2, 3), torch.ones(3, 2)
    for factors in ((a, b * float("nan")), (a, torch.ones(3, 3)), (a[0], b)):
        with pytest.raises(UnusableAdapter, match="not pairs of finite low-rank factors"):
            from_files("mine", to_files(LowRank({"x": factors}), "tiny"))


def test_one_that_does_not_fit_the_annotator_is_refused(annotator: Annotator) -> None:
    a, b = torch.ones(2, 3), torch.ones(3, 2)
    with pytest.raises(UnusableAdapter, match="does not have the shape of tiny"):
        adapted(annotator, LowRank({"model.layers.0.self_attn.q_proj": (a, b)}))
    with pytest.raises(UnusableAdapter, match="does not fit tiny"):
        adapted(annotator, LowRank({"model.layers.9.self_attn.q_proj": (a, b)}))


def test_modules_are_found_by_name_up_to_a_block(annotator: Annotator) -> None:
    assert modules_of(annotator, ["v_proj"], 1) == [f"model.layers.{i}.self_attn.v_proj" for i in (0, 1)]
    every = modules_of(annotator, ALL_LINEAR, 3)
    assert len(every) == 4 * 7
    assert not any("lm_head" in name for name in every)
    assert modules_of(adapted(annotator, some(annotator)), ALL_LINEAR, 3) == every
    with pytest.raises(UnusableAdapter, match="no linear layers called nose"):
        modules_of(annotator, ["q_proj", "nose"], 3)


def test_a_new_one_changes_nothing_as_yet_and_alone_asks_for_gradients(annotator: Annotator) -> None:
    made = twin_of(adapted(annotator, some(annotator)), "new")
    before = reading(made)
    state = torch.get_rng_state()
    weights = add(made, {"model.layers.1.self_attn.q_proj": 4}, "new", torch.Generator().manual_seed(0), scale=2.0)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(reading(made), before)
    assert {name for name, weight in made.model.named_parameters() if weight.requires_grad} == set(weights)
    assert set(weights) == {f"model.layers.1.self_attn.q_proj.lora_{part}.new.weight" for part in "AB"}


def test_what_is_taken_counts_as_it_did(annotator: Annotator) -> None:
    made = twin_of(annotator, "new")
    weights = add(made, {"model.layers.1.self_attn.q_proj": 4}, "new", torch.Generator().manual_seed(0), scale=2.0)
    for weight in weights.values():
        weight.data += 0.1
    found = taken(made, "new")
    assert found.ranks == {"model.layers.1.self_attn.q_proj": 4}
    torch.testing.assert_close(reading(adapted(annotator, found)), reading(made))


def test_half_precision_keeps_a_wide_residual_stream_under_autocast_alone() -> None:
    half = tiny_annotator(dtype=torch.bfloat16)
    made = adapted(half, some(half))
    tokens = torch.tensor([[5, 9, 7]])
    with torch.inference_mode():
        assert made.model(tokens).logits.dtype == torch.bfloat16
        with torch.autocast("cpu", torch.bfloat16):
            assert made.decoder(tokens).last_hidden_state.dtype == torch.float32
