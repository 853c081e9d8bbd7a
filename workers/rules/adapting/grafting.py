"""A sequence classifier on an annotator's weights; `workers.engine.grafting` says what it leaves alone."""

import copy
import warnings
from typing import Any

import torch
from peft import LoraConfig, TaskType, get_peft_model
from torch import Tensor, nn
from transformers import AutoModelForSequenceClassification

from workers.engine.annotator import Annotator
from workers.engine.grafting import begun, give_substance, own, plant, twin
from workers.rules.errors import CannotClassify

_SPREAD = 0.02


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
    give_substance(model, annotator.device)
    spread = float(getattr(annotator.model.config.get_text_config(), "initializer_range", None) or _SPREAD)
    plant(model, {name: _begun(name, part, spread, source) for name, part in own(model).items()})
    return model


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
    decoder = twin(annotator.decoder)
    decoder.config._attn_implementation = "sdpa"
    setattr(classifier, classifier.base_model_prefix, decoder)
    return classifier


def _shapes(module: nn.Module) -> dict[str, torch.Size]:
    return {name: tensor.shape for name, tensor in module.state_dict().items()}


def _begun(name: str, part: Tensor, spread: float, source: torch.Generator) -> Tensor:
    """What a layer begins with: an adapter as all do, the labels with little."""
    values = begun(name, part, source)
    return values if ".lora_" in name else values.normal_(0, spread, generator=source)
