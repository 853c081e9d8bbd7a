"""Classifiers on an annotator's weights: nothing is copied, and nobody else in the process notices."""

import copy
from typing import Any

import pytest
import torch
from transformers import AutoModelForSequenceClassification, LlamaConfig, Qwen2Config

from tests.workers.rules.adapting.conftest import telling_pairs
from tests.workers.rules.conftest import roomy_annotator
from workers.engine.annotator import Annotator
from workers.engine.grafting import drop_by, own, plant
from workers.rules.adapting.classifier import Classifier
from workers.rules.adapting.grafting import graft
from workers.rules.errors import CannotClassify

PAIRS = telling_pairs(8)


def grafted(annotator: Annotator, seed: int = 0) -> Any:
    return graft(annotator, 3, 4, torch.Generator().manual_seed(seed)).eval()


def apart(annotator: Annotator, labels: torch.Tensor) -> Any:
    """The same classifier made the plain way: a model of its own with copies of the weights."""
    config = copy.deepcopy(annotator.model.config)
    config.num_labels, config.pad_token_id = len(labels), annotator.template.end_of_turn
    made = AutoModelForSequenceClassification.from_config(config, attn_implementation="sdpa").to(annotator.dtype)
    made.base_model.load_state_dict(annotator.decoder.state_dict())
    made.score.weight.data = labels
    return made.eval()


@pytest.mark.parametrize("family", [LlamaConfig, Qwen2Config])
def test_it_reads_as_a_model_of_its_own_would(family: Any) -> None:
    annotator = roomy_annotator(family)
    model = grafted(annotator)
    labels = next(part for name, part in own(model).items() if "score" in name)
    tokens = torch.tensor([[5, 9, 7, 30, 12], [8, 6, 1, 1, 1]])
    mask = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 0, 0, 0]])
    reference = apart(annotator, labels)
    with torch.inference_mode():
        found, expected = (one(input_ids=tokens, attention_mask=mask).logits for one in (model, reference))
    assert torch.equal(found, expected)


def test_every_weight_and_buffer_of_the_annotator_is_lent() -> None:
    annotator = roomy_annotator()
    model = grafted(annotator)
    lent = {tensor.data_ptr() for tensor in [*annotator.decoder.parameters(), *annotator.decoder.buffers()]}
    base = [*model.named_parameters(), *model.named_buffers()]
    base = [(name, tensor) for name, tensor in base if "lora_" not in name and "score" not in name]
    assert {tensor.data_ptr() for _, tensor in base} == lent
    assert not any(tensor.is_meta for _, tensor in base)
    assert {id(module) for module in model.modules()}.isdisjoint(map(id, annotator.model.modules()))


def test_the_classifier_has_no_taps_and_the_annotator_keeps_its_own(roomy: Annotator) -> None:
    assert not any(module._forward_hooks for module in grafted(roomy).modules())
    assert all(block._forward_hooks for block in roomy.blocks)


def test_the_default_dtype_is_never_touched(monkeypatch: pytest.MonkeyPatch) -> None:
    half = roomy_annotator()
    half.model.to(torch.bfloat16)
    half.model.config.dtype = torch.bfloat16
    monkeypatch.setattr(torch, "set_default_dtype", lambda dtype: pytest.fail(f"set to {dtype}"))
    model = grafted(half)
    assert {part.dtype for part in own(model).values()} == {torch.float32}
    assert {weight.dtype for weight in model.base_model.model.base_model.embed_tokens.parameters()} == {torch.bfloat16}


def test_how_modules_register_parameters_is_never_touched(roomy: Annotator, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_arguments: object, **_options: object) -> None:
        pytest.fail("the registration of parameters was changed for all threads")

    monkeypatch.setattr("accelerate.big_modeling.init_on_device", refuse)
    grafted(roomy)


def test_making_loading_and_training_draw_no_number_from_the_generator_of_all(roomy: Annotator) -> None:
    before = torch.get_rng_state()
    classifier = Classifier(roomy, 3, 4)
    classifier.load(classifier.tensors)
    drop_by(classifier._model, torch.Generator().manual_seed(0), 0.05)
    classifier._model.train()
    classifier.logits([classifier.encode(PAIRS[0])[0]])
    assert torch.equal(torch.get_rng_state(), before)


def test_the_seed_says_what_it_begins_with_and_that_changes_nothing_of_the_annotator(roomy: Annotator) -> None:
    first, again, other = (own(grafted(roomy, seed)) for seed in (0, 0, 1))
    assert all(torch.equal(first[name], part) for name, part in again.items())
    assert not all(torch.equal(first[name], part) for name, part in other.items())
    assert all(part.abs().max() == 0 for name, part in first.items() if ".lora_B." in name)


def test_planted_numbers_are_copies(roomy: Annotator) -> None:
    model = grafted(roomy)
    numbers = {name: torch.ones_like(part) for name, part in own(model).items()}
    plant(model, numbers)
    for part in numbers.values():
        part.zero_()
    assert all((part == 1).all() for part in own(model).values())


def test_an_architecture_without_a_classifier_is_refused(roomy: Annotator, monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(*_arguments: object, **_options: object) -> None:
        raise ValueError("Unrecognized configuration class")

    monkeypatch.setattr("transformers.AutoModelForSequenceClassification.from_config", unknown)
    with pytest.raises(CannotClassify, match="the architecture of tiny has no sequence classifier"):
        grafted(roomy)


def test_a_classifier_of_another_shape_is_refused(roomy: Annotator, monkeypatch: pytest.MonkeyPatch) -> None:
    other = AutoModelForSequenceClassification.from_config(roomy_annotator(Qwen2Config).model.config)
    monkeypatch.setattr(
        "transformers.AutoModelForSequenceClassification.from_config", lambda *_arguments, **_options: other
    )
    with pytest.raises(CannotClassify, match="the sequence classifier of tiny's architecture is of another shape"):
        grafted(roomy)
