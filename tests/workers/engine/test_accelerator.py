"""Turns, copies and final errors of accelerators, as far as a machine without one can tell."""

import threading

import pytest
import torch

from workers.engine.accelerator import awaited, sent, turn, watched
from workers.engine.errors import DeviceLost

CPU, CUDA = torch.device("cpu"), torch.device("cuda:1")

FINAL = [
    torch.AcceleratorError("CUDA error: device-side assert triggered\nCompile with `TORCH_USE_CUDA_DSA`"),
    RuntimeError("CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasGemmEx`"),
    RuntimeError("Triton Error [CUDA]: an illegal memory access was encountered"),
]
PASSING = [torch.OutOfMemoryError("CUDA out of memory."), RuntimeError("shapes differ"), ValueError("CUDA error")]


@pytest.mark.parametrize("error", FINAL)
def test_an_error_after_which_nothing_is_computed_is_one_that_no_handler_of_exceptions_takes(error: Exception) -> None:
    with pytest.raises(DeviceLost) as lost, watched():
        try:
            with watched():
                raise error
        except Exception:
            pytest.fail("taken for somebody's fault")
    assert str(lost.value) == f"{type(error).__name__}: {str(error).splitlines()[0]}"


@pytest.mark.parametrize("error", PASSING)
def test_other_errors_stay_what_they_are(error: Exception) -> None:
    with pytest.raises(type(error)) as raised, watched():
        raise error
    assert raised.value is error


@pytest.mark.parametrize(
    "text", ["CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate", "CUDA error: out of memory"]
)
def test_a_shortage_of_memory_is_one_whoever_meets_it(text: str) -> None:
    with pytest.raises(torch.OutOfMemoryError), watched():
        raise RuntimeError(text)


@pytest.mark.parametrize(("device", "together"), [(CPU, True), (CUDA, False)])
def test_passes_are_launched_one_at_a_time_on_cuda_and_side_by_side_on_a_cpu(
    device: torch.device, together: bool
) -> None:
    entered = threading.Event()

    def enter() -> None:
        with turn(device):
            entered.set()

    with turn(device):
        other = threading.Thread(target=enter)
        other.start()
        assert entered.wait(10 if together else 0.05) == together
    other.join(10)
    assert entered.is_set()


def test_on_a_cpu_nothing_is_copied_or_waited_for() -> None:
    x = torch.ones(3)
    assert sent(x, CPU) is x
    assert awaited(x)() is x
