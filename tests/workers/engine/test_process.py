"""How many passes run side by side, and on how many threads each."""

import os

import pytest
import torch

from workers.engine import process


@pytest.fixture(autouse=True)
def memory_stays_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "_keep_freed_memory", lambda: True)


def test_there_is_one_pass_a_core_unless_told_otherwise() -> None:
    assert process.set_up() == os.cpu_count()
    assert process.set_up(3) == 3


def test_a_pass_computes_on_one_thread() -> None:
    process.set_up()
    assert torch.get_num_threads() == 1


def test_threads_for_several_passes_compute_on_one_thread_each() -> None:
    torch.set_num_threads(2)
    try:
        with process.side_by_side(2) as pool:
            assert [future.result() for future in [pool.submit(torch.get_num_threads) for _ in range(2)]] == [1, 1]
    finally:
        torch.set_num_threads(1)
