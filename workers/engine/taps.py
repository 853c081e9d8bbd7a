"""Taps on the annotator's layers: each pass reads the layers that it wants and ends at the deepest of them.

The hooks stay where they are and do nothing outside a recording, so that passes on several threads do not meet.
"""

from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn


class _DeepEnough(Exception):
    """Leaves the model's forward pass once the deepest wanted layer has spoken."""


@dataclass
class _Recording:
    wanted: Collection[int]
    deepest: int
    pool: Callable[[int, Tensor], Tensor]
    activations: dict[int, Tensor] = field(default_factory=dict)


_current: ContextVar[_Recording | None] = ContextVar("safemargin_recording", default=None)


def install(layer: int, module: nn.Module) -> None:
    """Put a tap on the module whose output is layer `layer`."""
    module.register_forward_hook(_tap(layer))


@contextmanager
def recording(layers: Collection[int], pool: Callable[[int, Tensor], Tensor]) -> Iterator[dict[int, Tensor]]:
    """Collect what `pool` makes of the [T, d] output of each of `layers` of one packed pass run inside.

    It is asked as soon as a layer has spoken, so that no layer's output is kept. Code behind the deepest never runs.
    """
    state = _Recording(layers, max(layers), pool)
    token = _current.set(state)
    try:
        with suppress(_DeepEnough):
            yield state.activations
    finally:
        _current.reset(token)


def _tap(layer: int) -> Callable[[nn.Module, Any, Any], None]:
    def record(_module: nn.Module, _inputs: Any, output: Any) -> None:
        state = _current.get()
        if state is None or layer not in state.wanted:
            return
        hidden = output if isinstance(output, Tensor) else output[0]
        state.activations[layer] = state.pool(layer, hidden[0])
        if layer == state.deepest:
            raise _DeepEnough

    return record
