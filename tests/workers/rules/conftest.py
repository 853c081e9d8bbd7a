"""An annotator with room for instructions."""

from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig

from tests.conftest import tiny_tokenizer
from workers.engine import attention
from workers.engine.annotator import Annotator, assemble


def roomy_annotator(family: Any = LlamaConfig, window: int = 2048) -> Annotator:
    """A tiny annotator of random weights whose window holds an instruction in characters."""
    tokenizer = tiny_tokenizer()
    config = family(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=window,
        initializer_range=0.1,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=None,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(config, attn_implementation=attention.NAME)
    return assemble("tiny", "sha256:tiny", model.eval().requires_grad_(False), tokenizer)


@pytest.fixture(scope="session")
def roomy() -> Annotator:
    return roomy_annotator()
