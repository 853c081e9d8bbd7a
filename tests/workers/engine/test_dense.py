"""Attention by products over tiles, against plain attention with a mask over the whole packed row."""

import pytest
import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from tests.workers.engine.test_tiles import BATCH, group
from workers.engine import dense
from workers.engine.dense import Heads, Plan
from workers.engine.packing import Group
from workers.engine.sight import Sight
from workers.engine.tiles import joined, pieces

WIDTH = 8
CPU = torch.device("cpu")


def drawn(groups: list[Group], heads: Heads, padding: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys and values as a model hands them over, [1, heads, T, d] of a tensor whose rows come first."""
    source = torch.Generator().manual_seed(0)
    length = sum(one.size for one in groups) + padding
    counts = (heads.queries, heads.keys, heads.keys)
    query, key, value = (torch.randn(1, length, count, WIDTH, generator=source).transpose(1, 2) for count in counts)
    return query, key, value


def planned(groups: list[Group], heads: Heads, window: int | None = None) -> Plan:
    return Plan(joined(pieces(groups)), sum(one.size for one in groups), heads, window, CPU)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """No softmax is computed."""
    monkeypatch.setattr(dense._Products, "softmax", None)


def plainly(groups: list[Group], query: Tensor, key: Tensor, value: Tensor, window: int | None = None) -> Tensor:
    sight = Sight.of(groups, query.shape[2]).within(window)
    keys = torch.arange(query.shape[2])
    prompt = (keys >= sight.first[:, None]) & (keys < sight.last[:, None])
    seen = prompt | ((keys >= sight.own[:, None]) & (keys <= keys[:, None]))
    made = scaled_dot_product_attention(query, key, value, attn_mask=seen, scale=0.5, enable_gqa=True)
    return made.transpose(1, 2)


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("window", [None, 1, 33, 200])
@pytest.mark.parametrize("heads", [Heads(4, 4), Heads(6, 2), Heads(3, 1)])
@torch.inference_mode()
def test_every_row_attends_to_what_it_may_see(heads: Heads, window: int | None) -> None:
    given = drawn(BATCH, heads)
    found = planned(BATCH, heads, window).attend(*given, 0.5)
    torch.testing.assert_close(found, plainly(BATCH, *given, window))


@pytest.mark.usefixtures("quick")
@torch.inference_mode()
def test_in_bfloat16_rows_attend_as_closely_as_its_numbers_are_fine() -> None:
    heads = Heads(6, 2)
    query, key, value = (part.bfloat16() for part in drawn(BATCH, heads))
    found = planned(BATCH, heads).attend(query, key, value, 0.5)
    expected = plainly(BATCH, query.double(), key.double(), value.double())
    assert (found.double() - expected).norm() < 0.01 * expected.norm()


@torch.inference_mode()
def test_a_prompt_of_no_tokens_is_one_that_its_responses_do_not_see() -> None:
    groups, heads = [group(0, 20, 3), group(7, 5)], Heads(2, 1)
    given = drawn(groups, heads)
    torch.testing.assert_close(planned(groups, heads).attend(*given, 0.5), plainly(groups, *given))


@torch.inference_mode()
def test_keys_of_a_long_text_are_gathered_part_by_part(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dense, "_MOST_KEYS", 500)
    heads = Heads(2, 1)
    given = drawn(BATCH, heads)
    plan = planned(BATCH, heads)
    assert len(plan._runs) > 3
    torch.testing.assert_close(plan.attend(*given, 0.5), plainly(BATCH, *given))


@pytest.mark.parametrize("prompts", [True, False])
@torch.inference_mode()
def test_rows_that_nobody_reads_come_to_finite_numbers(prompts: bool) -> None:
    heads = Heads(2, 1)
    given = drawn(BATCH, heads, padding=7)
    plan = Plan(joined(pieces(BATCH, prompts=prompts)), given[0].shape[2], heads, None, CPU)
    found = plan.attend(*given, 0.5)
    read = torch.tensor([row for piece in pieces(BATCH, prompts=prompts) for row in piece.own])
    torch.testing.assert_close(found[:, read], plainly(BATCH, *given)[:, read])
    assert found.isfinite().all()


@pytest.mark.parametrize("long", [1024, 200])
@pytest.mark.parametrize("window", [None, 33])
def test_gradients_are_those_of_plain_attention(window: int | None, long: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dense, "_LONG", long)
    heads = Heads(4, 2)
    query, key, value = (part.requires_grad_() for part in drawn(BATCH, heads))
    found = planned(BATCH, heads, window).attend(query, key, value, 0.5)
    expected = plainly(BATCH, query, key, value, window)
    ours, plain = (torch.autograd.grad(made.square().sum(), (query, key, value)) for made in (found, expected))
    torch.testing.assert_close(ours, plain)


@pytest.mark.parametrize(("dtype", "allowed"), [(torch.float32, 1e-4), (torch.float16, 2e-2)])
@pytest.mark.parametrize("score", [0.0, 50.0, -12.0, -20.0, -60.0])
@torch.inference_mode()
def test_scores_whose_exponentials_a_float_cannot_hold_are_attended_all_the_same(
    score: float, dtype: torch.dtype, allowed: float
) -> None:
    groups, heads = [group(40, 20, 3)], Heads(2, 2)
    query, key, value = drawn(groups, heads)
    query[..., 0], key[..., 0] = 2.0, score
    query, key, value = (part.to(dtype) for part in (query, key, value))
    found = planned(groups, heads).attend(query, key, value, 0.5)
    expected = plainly(groups, query.double(), key.double(), value.double())
    torch.testing.assert_close(found.double(), expected, atol=allowed, rtol=allowed)


@torch.inference_mode()
def test_scores_that_are_hidden_may_be_of_any_size() -> None:
    groups, heads = [group(40, 20, 3)], Heads(2, 2)
    query, key, value = drawn(groups, heads)
    query[:, :, :60, 0], key[:, :, 60:, 0] = 300.0, 300.0  # of the first response's queries and the second one's keys
    query[:, :, 60:, 0] = 0.0
    torch.testing.assert_close(
        planned(groups, heads).attend(query, key, value, 0.5), plainly(groups, query, key, value)
    )


@torch.inference_mode()
def test_under_autocast_it_is_the_dtype_of_the_scores_that_says_what_they_hold() -> None:
    groups, heads = [group(40, 20, 3)], Heads(2, 2)
    query, key, value = drawn(groups, heads)
    query[..., 0], key[..., 0] = 2.0, -14.0
    with torch.autocast("cpu", torch.float16):
        found = planned(groups, heads).attend(query, key, value, 0.5)
    torch.testing.assert_close(found.float(), plainly(groups, query, key, value), atol=2e-2, rtol=2e-2)
