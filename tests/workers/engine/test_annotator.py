"""An annotator assembled of parts in memory."""

import pytest
import torch
from transformers import GPT2Config

from tests.conftest import DEPTH, WINDOW, tiny_annotator, tiny_tokenizer
from workers.engine.annotator import Annotator, assemble
from workers.engine.errors import ModelNotLoaded


def test_it_knows_its_shape_and_precision(annotator: Annotator) -> None:
    assert (annotator.depth, annotator.width, len(annotator.blocks)) == (DEPTH, 32, DEPTH)
    assert (annotator.device, annotator.dtype, annotator.dtype_name) == (torch.device("cpu"), torch.float32, "float32")


def test_each_layer_is_a_block_and_the_depth_is_the_final_norm(annotator: Annotator) -> None:
    model = annotator.model.model
    assert [annotator.module_at(layer) for layer in range(DEPTH)] == list(model.layers)
    assert annotator.module_at(DEPTH) is model.norm


def test_the_window_is_the_smaller_limit_of_model_and_tokenizer() -> None:
    tokenizer = tiny_tokenizer()
    assert tiny_annotator(tokenizer=tokenizer).template.window == WINDOW
    tokenizer.model_max_length = 100
    assert tiny_annotator(tokenizer=tokenizer).template.window == 100


def test_other_architectures_name_their_blocks_and_norm_differently() -> None:
    annotator = tiny_annotator(GPT2Config)
    assert annotator.depth == DEPTH
    assert annotator.module_at(DEPTH) is annotator.model.transformer.ln_f


def test_a_model_without_a_final_norm_is_refused() -> None:
    annotator = tiny_annotator()
    del annotator.decoder.norm
    with pytest.raises(ModelNotLoaded, match="no final norm found in LlamaModel"):
        assemble("headless", "sha256:headless", annotator.model, annotator.tokenizer).module_at(DEPTH)
