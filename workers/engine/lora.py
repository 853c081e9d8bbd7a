"""Low-rank adapters of annotators: what they add to the weights, their files, and the annotator with one of them.

Files are peft's own, JSON and safetensors, so that peft and whatever reads its format load them as well.
"""

import hashlib
import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import torch
from peft import LoraConfig, inject_adapter_in_model
from peft.tuners.lora import LoraLayer
from peft.utils.other import get_pattern_key
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn

from workers.engine.annotator import Annotator, changed
from workers.engine.errors import UnusableAdapter
from workers.engine.grafting import begun, give_substance, own, plant, twin

CONFIG, TENSORS = "adapter_config.json", "adapter_model.safetensors"

ALL_LINEAR = "all-linear"
"""Instead of names: every linear layer of the blocks."""

_PREFIX = "base_model.model."
_A, _B = ".lora_A.weight", ".lora_B.weight"


@dataclass(frozen=True)
class LowRank:
    """W + B A for the weights W of some modules.

    Attributes:
        factors: by name of the module in the annotator's model: A [r, in] and B [out, r], float32 on the CPU.
    """

    factors: Mapping[str, tuple[Tensor, Tensor]]

    @cached_property
    def digest(self) -> str:
        """`sha256:` digest of its numbers and where they go."""
        content = hashlib.sha256()
        for name in sorted(self.factors):
            for part in self.factors[name]:
                content.update(f"{name} {tuple(part.shape)}".encode())
                content.update(part.contiguous().numpy().tobytes())
        return "sha256:" + content.hexdigest()

    @property
    def ranks(self) -> dict[str, int]:
        """R of every module."""
        return {name: len(a) for name, (a, _) in self.factors.items()}


def joined(first: LowRank, second: LowRank) -> LowRank:
    """The adapter that adds what both add: factors side by side, ranks added."""
    factors = dict(first.factors)
    for name, (a, b) in second.factors.items():
        mine = factors.get(name)
        factors[name] = (a, b) if mine is None else (torch.cat([mine[0], a]), torch.cat([mine[1], b], dim=1))
    return LowRank(factors)


def to_files(adapter: LowRank, base: str) -> dict[str, bytes]:
    """Files of an adapter of the model called `base`, by name, as peft writes them."""
    ranks = adapter.ranks
    common = max(ranks.values())
    others = {name: rank for name, rank in ranks.items() if rank != common}
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base,
        "r": common,
        "lora_alpha": common,  # what alpha / r would add is in B already
        "lora_dropout": 0.0,
        "bias": "none",
        "target_modules": sorted(ranks),
        "rank_pattern": others,
        "alpha_pattern": others,
        "inference_mode": True,
    }
    tensors: dict[str, Tensor] = {}
    for name, (a, b) in adapter.factors.items():
        tensors |= {_PREFIX + name + _A: a.contiguous(), _PREFIX + name + _B: b.contiguous()}
    text = json.dumps(config, indent=1) + "\n"
    return {TENSORS: save(tensors, metadata={"format": "pt"}), CONFIG: text.encode()}


def from_files(name: str, files: Mapping[str, bytes]) -> LowRank:
    """Read a low-rank adapter.

    Args:
        name: what to call it in errors.
        files: peft's, by name.

    Raises:
        UnusableAdapter: one is missing or damaged, or the adapter does more than add B A to weights.
    """
    try:
        config, tensors = _Config.model_validate_json(files[CONFIG]), load(files[TENSORS])
    except ValidationError as error:
        first = error.errors()[0]
        raise UnusableAdapter(f"{name}: {CONFIG}: {'.'.join(map(str, first['loc']))}: {first['msg']}") from None
    except (KeyError, SafetensorError, ValueError, TypeError, RuntimeError) as error:
        raise UnusableAdapter(f"{name}: unreadable adapter ({type(error).__name__})") from error
    factors = {}
    for key in sorted(tensors):
        module = key.removeprefix(_PREFIX).removesuffix(_A)
        if key.endswith(_A) and key.removesuffix(_A) + _B in tensors:
            a, b = tensors.pop(key).float(), tensors.pop(key.removesuffix(_A) + _B).float()
            factors[module] = (a, b * config.scale(module))
    if tensors or not factors or not all(_sound(a, b) for a, b in factors.values()):
        raise UnusableAdapter(f"{name}: its numbers are not pairs of finite low-rank factors")
    return LowRank(factors)


class _Config(BaseModel):
    """What of peft's settings says how much is added; of those that would add something else, that they do not."""

    model_config = ConfigDict(extra="ignore")

    peft_type: Literal["LORA"]
    r: int = Field(ge=1)
    lora_alpha: float
    rank_pattern: dict[str, int] = Field(default_factory=dict)
    alpha_pattern: dict[str, float] = Field(default_factory=dict)
    bias: Literal["none"] = "none"
    use_rslora: Literal[False] = False
    use_dora: Literal[False] = False
    fan_in_fan_out: Literal[False] = False
    lora_bias: Literal[False] = False
    modules_to_save: None = None
    layer_replication: None = None

    def scale(self, module: str) -> float:
        """Alpha / r of a module."""
        alpha = self.alpha_pattern.get(get_pattern_key(list(self.alpha_pattern), module), self.lora_alpha)
        return alpha / self.rank_pattern.get(get_pattern_key(list(self.rank_pattern), module), self.r)


def _sound(a: Tensor, b: Tensor) -> bool:
    return a.ndim == b.ndim == 2 and len(a) == b.shape[1] and bool(torch.isfinite(a).all() and torch.isfinite(b).all())


def adapted(annotator: Annotator, adapter: LowRank) -> Annotator:
    """The annotator as the adapter makes it; the weights are shared, and the annotator itself stays as it is.

    Its revision names both, so that nothing made for one is taken for something made for the other.

    Raises:
        UnusableAdapter: it does not have the shape of the annotator.
    """
    made = twin_of(annotator, f"{annotator.revision}+{adapter.digest}")
    add(made, adapter.ranks, "taught", adapter.factors)
    made.model.requires_grad_(False)
    return made


def twin_of(annotator: Annotator, revision: str) -> Annotator:
    """An annotator of the same weights whose modules are its own.

    Under autocast its residual stream is float32 from the embeddings on: what half a precision cuts off the sums of
    many layers is more than what an adapter adds to them.
    """
    model = twin(annotator.model)
    model.get_input_embeddings().register_forward_hook(_widened)
    return changed(annotator, model, revision)


def modules_of(annotator: Annotator, targets: Collection[str] | str, last_block: int) -> list[str]:
    """Names of the linear modules of the blocks up to `last_block` whose last parts are `targets`, or `ALL_LINEAR`.

    Raises:
        UnusableAdapter: there is none of some name.
    """
    blocks = {id(block): index for index, block in enumerate(annotator.blocks)}
    found = []
    for prefix, block in annotator.model.named_modules():
        if blocks.get(id(block), last_block + 1) > last_block:
            continue
        inside = [name for name, part in block.named_modules() if isinstance(part, nn.Linear | LoraLayer)]
        inside = [name for name in inside if not name.endswith(".base_layer") and ".lora_" not in name]
        found += [f"{prefix}.{name}" for name in inside if targets == ALL_LINEAR or name.rpartition(".")[2] in targets]
    names = {name.rpartition(".")[2] for name in found}
    missing = sorted({ALL_LINEAR} if targets == ALL_LINEAR and not found else set())
    missing += sorted(set(targets) - names) if targets != ALL_LINEAR else []
    if missing:
        raise UnusableAdapter(f"{annotator.name} has no linear layers called {', '.join(missing)}")
    return found


def add(
    annotator: Annotator,
    ranks: Mapping[str, int],
    name: str,
    begin: Mapping[str, tuple[Tensor, Tensor]] | torch.Generator,
    scale: float = 1.0,
) -> dict[str, nn.Parameter]:
    """Put an adapter beside those that a twin has already; all of them are added up.

    Args:
        annotator: a twin.
        ranks: of each module.
        name: what peft is to call it; no dot.
        begin: its numbers; or where they are drawn from, so that they change nothing as yet.
        scale: what B A is multiplied by.

    Returns:
        Its parameters by their names in the model; they alone ask for gradients.

    Raises:
        UnusableAdapter: it does not have the shape of the annotator.
    """
    model: Any = annotator.model
    config = LoraConfig(
        lora_dropout=0.0,
        target_modules=list(ranks),
        rank_pattern=dict(ranks),
        alpha_pattern={module: scale * rank for module, rank in ranks.items()},
    )
    before = model.__dict__.pop("peft_config", {})  # peft warns of adapters that are there already
    try:
        with torch.device("meta"):
            inject_adapter_in_model(config, model, adapter_name=name)
    except ValueError as error:
        raise UnusableAdapter(f"the adapter does not fit {annotator.name}") from error
    model.peft_config = before | model.peft_config
    give_substance(model, annotator.device)
    state = own(model, name)
    if isinstance(begin, torch.Generator):
        numbers = {key: begun(key, part, begin) for key, part in state.items()}
    else:
        numbers = _named(begin)
    if {key: part.shape for key, part in numbers.items()} != {key: part.shape for key, part in state.items()}:
        raise UnusableAdapter(f"the adapter does not have the shape of {annotator.name}")
    plant(model, numbers, name)
    for module in model.modules():
        if isinstance(module, LoraLayer):
            module.set_adapter(list(model.peft_config))
    model.requires_grad_(False)
    mine = {key: weight for key, weight in model.named_parameters() if f".{name}." in key and ".lora_" in key}
    return {key: weight.requires_grad_() for key, weight in mine.items()}


def taken(annotator: Annotator, name: str) -> LowRank:
    """The adapter that `add` put there under a name, with the numbers that it has now."""
    model: Any = annotator.model
    state = {key: part.detach().float().cpu().clone() for key, part in own(model, name).items()}
    layers = {key: layer for key, layer in model.named_modules() if isinstance(layer, LoraLayer)}
    scales = {key: layer.scaling[name] for key, layer in layers.items() if name in layer.scaling}
    return LowRank({module: (state[module + _A], state[module + _B] * scale) for module, scale in scales.items()})


def _named(factors: Mapping[str, Sequence[Tensor]]) -> dict[str, Tensor]:
    return {name + end: part for name, parts in factors.items() for end, part in zip((_A, _B), parts, strict=True)}


def _widened(_module: nn.Module, _inputs: Any, output: Tensor) -> Tensor:
    return output.float() if torch.is_autocast_enabled(output.device.type) else output
