"""Reward models: sequence classifiers with one output, which reads the end of a dialogue in its own chat template.

What is trained here and what anybody else trained are one and the same: `transformers` loads both.
"""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from jinja2 import TemplateError
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers import AutoModelForSequenceClassification, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import logging

from app.schemas.pairs import Message
from workers.engine.annotator import native_dtype, target_device
from workers.engine.errors import ModelNotLoaded, TemplateRefused, TooLong
from workers.engine.memory import Budget, within_memory
from workers.engine.process import side_by_side
from workers.engine.weights import Weights, locate
from workers.rewards.errors import UnusableModel

_BUDGETS = {"cpu": 2048, "cuda": 32768}
_WINDOW = 4096
_HEADS = ("score", "classifier")

Tokens = Sequence[int]


class FullHead(nn.Linear):
    """A linear layer that computes in float32 whatever the precision around it: rewards are small differences."""

    def forward(self, hidden: Tensor) -> Tensor:
        """As of `nn.Linear`."""
        with torch.autocast(hidden.device.type, enabled=False):
            return nn.functional.linear(hidden.float(), self.weight.float(), self.bias)


@dataclass(frozen=True)
class RewardModel:
    """A reward model that is loaded.

    Attributes:
        name: as reports call it.
        revision: which weights exactly.
        model: the classifier.
        tokenizer: its tokenizer, with a chat template.
        window: tokens of a dialogue at most.
        budget: tokens of a pass.
        passes: how many are made side by side, on a thread each; of one, the caller makes it.
    """

    name: str
    revision: str
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    window: int
    budget: Budget
    passes: int = 1

    @property
    def template(self) -> str:
        """`sha256:` digest of its chat template."""
        return "sha256:" + hashlib.sha256(str(self.tokenizer.chat_template).encode()).hexdigest()

    def encode(self, messages: Sequence[Message], response: str) -> list[int]:
        """A dialogue as tokens, in the plain chat template as whoever loads the model would apply it.

        Raises:
            TemplateRefused: the template does not take these roles.
            TooLong: it does not fit the window.
        """
        turns = [message.model_dump() for message in messages] + [{"role": "assistant", "content": response}]
        try:
            tokens: list[int] = self.tokenizer.apply_chat_template(turns, tokenize=True, return_dict=False)
        except (TemplateError, ValueError, TypeError, KeyError) as error:
            raise TemplateRefused(f"its chat template does not take these roles ({type(error).__name__})") from None
        if len(tokens) > self.window:
            raise TooLong(f"{len(tokens)} tokens are more than {self.window}", tokens=len(tokens), window=self.window)
        return tokens

    def rewards(self, texts: Sequence[Tokens], progress: Callable[[int, int], None] = lambda _n, _of: None) -> Tensor:
        """[n] float64 rewards of n dialogues, on the CPU; a pass holds dialogues of about one length.

        Args:
            texts: `encode` made them.
            progress: told how many of how many are read; may raise to end it.

        Raises:
            UnusableModel: some are no finite numbers.
        """
        found, done = torch.zeros(len(texts), dtype=torch.double), 0
        batches = by_length(list(map(len, texts)), self.budget.tokens)

        def read(batch: list[int]) -> Tensor:
            some = [texts[place] for place in batch]
            return torch.cat(within_memory(self.budget, self._read, some, _size)).double()

        pool = side_by_side(self.passes) if self.passes > 1 else None
        try:
            for batch, rewards in zip(batches, pool.map(read, batches) if pool else map(read, batches), strict=True):
                found[batch] = rewards
                done += len(batch)
                progress(done, len(texts))
        finally:
            if pool is not None:
                pool.shutdown(cancel_futures=True)
        if not bool(torch.isfinite(found).all()):
            raise UnusableModel(f"{self.name} gives rewards that are no finite numbers")
        return found

    @torch.inference_mode()
    def _read(self, texts: Sequence[Tokens]) -> Tensor:
        inputs = padded(texts, int(self.tokenizer.pad_token_id))
        inputs = {name: part.to(self.model.device) for name, part in inputs.items()}
        logits: Tensor = self.model(**inputs, use_cache=False).logits
        return logits.float().squeeze(-1).cpu()


def by_length(lengths: Sequence[int], tokens: int) -> list[list[int]]:
    """Places of texts, the longest first, in batches that take at most so many tokens with their padding, or one text.

    The longest first: if memory does not suffice, that is known at once.
    """
    batches: list[list[int]] = []
    for place in sorted(range(len(lengths)), key=lambda place: -lengths[place]):
        if not batches or (len(batches[-1]) + 1) * lengths[batches[-1][0]] > tokens:
            batches.append([])
        batches[-1].append(place)
    return batches


def padded(texts: Sequence[Tokens], pad: int) -> dict[str, Tensor]:
    """`input_ids` and, where any is padded, `attention_mask` of some texts, padded on the right."""
    longest = max(map(len, texts))
    tokens, mask = torch.full((len(texts), longest), pad), torch.zeros(len(texts), longest, dtype=torch.long)
    for row, text in enumerate(texts):
        tokens[row, : len(text)] = torch.tensor(text)
        mask[row, : len(text)] = 1
    return {"input_ids": tokens} if bool(mask.all()) else {"input_ids": tokens, "attention_mask": mask}


def _size(texts: Sequence[Tokens]) -> int:
    return len(texts) * max(map(len, texts))


def load_reward_model(
    name: str, home: Path, *, device: str = "auto", dtype: str = "auto", passes: int = 1
) -> RewardModel:
    """Load a reward model for reading.

    Args:
        name: a folder, or a Hugging Face id.
        home: as of `weights.locate`.
        device: `cpu`, `cuda`, `cuda:1`, … or `auto`.
        dtype: of everything but the head: `bfloat16`, `float32`, … or `auto` for bfloat16 where the device multiplies
            it natively.
        passes: how many are made side by side on a CPU.

    Raises:
        ModelNotLoaded: it is not there or cannot be loaded.
        UnusableModel: it is no reward model.
    """
    target = target_device(device)
    precision = native_dtype(target) if dtype == "auto" else getattr(torch, dtype)
    weights = locate(name, home)
    model, tokenizer, missing = _loaded(weights, dtype=precision)
    if missing:
        raise UnusableModel(f"{name} is no reward model: it lacks {sorted(missing)[0]}; train one of it first")
    model.to(target).eval().requires_grad_(False)
    return replace(assemble(weights, model, tokenizer), passes=passes if target.type == "cpu" else 1)


def begun(name: str, home: Path, seed: int) -> RewardModel:
    """A reward model in float32 on the CPU to be trained: of a language model, with a head by lot, or a trained one.

    Raises:
        ModelNotLoaded: it is not there or cannot be loaded.
        UnusableModel: it has no chat template, or is a classifier of something else.
    """
    weights = locate(name, home)
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(seed)
        model, tokenizer, missing = _loaded(weights, dtype=torch.float32, num_labels=1)
    if others := sorted(part for part in missing if part.split(".")[0] not in _HEADS):
        raise ModelNotLoaded(f"{name} lacks {len(others)} of its weights, {others[0]} among them")
    return assemble(weights, model, tokenizer)


def assemble(weights: Weights, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> RewardModel:
    """A reward model of parts already in memory.

    Raises:
        UnusableModel: they do not make one.
    """
    if model.config.num_labels != 1:
        raise UnusableModel(f"{weights.name} is no reward model: it has {model.config.num_labels} labels, not one")
    if not tokenizer.chat_template:
        raise UnusableModel(f"{weights.name} has no chat template")
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    if tokenizer.pad_token_id is None:
        raise UnusableModel(f"{weights.name} has no token to pad with")
    model.config.get_text_config().pad_token_id = tokenizer.pad_token_id
    for head in _HEADS:
        if isinstance(old := getattr(model, head, None), nn.Linear):
            setattr(model, head, _full(old))
    limits = [getattr(model.config.get_text_config(), "max_position_embeddings", None), tokenizer.model_max_length]
    window = min((int(limit) for limit in limits if limit), default=_WINDOW)
    revision = weights.revision or str(getattr(model.config, "_commit_hash", None) or "unknown")
    return RewardModel(weights.name, revision, model, tokenizer, window, Budget(_BUDGETS.get(model.device.type, 2048)))


def _full(head: nn.Linear) -> FullHead:
    made = FullHead(head.in_features, head.out_features, head.bias is not None, device="meta")
    made.weight = nn.Parameter(head.weight.data.float(), requires_grad=head.weight.requires_grad)
    if head.bias is not None:
        made.bias = nn.Parameter(head.bias.data.float(), requires_grad=head.bias.requires_grad)
    return made


def _loaded(weights: Weights, **how: object) -> tuple[PreTrainedModel, PreTrainedTokenizerBase, set[str]]:
    """Classifier and tokenizer, and the weights that were not there."""
    try:
        with _quietly():
            tokenizer = AutoTokenizer.from_pretrained(weights.path)
            model, report = AutoModelForSequenceClassification.from_pretrained(
                weights.path, use_safetensors=True, output_loading_info=True, **how
            )
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        raise ModelNotLoaded(f"{weights.name} cannot be loaded: {error}") from error
    return model, tokenizer, set(report["missing_keys"])


@contextmanager
def _quietly() -> Iterator[None]:
    """Transformers prints a table of the weights that a language model has and a classifier has not."""
    before = logging.get_verbosity()
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(before)
