"""Rows as the service exports them, and a tiny model to train on them."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig

from app.datasets.exports import parquet_stream, schema, trainer_row
from app.schemas.annotate import Annotation, Raw, Tokens
from app.schemas.pairs import Message, Pair
from tests.conftest import DEFAULT_SYSTEM, tiny_tokenizer

MARGINS = [2.5, -1.25, 0.1, 0.0, 3.75, -0.5, 1.0, 0.3, -2.0, 0.85, 1.6, 0.05]
RESPONSES = ["Call a locksmith.", "Work the pins one by one.\n", "", "Grüß Gott 👋", " \u2028 <|im_end|>"]


def annotation(margin: float) -> Annotation:
    """An annotation that says this margin."""
    said = {"margin": margin, "probability": 0.5, "level": None, "label_conflict": margin < 0}
    tokens = Tokens(prompt=1, chosen=1, rejected=1)
    raw = Raw(margin=margin, chosen=margin, rejected=0)
    return Annotation.model_validate({**said, "id": "a", "raw": raw, "truncated": False, "tokens": tokens})


def pair(number: int) -> Pair:
    """A text or a conversation, with empty responses and odd ones."""
    turns = {"system": "Be brief.", "user": "My key broke.", "assistant": "Oh."}
    talk = [Message.model_validate({"role": role, "content": said}) for role, said in turns.items()]
    talk.append(Message(role="user", content=f"What now? ({number})"))
    prompt = talk if number % 2 else "How do I pick a lock?"
    chosen, rejected = (RESPONSES[(number + i) % len(RESPONSES)] for i in range(2))
    return Pair(prompt=prompt, chosen=chosen, rejected=rejected)


PAIRS = [pair(number) for number in range(len(MARGINS))]


def dialogue(pair: Pair, side: str) -> str:
    """The whole dialogue in the tiny model's template, as a trainer should see it."""
    turns = [*((turn.role, turn.content) for turn in pair.messages), ("assistant", getattr(pair, side))]
    start = "" if turns[0][0] == "system" else f"<|im_start|>system\n{DEFAULT_SYSTEM}<|im_end|>\n"
    return start + "".join(f"<|im_start|>{role}\n{content}<|im_end|>\n" for role, content in turns)


def exported() -> Iterator[dict[str, Any]]:
    """One row a pair."""
    for pair, margin in zip(PAIRS, MARGINS, strict=True):
        yield trainer_row(pair, annotation(margin))


@pytest.fixture(params=["jsonl", "parquet"])
def export(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """The rows as a file, as the service sends it."""
    path = tmp_path / f"rows.{request.param}"
    if request.param == "parquet":
        path.write_bytes(b"".join(parquet_stream(exported(), schema("trl"))))
    else:
        path.write_bytes(b"".join(orjson.dumps(row, option=orjson.OPT_APPEND_NEWLINE) for row in exported()))
    return path


@pytest.fixture(scope="session")
def language_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tiny Llama of random weights and its tokenizer."""
    folder = tmp_path_factory.mktemp("model")
    tokenizer = tiny_tokenizer()
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=1024,
        initializer_range=0.1,  # large enough that three steps show
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=None,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
