"""What only a CUDA device can show: the compiled kernel, copies that wait for nothing, memory that is really short."""

from collections.abc import Iterator
from dataclasses import replace
from typing import get_args

import pytest
import torch

from tests.conftest import DEPTH, tiny_annotator
from tests.workers.engine.test_attention import ARCHITECTURES, mixed
from workers.engine import forward
from workers.engine.annotator import Annotator
from workers.engine.answers import next_token
from workers.engine.forward import read, read_all
from workers.engine.memory import Budget
from workers.engine.reference import TOLERANCES, disagreement, read_plainly
from workers.engine.sites import Pooling, Site
from workers.engine.sizing import find_budget

pytestmark = [
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
    pytest.mark.filterwarnings("default"),  # of compilers, about machines
]
EVERYWHERE = [Site(layer, pooling) for layer in range(DEPTH + 1) for pooling in get_args(Pooling)]
WIDE = {"hidden_size": 128, "intermediate_size": 256}


def on_cuda(architecture: str = "grouped heads", dtype: torch.dtype = torch.bfloat16) -> Annotator:
    family, settings = ARCHITECTURES[architecture]
    made = tiny_annotator(family, dtype=dtype, **WIDE, **settings)
    made.model.cuda()
    return replace(made, budget=Budget(16_384), passes=2)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_readings_of_rows_of_any_length_are_those_of_plain_transformers(architecture: str, dtype: torch.dtype) -> None:
    annotator = on_cuda(architecture, dtype)
    for times in (1, 3, 2, 9):
        groups = mixed(annotator) * times
        ours, plain = read(annotator, groups, EVERYWHERE), read_plainly(annotator, groups, EVERYWHERE)
        assert disagreement(ours, plain) <= TOLERANCES[annotator.dtype_name]


@pytest.fixture
def no_waiting() -> Iterator[None]:
    """Whatever waits for the device is an error."""
    torch.cuda.set_sync_debug_mode("error")
    yield
    torch.cuda.set_sync_debug_mode("default")


def test_a_pass_is_launched_without_waiting_for_the_device(
    monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    annotator = on_cuda()
    for times in (1, 2, 3):
        read(annotator, mixed(annotator) * times, EVERYWHERE)
    monkeypatch.setattr(forward, "awaited", lambda x: lambda: x)
    request.getfixturevalue("no_waiting")
    forward._read(annotator, mixed(annotator) * 4, EVERYWHERE)


def test_two_threads_read_what_one_reads() -> None:
    annotator = on_cuda()
    groups = mixed(annotator) * 40
    annotator.budget.settle(1024)
    together, alone = (read_all(replace(annotator, passes=passes), groups, EVERYWHERE) for passes in (2, 1))
    for one, other in zip(together, alone, strict=True):
        assert disagreement(one, other) <= TOLERANCES[annotator.dtype_name]


def test_memory_that_is_short_costs_time_and_changes_no_reading() -> None:
    annotator = on_cuda()
    groups = mixed(annotator) * 200
    expected = read(annotator, groups, EVERYWHERE), next_token(annotator, groups[:30]).cpu()
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(annotator.device).total_memory
    torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved() + (16 << 20)) / total)
    try:
        found = read(annotator, groups, EVERYWHERE), next_token(annotator, groups[:30]).cpu()
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert annotator.budget.tokens < 16_384
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=5e-2, atol=5e-2)


def test_a_budget_is_found() -> None:
    annotator = on_cuda()
    find_budget(annotator)
    assert annotator.budget.tokens == 32_768  # so small a model has room for more than is of use
