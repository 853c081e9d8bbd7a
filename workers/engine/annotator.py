"""The loaded annotator: a causal language model whose activations are read, never its words."""

from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from accelerate.hooks import remove_hook_from_module
from safetensors import SafetensorError
from torch import nn
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils.logging import disable_progress_bar

from workers.engine import attention, taps
from workers.engine.errors import ModelNotLoaded
from workers.engine.memory import Budget
from workers.engine.reordered import reorder
from workers.engine.template import ChatTemplate
from workers.engine.weights import locate

_DEFAULT_WINDOW = 4096
_BUDGETS = {"cpu": 1024, "cuda": 16384}
_BALANCED = "balanced"


@dataclass(frozen=True)
class Annotator:
    """A causal language model ready to be read.

    Attributes:
        name: the model as answers call it.
        revision: which weights exactly.
        model: the model with its vocabulary head, which only generation uses.
        tokenizer: its tokenizer.
        template: its chat template.
        budget: tokens that one forward pass should hold.
        passes: threads that should make forward passes: one for each that runs, and on CUDA one that prepares the next.
    """

    name: str
    revision: str
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    template: ChatTemplate
    budget: Budget
    passes: int = 1

    @cached_property
    def decoder(self) -> Any:
        """The transformer without its vocabulary head."""
        return self.model.base_model

    @cached_property
    def blocks(self) -> nn.ModuleList:
        """The decoder's blocks, first to last."""
        count = self.model.config.get_text_config().num_hidden_layers
        for module in self.decoder.modules():
            if isinstance(module, nn.ModuleList) and len(module) == count:
                return module
        raise ModelNotLoaded(f"no list of {count} blocks in {type(self.decoder).__name__}")

    @property
    def depth(self) -> int:
        """Number of blocks."""
        return len(self.blocks)

    @property
    def width(self) -> int:
        """Size d of the residual stream."""
        return int(self.model.config.get_text_config().hidden_size)

    @property
    def device(self) -> torch.device:
        """Where tokens go in."""
        return torch.device(self.model.device)

    @cached_property
    def devices(self) -> tuple[torch.device, ...]:
        """Where the blocks are and, last, where their output is: several where it is spread over cards."""
        modules = [*self.blocks, self.final_norm or self.blocks[-1]]
        places = [next(module.parameters()).device for module in modules if any(True for _ in module.parameters())]
        return tuple(dict.fromkeys(reversed(places)))[::-1]

    @property
    def dtype(self) -> torch.dtype:
        """Dtype of weights and activations."""
        dtype: torch.dtype = self.model.dtype
        return dtype

    @property
    def dtype_name(self) -> str:
        """Name of the dtype, such as `bfloat16`."""
        return str(self.dtype).removeprefix("torch.")

    @cached_property
    def numbered(self) -> bool:
        """Whether the modules of each block know it by its place among the blocks, as transformers numbers them."""
        return all(
            getattr(module, "layer_idx", place) == place
            for place, block in enumerate(self.blocks)
            for module in block.modules()
        )

    def module_at(self, layer: int) -> nn.Module:
        """The module whose output is the residual stream after block `layer`; `depth` means the final norm."""
        if layer < self.depth:
            return self.blocks[layer]
        if self.final_norm is None:
            raise ModelNotLoaded(f"no final norm found in {type(self.decoder).__name__}")
        return self.final_norm

    @cached_property
    def final_norm(self) -> nn.Module | None:
        """The norm after the last block, where its name is one of the usual ones."""
        for name in ("norm", "final_layernorm", "ln_f", "final_layer_norm"):
            if isinstance(found := getattr(self.decoder, name, None), nn.Module):
                return found
        return None


def load_annotator(model: str, home: Path, *, device: str = "auto", dtype: str = "auto", passes: int = 1) -> Annotator:
    """Load an annotator for reading.

    Args:
        model: what `weights.locate` accepts.
        home: where conversions are cached.
        device: `cpu`, `cuda`, `cuda:1`, …, `auto` for CUDA where there is one, or `balanced` for all CUDA devices
            together, where one is too small.
        dtype: `bfloat16`, `float32`, … or `auto` for bfloat16 where the device multiplies it natively.
        passes: how many forward passes run side by side on a CPU, as `process.set_up` says.

    Raises:
        ModelNotLoaded: it is not there or cannot be run.
    """
    disable_progress_bar()
    weights = locate(model, home)
    try:
        target = target_device(device)
        precision = native_dtype(target) if dtype == "auto" else _dtype(dtype)
        tokenizer = AutoTokenizer.from_pretrained(weights.path)
        loaded, report = AutoModelForCausalLM.from_pretrained(
            weights.path,
            dtype=precision,
            attn_implementation=attention.NAME,
            use_safetensors=True,
            output_loading_info=True,
            device_map=_BALANCED if device == _BALANCED else None,
        )
        if device == _BALANCED:
            _check_spread(loaded)
        else:
            loaded.to(target)
        loaded.eval().requires_grad_(False)
    except (OSError, ValueError, KeyError, RuntimeError, AssertionError, SafetensorError) as error:
        raise ModelNotLoaded(f"{model} cannot be loaded: {error}") from error
    if missing := report["missing_keys"]:
        raise ModelNotLoaded(f"{model} lacks {len(missing)} of its weights, {sorted(missing)[0]} among them")
    revision = weights.revision or str(getattr(loaded.config, "_commit_hash", None) or "unknown")
    if target.type != "cpu":
        passes = 1 + len({parameter.device for parameter in loaded.parameters()}) if target.type == "cuda" else 1
    return assemble(weights.name, revision, loaded, tokenizer, passes=passes)


def assemble(
    name: str, revision: str, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, *, passes: int = 1
) -> Annotator:
    """An annotator of parts already in memory; the model must use `attention.NAME`."""
    limits = [getattr(model.config.get_text_config(), "max_position_embeddings", None), tokenizer.model_max_length]
    window = min((int(limit) for limit in limits if limit), default=_DEFAULT_WINDOW)
    budget = Budget(_BUDGETS.get(model.device.type, _BUDGETS["cpu"]))
    annotator = _tapped(Annotator(name, revision, model, tokenizer, ChatTemplate(tokenizer, window), budget, passes))
    if annotator.device.type == "cpu" and annotator.dtype == torch.bfloat16:
        reorder(annotator.blocks)
    return annotator


def changed(annotator: Annotator, model: PreTrainedModel, revision: str) -> Annotator:
    """The annotator with another model of the same architecture in its place, one without hooks."""
    return _tapped(replace(annotator, model=model, revision=revision))


def _tapped(annotator: Annotator) -> Annotator:
    for layer in range(annotator.depth):
        taps.install(layer, annotator.blocks[layer])
    if annotator.final_norm is not None:
        taps.install(annotator.depth, annotator.final_norm)
    return annotator


def target_device(device: str) -> torch.device:
    """Where tokens go in; `device` is as of `load_annotator`.

    Raises:
        ValueError: several cards are asked for where there is none.
    """
    if device == _BALANCED and not torch.cuda.is_available():
        raise ValueError("there is no CUDA device to balance it over")
    if device in ("auto", _BALANCED):
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return torch.device(device)


def _check_spread(model: PreTrainedModel) -> None:
    """Take a model that accelerate spread over cards as it is.

    Raises:
        ValueError: not all of it is on a card.
    """
    if outside := {str(place) for place in getattr(model, "hf_device_map", {}).values()} & {"cpu", "disk"}:
        raise ValueError(f"the CUDA devices together are too small for it: a part would be on {outside.pop()}")
    # The outermost hook would carry all that is given to a pass to one card, whichever it is for.
    remove_hook_from_module(model)


def native_dtype(device: torch.device) -> torch.dtype:
    """The fastest dtype that a device multiplies natively and that suffices: of CPUs without bfloat16, float32."""
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16
    capabilities = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    fast = capabilities.get("avx512_bf16") or capabilities.get("amx_bf16") or capabilities.get("bf16")
    return torch.bfloat16 if fast else torch.float32


def _dtype(name: str) -> torch.dtype:
    found = getattr(torch, name, None)
    if not isinstance(found, torch.dtype):
        raise ModelNotLoaded(f"{name} is no dtype")
    return found
