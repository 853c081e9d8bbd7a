"""The loaded annotator: a causal language model whose activations are read, never its words."""

from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import nn
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils.logging import disable_progress_bar

from workers.engine import attention, taps
from workers.engine.errors import ModelNotLoaded
from workers.engine.template import ChatTemplate
from workers.engine.weights import locate

_DEFAULT_WINDOW = 4096
_BUDGETS = {"cpu": 512, "cuda": 16384}


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
        passes: forward passes that should run side by side.
    """

    name: str
    revision: str
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    template: ChatTemplate
    budget: int
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

    @property
    def dtype(self) -> torch.dtype:
        """Dtype of weights and activations."""
        dtype: torch.dtype = self.model.dtype
        return dtype

    @property
    def dtype_name(self) -> str:
        """Name of the dtype, such as `bfloat16`."""
        return str(self.dtype).removeprefix("torch.")

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
        device: `cpu`, `cuda`, `cuda:1`, … or `auto` for CUDA where there is one.
        dtype: `bfloat16`, `float32`, … or `auto` for bfloat16 where the device multiplies it natively.
        passes: how many forward passes run side by side on a CPU, as `process.set_up` says.

    Raises:
        ModelNotLoaded: it is not there or cannot be run.
    """
    disable_progress_bar()
    weights = locate(model, home)
    try:
        target = torch.device(("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device)
        precision = _native_dtype(target) if dtype == "auto" else _dtype(dtype)
        tokenizer = AutoTokenizer.from_pretrained(weights.path)
        loaded, report = AutoModelForCausalLM.from_pretrained(
            weights.path,
            dtype=precision,
            attn_implementation=attention.NAME,
            use_safetensors=True,
            output_loading_info=True,
        )
        loaded.to(target).eval().requires_grad_(False)
    except (OSError, ValueError, KeyError, RuntimeError, AssertionError, SafetensorError) as error:
        raise ModelNotLoaded(f"{model} cannot be loaded: {error}") from error
    if missing := report["missing_keys"]:
        raise ModelNotLoaded(f"{model} lacks {len(missing)} of its weights, {sorted(missing)[0]} among them")
    revision = weights.revision or str(getattr(loaded.config, "_commit_hash", None) or "unknown")
    return assemble(weights.name, revision, loaded, tokenizer, passes=passes if target.type == "cpu" else 1)


def assemble(
    name: str, revision: str, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, *, passes: int = 1
) -> Annotator:
    """An annotator of parts already in memory; the model must use `attention.NAME`."""
    limits = [getattr(model.config.get_text_config(), "max_position_embeddings", None), tokenizer.model_max_length]
    window = min((int(limit) for limit in limits if limit), default=_DEFAULT_WINDOW)
    budget = _BUDGETS.get(model.device.type, _BUDGETS["cpu"])
    return _tapped(Annotator(name, revision, model, tokenizer, ChatTemplate(tokenizer, window), budget, passes))


def changed(annotator: Annotator, model: PreTrainedModel, revision: str) -> Annotator:
    """The annotator with another model of the same architecture in its place, one without hooks."""
    return _tapped(replace(annotator, model=model, revision=revision))


def _tapped(annotator: Annotator) -> Annotator:
    for layer in range(annotator.depth):
        taps.install(layer, annotator.blocks[layer])
    if annotator.final_norm is not None:
        taps.install(annotator.depth, annotator.final_norm)
    return annotator


def _native_dtype(device: torch.device) -> torch.dtype:
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
