"""What passes on CUDA devices need besides arithmetic: turns, copies that do not wait for others, final errors."""

import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from torch import Tensor

from workers.engine.errors import DeviceLost

_launching = threading.Lock()
_SHORT = ("out of memory", "ALLOC_FAILED")
_SIGNS = ("CUDA error", "CUDA driver error", "Triton Error [CUDA]", "cuDNN error", "CUBLAS_STATUS")


def turn(device: torch.device) -> AbstractContextManager[object]:
    """Within this block a pass is launched; on CUDA devices one at a time, whoever launches it.

    What is launched there runs in order anyway. Launched one after another, passes need memory for what lies between
    the layers of one of them only, while the next is prepared and launched behind the one that runs.
    """
    return _launching if device.type == "cuda" else nullcontext()


def sent(x: Tensor, device: torch.device) -> Tensor:
    """A tensor of the CPU on a device, without waiting for what that computes."""
    return x.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else x.to(device)


def awaited(x: Tensor) -> Callable[[], Tensor]:
    """To be called in the turn of the pass that computes x; what it returns waits for x and copies it to the CPU.

    It waits for nothing that is launched later, which a plain copy would.
    """
    if x.device.type != "cuda":
        return lambda: x
    computed = torch.cuda.Event(blocking=True)  # type: ignore[no-untyped-call]
    computed.record(torch.cuda.current_stream(x.device))

    def fetch() -> Tensor:
        computed.synchronize()
        with torch.cuda.stream(torch.cuda.Stream(x.device)):  # type: ignore[no-untyped-call]
            return x.cpu()

    return fetch


@contextmanager
def watched() -> Iterator[None]:
    """Within this block an error after which CUDA computes nothing any more is a `DeviceLost`.

    Memory that does not suffice is no such error, and always an `OutOfMemoryError`, whoever wanted it.

    Raises:
        DeviceLost: instead of that error.
    """
    try:
        yield
    except RuntimeError as error:
        first, *_ = str(error).splitlines() or [""]
        if any(sign in str(error) for sign in _SHORT) and not isinstance(error, torch.OutOfMemoryError):
            raise torch.OutOfMemoryError(first) from error
        if not _is_final(error):
            raise
        raise DeviceLost(f"{type(error).__name__}: {first}") from error


def _is_final(error: RuntimeError) -> bool:
    if isinstance(error, torch.OutOfMemoryError):
        return False
    return isinstance(error, torch.AcceleratorError) or any(sign in str(error) for sign in _SIGNS)
