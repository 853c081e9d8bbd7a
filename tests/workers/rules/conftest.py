"""An annotator with room for instructions."""

from typing import Any

import pytest
from transformers import LlamaConfig

from tests.conftest import tiny_annotator
from workers.engine.annotator import Annotator


def roomy_annotator(family: Any = LlamaConfig, window: int = 2048) -> Annotator:
    """A tiny annotator of random weights whose window holds an instruction in characters."""
    return tiny_annotator(family, max_position_embeddings=window)


@pytest.fixture(scope="session")
def roomy() -> Annotator:
    return roomy_annotator()
