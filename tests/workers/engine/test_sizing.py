"""The budget on CUDA devices, with devices that are made up: what passes are seen to need, and what is free."""

from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from tests.conftest import DEPTH
from workers.engine import sizing
from workers.engine.annotator import Annotator
from workers.engine.errors import ModelNotLoaded
from workers.engine.memory import Budget
from workers.engine.packing import Group
from workers.engine.sites import Site
from workers.engine.sizing import find_budget, tokens_within

ONE, OTHER = torch.device("cuda:0"), torch.device("cuda:1")
GIB = 1 << 30


class Cards:
    """CUDA devices on which every token of a pass needs so many bytes, beside some that any pass needs."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, each: dict[torch.device, int], free: dict[torch.device, int]):
        self.each, self.free = each, free
        self.passes: list[tuple[int, Sequence[Site]]] = []
        for name, told in {
            "memory_allocated": lambda _device: 7 * GIB,
            "memory_reserved": lambda _device: 8 * GIB,
            "mem_get_info": lambda device: (self.free[device] - GIB, 99 * GIB),
            "reset_peak_memory_stats": lambda _device: None,
            "max_memory_allocated": lambda device: 7 * GIB + GIB // 4 + self.each[device] * self.passes[-1][0],
        }.items():
            monkeypatch.setattr(torch.cuda, name, told)
        monkeypatch.setattr(sizing, "read", self.read)

    def read(self, _annotator: Annotator, groups: Sequence[Group], sites: Sequence[Site]) -> Tensor:
        self.passes.append((sum(group.size for group in groups), sites))
        return torch.zeros(0)


@pytest.fixture
def spread(annotator: Annotator, monkeypatch: pytest.MonkeyPatch) -> Annotator:
    """An annotator that says that it lies on two cards."""
    fresh = replace(annotator, budget=Budget(16_384))
    fresh.__dict__["devices"] = (ONE, OTHER)
    monkeypatch.setattr(Annotator, "device", property(lambda _self: ONE))
    return fresh


@pytest.mark.parametrize(
    ("free", "each", "tokens"),
    [
        (20 * GIB, 128 << 10, 32_768),  # more would fit, and gain nothing
        (2 * GIB, 128 << 10, 11_008),  # four fifths of what is free, without what any pass needs
        (GIB // 8, 128 << 10, 1024),  # less than anything would fit into
    ],
)
def test_a_pass_holds_as_many_tokens_as_fit_into_free_memory(free: int, each: int, tokens: int) -> None:
    fixed = GIB // 4
    assert tokens_within(free, fixed + 1024 * each, fixed + 4096 * each) == tokens


def test_the_card_with_the_least_room_decides(spread: Annotator, monkeypatch: pytest.MonkeyPatch) -> None:
    cards = Cards(monkeypatch, {ONE: 128 << 10, OTHER: 64 << 10}, {ONE: 20 * GIB, OTHER: GIB})
    find_budget(spread)
    assert spread.budget.tokens == tokens_within(GIB, GIB // 4 + (64 << 20), GIB // 4 + (256 << 20)) == 8_960
    assert [tokens for tokens, _ in cards.passes] == [1024, 1024, 4096]
    assert {site.layer for _, sites in cards.passes for site in sites} == {DEPTH - 1}


def test_a_card_too_small_for_the_measurement_gets_the_least(
    spread: Annotator, monkeypatch: pytest.MonkeyPatch
) -> None:
    cards = Cards(monkeypatch, {ONE: 1, OTHER: 1}, {ONE: 20 * GIB, OTHER: 20 * GIB})

    def halved(annotator: Annotator, groups: Sequence[Group], sites: Sequence[Site]) -> Tensor:
        annotator.budget.short(4096)
        return cards.read(annotator, groups[:1], sites)

    monkeypatch.setattr(sizing, "read", halved)
    find_budget(spread)
    assert spread.budget.tokens == 1024


def test_an_annotator_that_cannot_be_read_there_is_refused(spread: Annotator, monkeypatch: pytest.MonkeyPatch) -> None:
    Cards(monkeypatch, {ONE: 1, OTHER: 1}, {ONE: GIB, OTHER: GIB})

    def uncompiled(*_given: object) -> Tensor:
        raise RuntimeError("Cannot find a working triton installation.\nMore lines")

    monkeypatch.setattr(sizing, "read", uncompiled)
    with pytest.raises(ModelNotLoaded, match=r"tiny cannot be read on cuda:0: .* triton installation\.$"):
        find_budget(spread)


def test_on_a_cpu_the_budget_stays_as_it_is(annotator: Annotator, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sizing, "read", lambda *_given: pytest.fail("measured"))
    before = annotator.budget.tokens
    find_budget(annotator)
    assert annotator.budget.tokens == before
