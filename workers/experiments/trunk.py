"""Reward models of which only the last blocks are trained: what those below make of a dialogue is computed once.

A dialogue's "tokens" are then rows of a table of residual streams, which takes the place of the embedding. Training and
reading go as ever, through the blocks that are left.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from app.schemas.pairs import Message
from workers.rewards.errors import UnusableModel
from workers.rewards.model import RewardModel, Tokens, by_length, padded

_TABLE = "table"
_CLOSE = 0.1


@dataclass(frozen=True)
class StoredModel(RewardModel):
    """A reward model that reads rows of a table.

    Attributes:
        starts: of every dialogue that is stored, by its tokens: its first row.
    """

    starts: dict[tuple[int, ...], int] | None = None

    def encode(self, messages: Sequence[Message], response: str) -> list[int]:
        """As of `RewardModel`, of a dialogue that is stored."""
        tokens = super().encode(messages, response)
        start = (self.starts or {})[tuple(tokens)]
        return list(range(start, start + len(tokens)))


class _Table(nn.Module):
    """Rows of a table in place of an embedding."""

    def __init__(self, rows: Tensor) -> None:
        super().__init__()
        self._rows = rows

    def forward(self, places: Tensor) -> Tensor:
        return self._rows[places.cpu()].to(places.device).float()


def shorten(model: RewardModel, blocks: int) -> None:
    """Leave a reward model its first blocks alone.

    Raises:
        UnusableModel: it has fewer, or its blocks are not found.
    """
    inner = _inner(model)
    if blocks > len(inner.layers):
        raise UnusableModel(f"{model.name} has {len(inner.layers)} blocks, not {blocks}")
    inner.layers = inner.layers[:blocks]
    inner.config.num_hidden_layers = blocks


def store(
    model: RewardModel, texts: Sequence[Tokens], trained: int, path: Path, progress: Callable[[int, int], None]
) -> None:
    """Write what all blocks but the last few make of dialogues.

    Args:
        model: with all its blocks.
        texts: the dialogues.
        trained: how many of the last blocks to leave out.
        path: of the file.
        progress: told how many of how many dialogues are read.

    Raises:
        UnusableModel: it has no more blocks than that, or its blocks are not found.
    """
    inner = _inner(model)
    if trained >= len(inner.layers):
        raise UnusableModel(f"{model.name} has {len(inner.layers)} blocks; only fewer can be trained alone")
    whole, norm = inner.layers, inner.norm
    inner.layers, inner.norm = whole[: len(whole) - trained], nn.Identity()
    distinct = list(dict.fromkeys(map(tuple, texts)))
    starts, end = _starts(distinct, model)
    table = torch.zeros(end, inner.config.hidden_size, dtype=torch.bfloat16)
    done = 0
    with torch.inference_mode():
        for batch in by_length(list(map(len, distinct)), model.budget.tokens):
            some = [distinct[place] for place in batch]
            inputs = {name: part.to(model.model.device) for name, part in padded(some, _pad(model)).items()}
            states = inner(**inputs, use_cache=False).last_hidden_state
            for text, state in zip(some, states, strict=True):
                table[starts[text] : starts[text] + len(text)] = state[: len(text)]
            done += len(batch)
            progress(done, len(distinct))
    inner.layers, inner.norm = whole, norm
    scratch = path.with_suffix(".part")
    save_file({_TABLE: table}, scratch)
    scratch.replace(path)


def stored(model: RewardModel, texts: Sequence[Tokens], trained: int, path: Path) -> StoredModel:
    """A reward model's last blocks, which read what `store` wrote of the same dialogues.

    Raises:
        UnusableModel: they do not read that as the whole model reads the dialogues.
    """
    distinct = list(dict.fromkeys(map(tuple, texts)))
    starts, end = _starts(distinct, model)
    table = load_file(path)[_TABLE]
    inner, probe = _inner(model), min(distinct, key=len)
    expected = float(model.rewards([probe])[0])
    inner.layers, inner.embed_tokens = inner.layers[len(inner.layers) - trained :], _Table(table)
    parts = {name: getattr(model, name) for name in RewardModel.__dataclass_fields__}
    made = StoredModel(**parts, starts=starts)
    found = float(made.rewards([list(range(starts[probe], starts[probe] + len(probe)))])[0])
    if len(table) != end or abs(found - expected) > _CLOSE * max(1.0, abs(expected)):
        raise UnusableModel(f"the last blocks of {model.name} cannot be trained by themselves")
    return made


def first_rows(texts: Sequence[Tokens], model: RewardModel) -> dict[tuple[int, ...], int]:
    """Of every dialogue that `store` was given, by its tokens: its first row."""
    return _starts(list(dict.fromkeys(map(tuple, texts))), model)[0]


def _starts(texts: Sequence[tuple[int, ...]], model: RewardModel) -> tuple[dict[tuple[int, ...], int], int]:
    """First row of every dialogue, behind the token that pads, and the number of rows."""
    first = _pad(model) + 1
    *places, end = accumulate(map(len, texts), initial=first)
    return dict(zip(texts, places, strict=True)), end


def _pad(model: RewardModel) -> int:
    return int(model.tokenizer.pad_token_id)


def _inner(model: RewardModel) -> Any:
    inner = model.model.base_model
    if not all(isinstance(getattr(inner, name, None), nn.Module) for name in ("layers", "norm", "embed_tokens")):
        raise UnusableModel(f"the blocks of {model.name} are not where those of most language models are")
    return inner
