"""Low-rank adapters (LoRA, arXiv 2106.09685) on an annotator's weights, which stay as they are and where they are.

Other threads read the annotator meanwhile, load things and draw random numbers. So nothing here sets what belongs to
the whole process: not the default dtype (transformers does where it is told one), nor the way in which modules register
parameters (peft does where it is to save memory), nor the generator from which everybody draws.
"""

import copy
import math
from collections.abc import Mapping
from typing import Any

import torch
from peft import get_peft_model_state_dict, set_peft_model_state_dict
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn

PEFT_NAME = "default"
"""What peft calls an adapter that nobody named."""


def twin(module: Any) -> Any:
    """A copy of a model's modules with the same parameters and buffers and without hooks, such as taps."""
    tensors = [*module.parameters(), *module.buffers()]
    copied = copy.deepcopy(module, {id(tensor): tensor for tensor in tensors})
    for part in copied.modules():
        part._forward_hooks.clear()
        part._forward_pre_hooks.clear()
    return copied


def own(model: Any, name: str = PEFT_NAME) -> dict[str, Tensor]:
    """What an adapter adds to a model, by peft's names."""
    state: dict[str, Tensor] = get_peft_model_state_dict(model, adapter_name=name, save_embedding_layers=False)
    return state


def plant(model: Any, tensors: Mapping[str, Tensor], name: str = PEFT_NAME) -> None:
    """Copy such numbers as `own` gives over those that there are."""
    set_peft_model_state_dict(model, dict(tensors), adapter_name=name)


def drop_by(model: Any, source: torch.Generator, rate: float, name: str = PEFT_NAME) -> None:
    """Draw the dropout of an adapter from a generator on its device."""
    for module in model.modules():
        if isinstance(module, LoraLayer) and name in module.lora_dropout:
            module.lora_dropout[name] = _Dropout(source, rate)


def give_substance(model: nn.Module, device: torch.device) -> None:
    """Float32 memory for what is to be trained and has none: peft would take the dtype of the weights beside it."""
    for module in model.modules():
        for name, weight in module._parameters.items():
            if weight is not None and weight.is_meta and weight.requires_grad:
                module._parameters[name] = nn.Parameter(torch.zeros(weight.shape, dtype=torch.float32, device=device))


def begun(name: str, part: Tensor, source: torch.Generator) -> Tensor:
    """What an adapter's part begins with, so that it changes nothing: Kaiming's where it reads, else zero."""
    values = torch.zeros(part.shape)
    if ".lora_A." in name:
        bound = 1 / math.sqrt(part.shape[1:].numel())
        values.uniform_(-bound, bound, generator=source)
    return values


class _Dropout(nn.Module):
    def __init__(self, source: torch.Generator, rate: float) -> None:
        super().__init__()
        self._source = source
        self._rate = rate

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or not self._rate:
            return x
        kept = torch.rand(x.shape, generator=self._source, device=x.device) >= self._rate
        return x * kept / (1 - self._rate)
