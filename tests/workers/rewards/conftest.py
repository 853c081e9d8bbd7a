"""A tiny language model in a folder, and annotated pairs whose better response shows in its words."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig

from app.schemas.pairs import Pair
from app.schemas.rewards import RewardSettings
from tests.conftest import tiny_tokenizer
from workers.rewards.annotated import Annotated, AnnotatedFile
from workers.rewards.run import Training
from workers.rewards.trainer import Tell

WINDOW = 256


def tiny_language_model(folder: Path, **changes: Any) -> Path:
    """A Llama of random weights with two blocks, as transformers stores it."""
    tokenizer = tiny_tokenizer()
    shape: dict[str, Any] = {
        "vocab_size": len(tokenizer),
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": WINDOW,
        "initializer_range": 0.1,
        "bos_token_id": 0,
        "eos_token_id": 1,
        "pad_token_id": 1,
    }
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(LlamaConfig(**shape | changes))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_language_model(tmp_path_factory.mktemp("base") / "tiny")


def annotated(count: int = 24, prompts: int | None = None) -> list[Annotated]:
    """The chosen response is calm, the rejected one shouts; margins rise from -1 in steps of a quarter to 1.5."""
    return [
        Annotated(
            line=number + 1,
            pair=Pair(
                prompt=f"What of knife {number % (prompts or count)}?",
                chosen=f"oh well, keep it {number}",
                rejected=f"NO! THROW {number} AWAY!",
            ),
            margin=(number % 11) / 4 - 1,
            level=number % 4,
        )
        for number in range(count)
    ]


def training(
    base: Path,
    folder: Path,
    pairs: list[Annotated] | None = None,
    /,
    tell: Tell = lambda _stage, _done, _total, _loss: None,
    **settings: Any,
) -> Training:
    """A training of seconds."""
    chosen = {"epochs": 2, "batch": 4, "learning_rate": 1e-3, "held_out": 0.25, "checkpoint": 3} | settings
    file = AnnotatedFile("pairs.jsonl", annotated() if pairs is None else pairs)
    how = RewardSettings.model_validate(chosen)
    return Training("first", str(base), file, how, folder, folder.parent / "home", device="cpu", tell=tell)
