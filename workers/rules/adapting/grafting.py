"""A sequence classifier on an annotator's weights, which stay as they are and where they are.

Other threads read the annotator meanwhile, load things and draw random numbers. So nothing here sets what belongs to
the whole process: not the default dtype (transformers does where it is told one), nor the way in which modules register
parameters (peft does where it is to save memory), nor the generator from which everybody draws.
"""

import copy
import math
import warnings
from collections.abc import Mapping
from typing import Any

import torch
from peft import LoraConfig, TaskType, get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn
from transformers import AutoModelForSequenceClassification

from workers.engine.annotator import Annotator
from workers.rules.errors import CannotClassify

_DROPOUT = 0.05
_SPREAD = 0.02
_ADAPTER = "default"


def graft(annotator: Annotator, rules: int, rank: int, source: torch.Generator) -> Any:
    """A classifier with R labels on the annotator's weights, with low-rank adapters that change nothing as yet.

    Args:
        annotator: whose weights it shares; its modules are copied, so that what is put into them stays apart.
        rules: R.
        rank: of the adapters.
        source: where its own weights, in float32, are drawn from.

    Raises:
        CannotClassify: no such classifier can be made of the annotator.
    """
    if len(annotator.devices) > 1:
        raise CannotClassify(f"{annotator.name} lies on {len(annotator.devices)} devices, its classifier would on one")
    adapters = LoraConfig(
        task_type=TaskType.SEQ_CLS, r=rank, lora_alpha=2 * rank, lora_dropout=0.0, target_modules="all-linear"
    )
    with torch.device("meta"), warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # peft asks transformers for something by its former name
        model: Any = get_peft_model(_bare(annotator, rules), adapters)
    _give_substance(model, annotator.device)
    spread = float(getattr(annotator.model.config.get_text_config(), "initializer_range", None) or _SPREAD)
    plant(model, {name: _begun(name, part, spread, source) for name, part in own(model).items()})
    return model


def own(model: Any) -> dict[str, Tensor]:
    """What is not the annotator's, by peft's names."""
    state: dict[str, Tensor] = get_peft_model_state_dict(model, save_embedding_layers=False)
    return state


def plant(model: Any, tensors: Mapping[str, Tensor]) -> None:
    """Copy such numbers as `own` gives over those that there are."""
    set_peft_model_state_dict(model, dict(tensors))


def drop_by(model: Any, source: torch.Generator) -> None:
    """Draw the dropout of the adapters from a generator on their device."""
    for module in model.modules():
        if isinstance(module, LoraLayer):
            module.lora_dropout[_ADAPTER] = _Dropout(source)


class _Dropout(nn.Module):
    def __init__(self, source: torch.Generator) -> None:
        super().__init__()
        self._source = source

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return x
        kept = torch.rand(x.shape, generator=self._source, device=x.device) >= _DROPOUT
        return x * kept / (1 - _DROPOUT)


def _bare(annotator: Annotator, rules: int) -> Any:
    """A classifier on the annotator's weights whose only other layer, the last, is of no substance."""
    config = copy.deepcopy(annotator.model.config)
    config.num_labels = rules
    config.pad_token_id = annotator.template.end_of_turn  # padding comes last, and no text holds it
    config.dtype = None  # anything else would become the default of all threads
    try:
        classifier = AutoModelForSequenceClassification.from_config(config, attn_implementation="sdpa")
    except ValueError:
        raise CannotClassify(f"the architecture of {annotator.name} has no sequence classifier") from None
    if _shapes(classifier.base_model) != _shapes(annotator.decoder):
        raise CannotClassify(f"the sequence classifier of {annotator.name}'s architecture is of another shape")
    setattr(classifier, classifier.base_model_prefix, _twin(annotator.decoder))
    return classifier


def _twin(decoder: Any) -> Any:
    """A copy of the modules with the same parameters and buffers and without hooks, which are the annotator's taps."""
    tensors = [*decoder.parameters(), *decoder.buffers()]
    twin = copy.deepcopy(decoder, {id(tensor): tensor for tensor in tensors})
    for module in twin.modules():
        module._forward_hooks.clear()
        module._forward_pre_hooks.clear()
    twin.config._attn_implementation = "sdpa"
    return twin


def _give_substance(model: nn.Module, device: torch.device) -> None:
    """Float32 memory for what is to be trained: peft would take the dtype of the weights beside it."""
    for module in model.modules():
        for name, weight in module._parameters.items():
            if weight is not None and weight.requires_grad:
                module._parameters[name] = nn.Parameter(torch.zeros(weight.shape, dtype=torch.float32, device=device))


def _shapes(module: nn.Module) -> dict[str, torch.Size]:
    return {name: tensor.shape for name, tensor in module.state_dict().items()}


def _begun(name: str, part: Tensor, spread: float, source: torch.Generator) -> Tensor:
    """What a layer begins with: Kaiming's for what LoRA reads by, zero for what it writes by, little for the labels."""
    begun = torch.zeros(part.shape)
    if ".lora_A." in name:
        bound = 1 / math.sqrt(part.shape[1:].numel())
        return begun.uniform_(-bound, bound, generator=source)
    return begun if ".lora_B." in name else begun.normal_(0, spread, generator=source)
