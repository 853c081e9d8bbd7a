"""Pairs whose preference shows in their first words, and settings for tiny models."""

from typing import Any

import pytest

from app.schemas.alignment import AlignmentMethod, AlignmentSettings, LoraSettings
from app.schemas.pairs import Pair
from tests.workers.rules.conftest import roomy_annotator
from workers.alignment.settings import load
from workers.engine.annotator import Annotator

LORA = LoraSettings(rank=4, alpha=8, dropout=0.05, targets=["q_proj", "v_proj"])


def pairs(count: int = 12) -> list[Pair]:
    """The chosen response is calm, the rejected one shouts."""
    things = ("knife", "cake", "car", "dog", "roof")
    return [
        Pair(
            prompt=f"What of my {things[number % 5]} {number}?",
            chosen=f"oh well, keep it {number}",
            rejected=f"NO!!! THROW IT AWAY {number}!!!",
        )
        for number in range(count)
    ]


def settings(method: AlignmentMethod = "rahf-scit", /, **changes: Any) -> AlignmentSettings:
    """Of a run of seconds; changes by their path, dots written as two underscores."""
    tiny: dict[str, Any] = {
        "instruct.epochs": 2,
        "instruct.batch": 8,
        "instruct.checkpoint": 2,
        "instruct.learning_rate": 0.01,
        "instruct.lora": LORA.model_dump(),
        "collect.shard": 64,
        "collect.budget": 256,
        "align.steps": 6,
        "align.batch": 3,
        "align.checkpoint": 2,
        "align.learning_rate": 0.01,
        "align.lora": LORA.model_dump(),
    }
    return load(method, "small", tiny | {path.replace("__", "."): value for path, value in changes.items()})


@pytest.fixture(scope="session")
def pupil() -> Annotator:
    """A tiny annotator in fp32 with room for instructions."""
    return roomy_annotator(window=2048)
