"""Reading: a packed batch gives what plain transformers gives, and runs no layer that nobody reads."""

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any, get_args

import pytest
import torch
from torch import Tensor, nn

from tests.conftest import DEPTH, encode, tiny_annotator
from workers.engine.annotator import Annotator
from workers.engine.attention import packed
from workers.engine.forward import means, read, read_all
from workers.engine.packing import Group, Layout
from workers.engine.reference import TOLERANCES, disagreement, read_plainly
from workers.engine.sites import Pooling, Site

EVERYWHERE = [Site(layer, pooling) for layer in range(DEPTH + 1) for pooling in get_args(Pooling)]
LONG = "Tell me, slowly and in order, what I should pack for a week in the mountains. " * 2
CASES: dict[str, list[tuple[str, ...]]] = {
    "a pair alone": [("How do I sharpen a knife?", "Slowly, with care.", "no")],
    "very different lengths": [
        ("hi", "a", "b " * 40),
        (LONG, "ok", "Boots. " * 9),
        ("And?", "c", "d"),
        ("x", "y", LONG),
    ],
    "one response": [("hi", "hello")],
    "three responses": [("hi", "hello", "good day", "what")],
    "four responses among pairs": [("hi", "a", "bb", "ccc ccc", "d " * 20), ("you", "e", "f")],
    "empty responses": [("hi", "", "hello"), ("you", "", "")],
}


def groups_of(annotator: Annotator, case: str) -> list[Group]:
    return [encode(annotator, *texts) for texts in CASES[case]]


def relative_distance(ours: Tensor, plain: Tensor) -> Tensor:
    distance: Tensor = (ours - plain).norm(dim=-1) / plain.norm(dim=-1)
    return distance


def read_by_hand(annotator: Annotator, prefix: Sequence[int], response: Sequence[int]) -> dict[int, Tensor]:
    """Activations of all tokens after each block, from one unpacked pass with transformers' attention."""
    seen: dict[int, Tensor] = {}

    def keep(layer: int) -> Callable[[nn.Module, object, Tensor], None]:
        return lambda _module, _inputs, output: seen.update({layer: output[0]})

    for layer in range(annotator.depth + 1):
        annotator.module_at(layer).register_forward_hook(keep(layer))
    with torch.inference_mode():
        annotator.model(torch.tensor([[*prefix, *response]]))
    return seen


@pytest.mark.parametrize("case", CASES)
def test_a_packed_reading_equals_plain_transformers_at_every_layer_and_pooling(annotator: Annotator, case: str) -> None:
    groups = groups_of(annotator, case)
    ours, plain = read(annotator, groups, EVERYWHERE), read_plainly(annotator, groups, EVERYWHERE)
    assert ours.shape == (sum(len(group.branches) for group in groups), len(EVERYWHERE), annotator.width)
    too_far = (relative_distance(ours, plain) > 1e-4).any(dim=0)
    assert [site for site, far in zip(EVERYWHERE, too_far.tolist(), strict=True) if far] == []


def test_poolings_are_means_and_tokens_of_an_unpacked_pass(annotator: Annotator) -> None:
    group = encode(annotator, "How do I sharpen a knife?", "No.", "Slowly, with care.")
    plain = tiny_annotator()
    plain.model.set_attn_implementation("eager")
    by_hand = read_by_hand(plain, group.prefix, group.branches[1].tokens)
    start, request = len(group.prefix), slice(*group.request)
    expected: dict[Pooling, Callable[[Tensor], Tensor]]
    expected = {"mean": lambda h: h[start:-1].mean(dim=0), "last": lambda h: h[-2], "end_of_turn": lambda h: h[-1]}
    expected["request"] = lambda h: h[request].mean(dim=0)
    ours = read(annotator, [group], EVERYWHERE)[1]
    for place, site in zip(ours, EVERYWHERE, strict=True):
        torch.testing.assert_close(place, expected[site.pooling](by_hand[site.layer]), rtol=1e-4, atol=1e-4)


def test_the_last_block_is_read_before_the_norm_and_the_depth_after_it(annotator: Annotator) -> None:
    group = encode(annotator, "hi", "hello")
    before, after = read(annotator, [group], [Site(DEPTH - 1, "last"), Site(DEPTH, "last")])[0]
    norm = annotator.module_at(DEPTH)
    assert not torch.allclose(before, after)
    torch.testing.assert_close(norm(before), after)


def test_bf16_stays_within_the_published_tolerance() -> None:
    annotator = tiny_annotator(dtype=torch.bfloat16)
    for case in CASES:
        groups = groups_of(annotator, case)
        ours = read(annotator, groups, EVERYWHERE)
        assert ours.dtype is torch.float32
        assert disagreement(ours, read_plainly(annotator, groups, EVERYWHERE)) <= TOLERANCES["bfloat16"]


def test_disagreement_is_the_largest_relative_distance() -> None:
    plain = torch.tensor([[[3.0, 4.0], [0.0, 1.0]]])
    assert disagreement(plain, plain) == 0
    assert disagreement(plain + torch.tensor([0.0, 0.1]), plain) == pytest.approx(0.1)


def test_neighbours_do_not_change_a_reading(annotator: Annotator) -> None:
    groups = groups_of(annotator, "very different lengths")
    together = read(annotator, groups, EVERYWHERE)
    alone = torch.cat([read(annotator, [group], EVERYWHERE) for group in groups])
    assert relative_distance(together, alone).max() <= TOLERANCES["float32"]


def test_an_empty_response_is_read_at_its_end_of_turn_whatever_the_pooling(annotator: Annotator) -> None:
    sites = [Site(2, "mean"), Site(2, "last"), Site(2, "end_of_turn")]
    mean, last, end_of_turn = read(annotator, [encode(annotator, "hi", "hello", "")], sites)[1]
    assert torch.equal(mean, end_of_turn)
    assert torch.equal(last, end_of_turn)


@pytest.mark.parametrize(
    ("sites", "ran"),
    [
        ([Site(0, "mean")], [0]),
        ([Site(2, "mean"), Site(1, "last")], [0, 1, 2]),
        ([Site(DEPTH - 1, "mean")], [0, 1, 2, 3]),
        ([Site(DEPTH, "mean")], [0, 1, 2, 3, "norm"]),
    ],
)
def test_nothing_behind_the_deepest_site_is_run_and_everything_before_it_once(
    annotator: Annotator, sites: list[Site], ran: list[object]
) -> None:
    calls: list[object] = []
    watched: dict[object, nn.Module] = dict(enumerate(annotator.blocks))
    watched |= {"norm": annotator.module_at(DEPTH), "head": annotator.model.lm_head}
    handles = [m.register_forward_pre_hook(lambda _m, _i, name=name: calls.append(name)) for name, m in watched.items()]
    try:
        read(annotator, groups_of(annotator, "very different lengths"), sites)
    finally:
        for handle in handles:
            handle.remove()
    assert calls == ran


@pytest.mark.parametrize("layer", range(DEPTH))
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_of_the_deepest_block_the_prompts_are_computed_only_where_they_are_read(dtype: torch.dtype, layer: int) -> None:
    annotator = tiny_annotator(dtype=dtype)
    said: list[Tensor] = []
    mlp: Any = annotator.blocks[layer].mlp
    mlp.register_forward_hook(lambda _module, _inputs, output: said.append(output[0]))
    groups = groups_of(annotator, "very different lengths")
    responses, prompt = Site(layer, "mean"), Site(layer, "request")
    alone, among = read(annotator, groups, [responses]), read(annotator, groups, [responses, prompt])
    assert relative_distance(alone, among[:, :1]).max() <= TOLERANCES[annotator.dtype_name]
    depth = len(groups[0].prefix)
    spoken = [bool(own[:depth].any()) for own in said]
    assert spoken == [dtype == torch.float32, True]


def test_where_blocks_are_numbered_otherwise_every_one_is_computed_whole() -> None:
    annotator = tiny_annotator()
    groups, sites = groups_of(annotator, "a pair alone"), [Site(DEPTH - 1, "mean")]
    assert annotator.numbered
    expected = read(annotator, groups, sites)
    strange: Any = tiny_annotator()
    strange.blocks[1].self_attn.layer_idx = DEPTH - 1
    assert not strange.numbered
    torch.testing.assert_close(read(strange, groups, sites), expected)


def test_readings_and_errors_leave_no_hooks_behind_and_the_model_as_it_was(annotator: Annotator) -> None:
    def break_down(*_args: object) -> None:
        raise RuntimeError("out of order")

    def hooks() -> list[int]:
        return [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in annotator.model.modules()]

    group = encode(annotator, "hi", "hello")
    hooks_before, before = hooks(), read(annotator, [group], [Site(3, "mean")])
    assert hooks() == hooks_before
    broken = annotator.blocks[1].register_forward_pre_hook(break_down)
    with pytest.raises(RuntimeError, match="out of order"):
        read(annotator, [group], [Site(0, "mean"), Site(3, "mean")])
    broken.remove()
    assert hooks() == hooks_before
    assert torch.equal(read(annotator, [group], [Site(3, "mean")]), before)


def test_outside_a_reading_the_model_runs_to_its_end(annotator: Annotator) -> None:
    group = encode(annotator, "hi", "hello")
    read(annotator, [group], [Site(0, "mean")])
    layout = Layout.of([group], annotator.device)
    with packed(layout), torch.inference_mode():
        logits = annotator.model(layout.tokens[None], position_ids=layout.positions[None], use_cache=False).logits
    assert logits.shape == (1, group.size, len(annotator.tokenizer))


def test_readings_on_several_threads_at_once_do_not_meet(annotator: Annotator) -> None:
    groups = [encode(annotator, *texts) for texts in CASES["very different lengths"][:3]]
    sites = [[Site(1, "mean")], [Site(3, "last"), Site(1, "end_of_turn")], [Site(DEPTH, "mean"), Site(0, "mean")]]
    alone = [read(annotator, [group], wanted) for group, wanted in zip(groups, sites, strict=True)]
    everybody_is_halfway = threading.Barrier(3)

    def meet(*_args: object) -> None:
        everybody_is_halfway.wait(10)

    handle = annotator.blocks[1].register_forward_pre_hook(meet)
    try:
        with ThreadPoolExecutor(3) as pool:
            together = list(pool.map(lambda group, wanted: read(annotator, [group], wanted), groups, sites))
    finally:
        handle.remove()
    for one, other in zip(alone, together, strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("passes", [1, 3])
def test_read_all_answers_in_the_order_given_and_tells_its_progress(annotator: Annotator, passes: int) -> None:
    annotator = replace(annotator, passes=passes)
    prompts = ["word " * (1 + (7 * i) % 20) for i in range(20)]
    groups = [encode(annotator, prompt, "yes", *["no"] * (i % 3)) for i, prompt in enumerate(prompts)]
    sites = [Site(1, "mean"), Site(2, "last")]
    told: list[int] = []
    readings = read_all(annotator, groups, sites, told.append)
    assert [tuple(reading.shape) for reading in readings] == [(1 + i % 3, 2, annotator.width) for i in range(20)]
    for group, reading in zip(groups, readings, strict=True):
        assert relative_distance(reading, read(annotator, [group], sites)).max() <= TOLERANCES["float32"]
    assert sum(group.size for group in groups) > annotator.budget.tokens
    assert len(told) > 1
    assert told == sorted(set(told))
    assert told[-1] == 20


def test_means_of_half_precision_on_an_accelerator_are_summed_in_float32_without_a_copy_of_the_pass() -> None:
    weights = [torch.zeros(5, 256, device="meta")] * 3
    found = means(weights, torch.zeros(256, 32, dtype=torch.bfloat16, device="meta"))
    assert (tuple(found.shape), found.dtype) == ((3, 5, 32), torch.float32)


def test_means_of_several_poolings_are_each_its_own() -> None:
    hidden = torch.randn(6, 4).bfloat16()
    some, other = torch.tensor([[0.5, 0.5, 0, 0, 0, 0]]), torch.tensor([[0, 0, 0, 0, 0, 1.0]])
    expected = torch.stack([hidden[:2].float().mean(0), hidden[5].float()])[:, None]
    torch.testing.assert_close(means([some, other], hidden), expected)
