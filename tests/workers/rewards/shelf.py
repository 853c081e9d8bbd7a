"""Reward models for tests: classifiers of random weights, put on the shelf as training puts them there."""

import hashlib
from pathlib import Path
from typing import Any

import torch
from transformers import LlamaConfig, LlamaForSequenceClassification

from app.rewards import CARD, RewardModels
from app.schemas.directions import Accuracy
from app.schemas.names import Ref
from app.schemas.rewards import HeldOut, RewardCard, RewardSettings, TrainedOn
from tests.conftest import tiny_tokenizer

EDGES = [-0.5, 0.0, 0.5]


def classifier(folder: Path, seed: int = 1, **shape: Any) -> Path:
    """A sequence classifier with one label and two blocks, as transformers stores it."""
    tokenizer = tiny_tokenizer()
    tokenizer.pad_token = "<|im_end|>"
    config = LlamaConfig(
        **{
            "vocab_size": len(tokenizer),
            "hidden_size": 48,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "max_position_embeddings": 192,
            "initializer_range": 0.1,
            "pad_token_id": 1,
            "num_labels": 1,
        }
        | shape
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        LlamaForSequenceClassification(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def held_out(**figures: Any) -> HeldOut:
    """Figures of a model that reads pairs."""
    accuracy = Accuracy(value=0.7, low=0.6, high=0.8, pairs=40, prompts=40)
    given = {"step": 5, "loss": 0.6, "accuracy": accuracy, "calibration_error": 0.02, "level_edges": EDGES}
    return HeldOut.model_validate(given | figures)


def put(models: RewardModels, folder: Path, name: str = "mine", **card: Any) -> RewardCard:
    """Put the classifier in a folder on the shelf."""
    files = {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if path.name != CARD}
    made = RewardCard(
        id=name,
        digest="",
        model="tiny-base",
        model_revision="sha256:base",
        template="sha256:template",
        training=RewardSettings(),
        data=TrainedOn(
            data="pairs.jsonl", digest="sha256:pairs", calibrated=True, pairs=8, held_out=4, refused={}, conflicts=0,
            mean_margin=1.0,
        ),
        steps=5,
        tokens=100,
        seconds=1.0,
        dtype="float32",
        before=None,
        after=held_out(),
        files=sorted(files),
        created="2026-01-01T00:00:00+00:00",
        version="0",
    ).model_copy(update=card)  # fmt: skip
    content = made.model_dump_json(exclude={"digest"}).encode() + b"".join(files[name] for name in sorted(files))
    made = made.model_copy(update={"digest": f"sha256:{hashlib.sha256(content).hexdigest()}"})
    models.publish(made.id, made.digest, files | {CARD: made.model_dump_json().encode()})
    return made


def ref_to(card: RewardCard) -> Ref:
    """What chunks and answers call a reward model."""
    return Ref(id=card.id, digest=card.digest)
